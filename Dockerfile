# init     the tool, no torch: fills a stage of another Dockerfile, or a volume in compose and Kubernetes
# lock     models.lock alone:  docker build --target lock --output . .
# builder  every model of models.toml, verified, in /out/models
# models   only the model directories: for COPY --from=, image volumes, registries
# serve    torch, sentence-transformers and the reference API, no models: they come from a volume
# runtime  serve and the models; those with a loader are loaded once, without network (the default)
# layered  the same with each layer of `models` as it is, for an image that `cache-models export` has written:
#          docker build --target layered --build-context models=oci-layout://models.oci .
#
# With --build-context models=… the models of another image take the place of those that are fetched.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Empty; --build-context wheels=DIR replaces it with a directory that has a wheel of torch.
FROM scratch AS wheels

FROM ${PYTHON_IMAGE} AS base

FROM base AS python
ENV PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    CACHE_MODELS_ROOT=/models \
    PATH=/opt/venv/bin:$PATH
WORKDIR /app
# A fresh volume that is mounted here inherits this owner, so it can be filled without root.
RUN install -d -o 10001 -g 10001 /models


# The packages of the tool; every wheel is verified by its hash.
FROM python AS tool-packages
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-deps --require-hashes -r /requirements.lock \
    && ln -s /app/cache_models.py /opt/venv/bin/cache-models

FROM python AS init
COPY --from=tool-packages /opt/venv /opt/venv
COPY --chmod=0755 cache_models.py ./
COPY modelcache modelcache
COPY models.toml models.loc[k] ./
RUN python -m compileall -q /app && install -d -o 10001 -g 10001 /wanted
USER 10001:10001
# Empty, for the models.toml of another Dockerfile or of a mount. Where there is none, the tool takes the one in /app.
WORKDIR /wanted
# Without the search of `cache-models` a start takes 2 ms less.
ENTRYPOINT ["/opt/venv/bin/python", "/app/cache_models.py"]
CMD ["sync"]


# The tool on the build platform, for images of every platform: models have no architecture, so no emulation is needed.
FROM --platform=$BUILDPLATFORM ${PYTHON_IMAGE} AS tool
ENV PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=requirements.lock,target=/requirements.lock \
    python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-deps --require-hashes -r /requirements.lock \
    && ln -s /app/cache_models.py /opt/venv/bin/cache-models
COPY --chmod=0755 cache_models.py ./
COPY modelcache modelcache

# The committed lock. If there is none, it is made here, so that all targets get the same one.
FROM tool AS pins
COPY models.toml models.loc[k] ./
ARG HF_ENDPOINT=
# A new value asks the Hub again. (So does --no-cache-filter, but stages that copy the lock keep the old one cached.)
ARG LOCKED_AT=
# The token is a file, because podman and older versions of Docker cannot mount a secret as a variable.
RUN --mount=type=secret,id=hf_token \
    [ -e models.lock ] || HF_TOKEN_PATH=/run/secrets/hf_token cache-models lock

# The lock for the models.toml of today: existing pins stay, except those of the models in CACHE_MODELS_UPGRADE.
FROM pins AS new-pins
ARG HF_ENDPOINT=
ARG LOCKED_AT=
ARG CACHE_MODELS_UPGRADE=
RUN --mount=type=secret,id=hf_token HF_TOKEN_PATH=/run/secrets/hf_token cache-models lock

FROM scratch AS lock
COPY --from=new-pins /app/models.lock /

# Images hold the models of the committed lock and no others.
FROM pins AS locker
RUN cache-models lock --check || { \
        code=$?; \
        echo "hint: With Docker alone, \`docker build --target lock --output . .\` writes models.lock." >&2; \
        exit $code; \
    }

FROM locker AS builder
ARG HF_ENDPOINT=
# The root is a cache mount, so a rebuild fetches only changed files. Fetching and publishing have to share one RUN.
RUN --mount=type=cache,id=cache-models,target=/cache,sharing=locked \
    --mount=type=bind,source=scripts/take-models,target=/take-models \
    --mount=type=secret,id=hf_token \
    HF_TOKEN_PATH=/run/secrets/hf_token sh /take-models

FROM scratch AS models
# The copied trees include /models itself: a directory that COPY creates implicitly gets the time of the build.
COPY --link --from=builder /out /


FROM python AS serve-packages
# strip (of binutils) removes 80 MB of symbols from torch.
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
# For a GPU: TORCH_VERSION=2.13.0+cu130 and TORCH_INDEX_URL=https://download.pytorch.org/whl/cu130
ARG TORCH_VERSION=2.13.0+cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements-serve.lock,target=/requirements.lock \
    --mount=type=bind,source=scripts/take-packages,target=/take-packages \
    --mount=type=bind,source=scripts/slim,target=/slim \
    sh /take-packages && sh /slim /opt/venv && ln -s /app/cache_models.py /opt/venv/bin/cache-models

FROM python AS serve
COPY --from=serve-packages /opt/venv /opt/venv
COPY --chmod=0755 cache_models.py ./
COPY modelcache modelcache
COPY scripts/serve.py scripts/serve_limits.py scripts/
RUN python -m compileall -q /app
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    HF_HUB_OFFLINE=1 \
    HF_HUB_CACHE=/models/hub \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_MODULES_CACHE=/tmp/hf_modules
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=1s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
# -P: nothing is imported from the working directory.
ENTRYPOINT ["python", "-P", "-m", "scripts.serve"]


# Every baked model with a loader is loaded with the libraries of the runtime image. If one does not load, no image is
# made.
FROM serve AS checked
COPY --from=locker /app/models.toml /app/models.lock ./
COPY models.golden.jso[n] ./
# 1: run a model's own code even where the kernel cannot confine it.
ARG CACHE_MODELS_UNCONFINED=
RUN --network=none --mount=type=bind,from=models,source=/models,target=/models \
    cache-models check --locked && cache-models status --json > /tmp/verdict.json

# An image that begins with the models keeps each of their layers. It has the files of `serve`, and its settings as far
# as they are not those of PYTHON_IMAGE alone.
FROM models AS layered
ARG LOCK_DIGEST=
LABEL org.opencontainers.image.title="cache-models runtime" \
      org.opencontainers.image.description="The reference API with its models" \
      io.github.cache-models.lock.sha256="${LOCK_DIGEST}"
# All of it is meant: this image does not begin with the base, so it has to copy it.
# hadolint ignore=DL3067
COPY --link --from=base / /
COPY --link --from=serve-packages /opt/venv /opt/venv
COPY --link --from=serve /app /app
COPY --from=checked /app/models.toml /app/models.lock /tmp/verdict.json /app/
ENV LANG=C.UTF-8 \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    HOME=/tmp \
    CACHE_MODELS_ROOT=/models \
    HF_HUB_OFFLINE=1 \
    HF_HUB_CACHE=/models/hub \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_MODULES_CACHE=/tmp/hf_modules
WORKDIR /app
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=1s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["python", "-P", "-m", "scripts.serve"]


FROM serve AS runtime
ARG LOCK_DIGEST=
LABEL org.opencontainers.image.title="cache-models runtime" \
      org.opencontainers.image.description="The reference API with its models" \
      io.github.cache-models.lock.sha256="${LOCK_DIGEST}"
COPY --link --from=models /models /models
# Copying the verdict makes the stage `checked` a part of this image, so BuildKit never skips it. Manifest and lock list
# the baked models: `sync --locked --from /models` copies them to a volume.
COPY --from=checked /app/models.toml /app/models.lock /tmp/verdict.json /app/
