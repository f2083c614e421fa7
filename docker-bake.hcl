# One layer per model: the models image and the runtime image share these layers. An unchanged model keeps its layer,
# even without the build cache and on another platform. scripts/bake sets MODELS to the tool's list of models.
#
#   scripts/bake [runtime] [models] [init] [serve]      other arguments go to `docker buildx bake`

variable "MODELS" { # the output of `cache-models status --json`
  default = ""
  validation {
    condition     = MODELS != ""
    error_message = "Run scripts/bake, which sets MODELS to the list of models."
  }
}
variable "LOCK_DIGEST" { default = "" } # SHA-256 of models.lock
variable "IMAGE" { default = "cache-models" }
variable "TAG" { default = "latest" }
variable "PLATFORMS" { default = "" } # of the models image, for example "linux/amd64,linux/arm64"
variable "PYTHON_IMAGE" { default = "python:3.11-slim-bookworm" }
variable "TORCH_VERSION" { default = "2.13.0+cpu" } # as in the Dockerfile; docs/containers.md has the one for a GPU
variable "TORCH_INDEX_URL" { default = "https://download.pytorch.org/whl/cpu" }
variable "WHEELS" { default = "" } # a directory with a wheel of torch
variable "HF_ENDPOINT" { default = "" }

# The value of --from= has to be a valid image name.
function "name" {
  params = [model]
  result = "${regex_replace(lower(folder(model)), "[^a-z0-9]+", "-")}-${substr(md5(folder(model)), 0, 6)}"
}

function "folder" {
  params = [model]
  result = "cached_${model.kind}_models.${replace(model.id, "/", "__")}"
}

group "default" {
  targets = ["runtime"]
}

target "_common" {
  args = {
    PYTHON_IMAGE    = PYTHON_IMAGE
    TORCH_VERSION   = TORCH_VERSION
    TORCH_INDEX_URL = TORCH_INDEX_URL
    HF_ENDPOINT     = HF_ENDPOINT
  }
  secret   = ["id=hf_token,env=HF_TOKEN"]
  attest   = ["type=provenance,disabled=true"]
}

target "list" {
  inherits = ["_common"]
  target   = "list"
}

target "init" {
  inherits = ["_common"]
  target   = "init"
  tags     = ["${IMAGE}-init:${TAG}"]
}

target "serve" {
  inherits = ["_common"]
  target   = "serve"
  contexts = WHEELS != "" ? { wheels = WHEELS } : {}
  tags     = ["${IMAGE}-serve:${TAG}"]
}

target "checked" {
  inherits = ["_common"]
  target   = "checked"
  contexts = merge({ models = "target:models" }, WHEELS != "" ? { wheels = WHEELS } : {})
}

target "model" {
  inherits  = ["_common"]
  matrix    = { model = jsondecode(MODELS) }
  name      = name(model)
  target    = "one"
  platforms = PLATFORMS != "" ? split(",", PLATFORMS) : []
  args      = { MODEL = folder(model) }
}

target "models" {
  contexts          = { for model in jsondecode(MODELS) : name(model) => "target:${name(model)}" }
  dockerfile-inline = join("\n", concat(["FROM scratch"], [for model in jsondecode(MODELS) : "COPY --link --from=${name(model)} / /"]))
  platforms         = PLATFORMS != "" ? split(",", PLATFORMS) : []
  tags              = ["${IMAGE}-models:${TAG}"]
  attest            = ["type=provenance,disabled=true"]
}

target "runtime" {
  contexts = merge(
    { serve = "target:serve", checked = "target:checked" },
    { for model in jsondecode(MODELS) : name(model) => "target:${name(model)}" }
  )
  dockerfile-inline = join("\n", concat(
    ["FROM serve", "LABEL io.github.cache-models.lock.sha256=\"${LOCK_DIGEST}\""],
    [for model in jsondecode(MODELS) : "COPY --link --from=${name(model)} / /"],
    ["COPY --from=checked /app/models.toml /app/models.lock /tmp/verdict.json /app/"]
  ))
  tags   = ["${IMAGE}:${TAG}"]
  attest = ["type=provenance,disabled=true"]
}
