"""Images of `cache-models push` in a real registry, taken by docker, podman and skopeo, and by `sync --from`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import files_below
from tests.containers.conftest import Images
from tests.containers.engine import Docker
from tests.containers.exported import GRAPH, IMAGE, MODELS, ONE, Clone
from tests.containers.older_store import older_store
from tests.containers.pods import Podman
from tests.containers.registries import PASSWORD, USER, RealRegistry, real_registry
from tests.containers.skopeo import copy, inspect
from tests.containers.test_exported_image import ASK
from tests.containers.test_images import HARDENED, running, wait_until_healthy
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

WELL = "3 models in {}: every byte as pinned."
FILLED = "3 models ready in {}: 3 fetched."
LAYERS = len(MODELS) + 1  # the weights of ONE have their own
APPLICATION = """
import hashlib, json, os, pathlib

hub = pathlib.Path(os.environ["HF_HUB_CACHE"])
found = {}
for ref in hub.glob("models--*/refs/main"):
    folder = ref.parents[1] / "snapshots" / ref.read_text()
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{ref.parents[1].name}/{path.relative_to(folder)}"
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
print(json.dumps(found))
"""
"""It has no library, and reads its models where a client of the Hub looks for them."""
DOCKERFILE = """
FROM python:3.11-slim-bookworm
ENV GREETING={name} HF_HUB_OFFLINE=0
LABEL org.example.name={name}
WORKDIR /srv
COPY application.py .
RUN echo {name} > name
USER 4711:4711
EXPOSE 9000
VOLUME /kept
STOPSIGNAL SIGINT
CMD ["python", "application.py"]
"""
OCI, DOCKER = "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"
ADDED = {"CACHE_MODELS_ROOT": "/models", "HF_HUB_CACHE": "/models/hub", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """The registry that images are pushed to."""
    with real_registry(tmp_path_factory.mktemp("here") / "registry") as started:
        yield started


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """Another registry."""
    with real_registry(tmp_path_factory.mktemp("elsewhere") / "registry") as started:
        yield started


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """One that wants a login."""
    with real_registry(tmp_path_factory.mktemp("closed") / "registry", login=True) as started:
        yield started


@pytest.fixture(scope="module")
def init(exported: Clone) -> str:
    """The tool in an image, with this manifest and lock."""
    exported.docker.build(exported.folder, "--target", "init", "--tag", f"{IMAGE}:init")
    return f"{IMAGE}:init"


@pytest.fixture(scope="module")
def pushed(exported: Clone, here: RealRegistry) -> str:
    """The models alone, pushed."""
    name = f"{here.address}/cache-models-test/models:v1"
    assert exported("push", name).out == f"{exported.layout.digest}\n"
    return name


@pytest.fixture(scope="module")
def application(exported: Clone, here: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An application as its owner builds and pushes it."""
    return pushed_application(exported.docker, here, "first", tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def with_models(exported: Clone, here: RealRegistry, application: str) -> str:
    """The same application with the models on top."""
    name = f"{here.address}/cache-models-test/first:models"
    exported("push", name, "--base", application)
    return name


def pushed_application(docker: Docker, registry: RealRegistry, name: str, folder: Path) -> str:
    """Build an application with its attestations, and push it."""
    (folder / "application.py").write_text(APPLICATION)
    (folder / "Dockerfile").write_text(DOCKERFILE.format(name=name))
    image = f"{registry.address}/cache-models-test/{name}:1"
    docker("build", "--provenance=mode=max", "--tag", image, str(folder))
    docker("push", image)
    return image


def raw(docker: Docker, image: str) -> dict[str, Any]:
    """A manifest or an index as the registry has it."""
    found: dict[str, Any] = json.loads(docker("buildx", "imagetools", "inspect", "--raw", image).stdout)
    return found


def manifests(docker: Docker, image: str) -> dict[str, dict[str, Any]]:
    """The manifest of each platform of an index, and of each attestation."""
    repository = image.rpartition(":")[0]
    return {
        "/".join(entry["platform"][key] for key in ("os", "architecture")): raw(
            docker, f"{repository}@{entry['digest']}"
        )
        for entry in raw(docker, image)["manifests"]
    }


def blobs(manifest: dict[str, Any]) -> list[str]:
    """The digests of its layers, the lowest first."""
    return [layer["digest"] for layer in manifest["layers"]]


def bytes_by_id(exported: Clone) -> dict[str, str]:
    """The SHA-256 of every file of the models, as `APPLICATION` prints them."""
    found = {}
    for ref in (exported.folder / "hub").glob("models--*/refs/main"):
        folder = ref.parents[1] / "snapshots" / ref.read_text()
        for path in folder.rglob("*"):
            if path.is_file():
                name = f"{ref.parents[1].name}/{path.relative_to(folder)}"
                found[name] = sha256(path.read_bytes()).hexdigest()
    assert len({name.partition("/")[0] for name in found}) == len(MODELS)
    return found


def pulled(docker: Docker, image: str, *words: str) -> str:
    """Pull an image that the engine does not have; return what is said."""
    docker("rmi", "--force", image, check=False)
    return docker("pull", *words, image).stdout


# The models alone


def test_docker_pulls_the_image_that_was_pushed(exported: Clone, pushed: str) -> None:
    """The digest that `push` has printed, which is that of `export`, and every layer as it is."""
    assert f"Digest: {exported.layout.digest}\n" in pulled(exported.docker, pushed)
    assert exported.docker.layers(pushed) == exported.layout.layers


def test_docker_fetches_a_layer_that_it_has_never_had(
    docker: Docker, public_hub: StandInHub, here: RealRegistry, tmp_path: Path
) -> None:
    """The layers of other tests may be in the store of the engine, or in the cache of its builds."""
    public_hub.add("export/fresh", {**GRAPH, "README.md": uuid4().bytes})
    fresh = Clone.make(docker, tmp_path / "clone")
    (fresh.folder / "models.toml").write_text('[[other]]\nid = "export/fresh"\n')
    fresh("sync")
    name = f"{here.address}/cache-models-test/fresh:v1"
    digest = fresh("push", name).out.strip()
    here.forget()
    assert f"Digest: {digest}\n" in docker("pull", name).stdout
    (layer,) = docker.layers(name)
    assert len(here.asked("GET", layer, 200)) == 1


def test_a_build_takes_it_by_its_name(exported: Clone, pushed: str, init: str, tmp_path: Path) -> None:
    """`FROM` keeps each layer; `COPY --from`, also of a build context, gives files that are as pinned."""
    docker = exported.docker
    contexts = [f"--build-context=models=docker-image://{pushed}", f"--build-context=init=docker-image://{init}"]
    for number, source in enumerate((pushed, "models")):
        (tmp_path / "Dockerfile").write_text(f"FROM init\nCOPY --from={source} /models /baked\n")
        docker("build", *contexts, "--tag", f"{IMAGE}:copied-{number}", str(tmp_path))
        run = ["run", "--rm", "--network", "none", *HARDENED, "--workdir", "/app", f"{IMAGE}:copied-{number}"]
        assert WELL.format("/baked") in docker(*run, "verify", "--root", "/baked").stderr
    (tmp_path / "Dockerfile").write_text("FROM models\n")
    docker("build", *contexts, "--tag", f"{IMAGE}:from", str(tmp_path))
    assert docker.layers(f"{IMAGE}:from") == exported.layout.layers


def test_podman_pulls_and_mounts_it(
    exported: Clone, podman: Podman, pushed: str, here: RealRegistry, init: str
) -> None:
    """The same digest, and every byte as pinned."""
    tool = f"{here.address}/cache-models-test/init:1"
    exported.docker("tag", init, tool)
    exported.docker("push", "--quiet", tool)
    for image in (pushed, tool):
        podman("pull", "--quiet", "--tls-verify=false", image)
    (found,) = json.loads(podman("image", "inspect", pushed).stdout)
    assert exported.layout.digest in {found["Digest"], *(name.partition("@")[2] for name in found["RepoDigests"])}
    mount = f"type=image,source={pushed},target=/baked,subpath=/models"
    ran = podman(
        "run", "--rm", "--network", "none", "--read-only", "--mount", mount, tool, "verify", "--root", "/baked"
    )
    assert WELL.format("/baked") in ran.stderr


def test_a_second_push_sends_nothing(exported: Clone, pushed: str, here: RealRegistry) -> None:
    """Not even the index: some registries let no tag be written twice. To another name the layers are mounted."""
    here.forget()
    assert exported("push", pushed).out == f"{exported.layout.digest}\n"
    assert {method: here.asked(method) for method in ("POST", "PUT", "PATCH")} == {"POST": [], "PUT": [], "PATCH": []}
    exported("push", f"{here.address}/cache-models-test/second-name:v1")
    assert len(here.asked("POST", "mount=", 201)) == LAYERS
    configs, sent = 2, here.asked("PUT", "/blobs/uploads/")  # of two platforms; documents are sent
    assert len(sent) == configs


def test_what_docker_pushes_again_fills_a_root(
    exported: Clone, here: RealRegistry, pushed: str, with_models: str, tmp_path: Path
) -> None:
    """Also an image that a build has made of one with models."""
    docker, again = exported.docker, f"{here.address}/cache-models-test/again:v1"
    (tmp_path / "Dockerfile").write_text(f"FROM {with_models}\nRUN echo built > /tmp/built\n")
    docker("build", "--tag", f"{IMAGE}:derived", str(tmp_path))
    for image in (pushed, with_models, f"{IMAGE}:derived"):
        if image.startswith(here.address):
            pulled(docker, image)
        docker("tag", image, again)
        docker("push", again)
        root = ["--root", str(tmp_path / "root")]
        assert "3 fetched." in exported("sync", "--locked", *root, "--from", f"docker://{again}").err
        shutil.rmtree(tmp_path / "root")


# On top of an application


def test_docker_runs_an_application_with_its_models(exported: Clone, with_models: str) -> None:
    """It is pulled, started as its owner has said, and finds each byte of the models by their ids."""
    docker = exported.docker
    pulled(docker, with_models)
    found = json.loads(docker("run", "--rm", "--network", "none", *HARDENED, with_models).stdout)
    assert found == bytes_by_id(exported)
    shown = docker("run", "--rm", "--network", "none", with_models, "sh", "-c", "pwd; id -u; echo $GREETING; cat name")
    assert shown.stdout.split() == ["/srv", "4711", "first", "first"]


def test_the_application_stays_as_it_was(exported: Clone, application: str, with_models: str) -> None:
    """Its layers keep their digests and their compression, its config gets three variables, its attestations go."""
    docker = exported.docker
    before, after = manifests(docker, application), manifests(docker, with_models)
    assert before.keys() == {"linux/amd64", "unknown/unknown"}
    assert after.keys() == {"linux/amd64"}
    old, new = before["linux/amd64"], after["linux/amd64"]
    assert blobs(new) == [*blobs(old), *exported.layout.layers]
    assert {layer["mediaType"].rpartition("+")[2] for layer in old["layers"]} == {"gzip"}
    for image in (application, with_models):
        pulled(docker, image)
    ours, theirs = (docker.inspect(image)["Config"] for image in (with_models, application))
    variables = [dict(line.split("=", 1) for line in config.pop("Env")) for config in (ours, theirs)]
    assert variables[0] == variables[1] | ADDED
    assert ours == theirs
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", with_models).stdout.splitlines()
    kept = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", application).stdout.splitlines()
    assert history[LAYERS:] == kept
    assert all(line.startswith("cache-models push: ") for line in history[:LAYERS])


def test_a_second_application_shares_the_layers_of_the_models(
    exported: Clone, here: RealRegistry, with_models: str, tmp_path: Path
) -> None:
    """Neither the registry nor an engine that has the first gets a layer of the models again."""
    docker = exported.docker
    base = pushed_application(docker, here, "second", tmp_path)
    name = f"{here.address}/cache-models-test/second:models"
    here.forget()
    exported("push", name, "--base", base)
    assert len(here.asked("POST", "mount=", 201)) == LAYERS
    pulled(docker, with_models)
    docker("rmi", "--force", name, check=False)
    here.forget()
    docker("pull", name)
    fetched = {one.path.rpartition("/")[2] for one in here.asked("GET", "/blobs/")}
    assert fetched.isdisjoint(exported.layout.layers)
    assert json.loads(docker("run", "--rm", "--network", "none", name).stdout) == bytes_by_id(exported)


def test_podman_runs_an_application_with_its_models(exported: Clone, podman: Podman, with_models: str) -> None:
    """As docker does."""
    podman("pull", "--quiet", "--tls-verify=false", with_models)
    ran = podman("run", "--rm", "--network", "none", "--read-only", with_models)
    assert json.loads(ran.stdout) == bytes_by_id(exported)


def test_an_image_for_several_platforms_gets_the_models_on_each(
    exported: Clone, here: RealRegistry, tmp_path: Path
) -> None:
    """And with --platform on those alone; each image has the layers of its own platform below."""
    docker, base = exported.docker, f"{here.address}/cache-models-test/many:1"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /architecture\n")
    for architecture in ("amd64", "arm64"):
        (tmp_path / architecture).write_text(architecture)
    docker("build", "--platform", "linux/amd64,linux/arm64", "--tag", base, "--push", str(tmp_path))
    name = f"{here.address}/cache-models-test/many:models"
    exported("push", name, "--base", base)
    before, after = manifests(docker, base), manifests(docker, name)
    assert list(after) == ["linux/amd64", "linux/arm64"]
    for platform, manifest in after.items():
        assert blobs(manifest) == [*blobs(before[platform]), *exported.layout.layers]
        pulled(docker, name, "--platform", platform)
        container = docker("create", "--platform", platform, name, "none").stdout.strip()
        docker("cp", f"{container}:/architecture", str(tmp_path / "copied"))
        docker("rm", container)
        assert (tmp_path / "copied").read_text() == platform.partition("/")[2]
    exported("push", name, "--base", base, "--platform", "linux/arm64")
    assert list(manifests(docker, name)) == ["linux/arm64"]


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_a_base_that_podman_has_built_runs_with_its_models(
    exported: Clone, podman: Podman, here: RealRegistry, application: str, tmp_path: Path, form: str
) -> None:
    """Its image has no index above it, in either of the two forms that podman writes."""
    base = f"{here.address}/cache-models-test/podman-{form}:1"
    (tmp_path / "Dockerfile").write_text(f"FROM {application}\nENV BUILDER=podman\nCOPY Dockerfile /srv/\n")
    podman("build", "--format", form, "--tls-verify=false", "--tag", base, tmp_path)
    podman("push", "--tls-verify=false", base)
    podman("rmi", "--force", base)
    assert "manifests" not in raw(exported.docker, base)
    name = f"{here.address}/cache-models-test/podman-{form}:models"
    exported("push", name, "--base", base)
    podman("pull", "--quiet", "--tls-verify=false", name)
    for engine in (podman, exported.docker):
        assert json.loads(engine("run", "--rm", "--network", "none", name).stdout) == bytes_by_id(exported)
    # Docker tells no config of an image whose layers it has unpacked before and did not fetch again.
    (found,) = json.loads(podman("image", "inspect", name).stdout)
    assert "BUILDER=podman" in found["Config"]["Env"]


def test_it_goes_through_an_archive_to_an_engine_with_the_older_store(
    exported: Clone, with_models: str, tmp_path: Path
) -> None:
    """`docker save` of compressed and plain layers, and `docker load`: it runs there, too."""
    pulled(exported.docker, with_models)
    saved = str(tmp_path / "saved.tar")
    exported.docker("save", "--output", saved, with_models)
    with older_store() as docker:
        docker("load", "--input", saved)
        assert docker.layers(with_models) == exported.docker.layers(with_models)
        assert json.loads(docker("run", "--rm", "--network", "none", with_models).stdout) == bytes_by_id(exported)


@pytest.mark.parametrize(
    ("output", "kinds"),
    [
        ("oci-mediatypes=true,compression=zstd,force-compression=true", {f"{OCI}+zstd"}),
        ("oci-mediatypes=false,compression=gzip,force-compression=true", {f"{DOCKER}.gzip"}),
        ("oci-mediatypes=true,compression=uncompressed,force-compression=true", {OCI}),
    ],
)
def test_a_base_with_layers_of_each_kind_runs_with_its_models(
    exported: Clone, here: RealRegistry, tmp_path: Path, output: str, kinds: set[str]
) -> None:
    """Every layer is the same blob; where Docker's own documents name it, the new ones are those of OCI."""
    docker, base = exported.docker, f"{here.address}/cache-models-test/kind:1"
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(name="kind"))
    docker("build", "--provenance=false", f"--output=type=image,name={base},push=true,{output}", str(tmp_path))
    old = raw(docker, base)
    assert {layer["mediaType"] for layer in old["layers"]} == kinds
    name = f"{here.address}/cache-models-test/kind:models"
    exported("push", name, "--base", base)
    new = manifests(docker, name)["linux/amd64"]
    assert blobs(new) == [*blobs(old), *exported.layout.layers]
    assert all(layer["mediaType"].startswith(OCI) for layer in new["layers"])
    pulled(docker, name)
    assert json.loads(docker("run", "--rm", "--network", "none", name).stdout) == bytes_by_id(exported)


def test_a_base_of_another_registry_is_brought_over(
    exported: Clone, here: RealRegistry, elsewhere: RealRegistry, tmp_path: Path
) -> None:
    """Its layers are copied byte for byte, once; the engine then needs this registry alone."""
    docker = exported.docker
    base = pushed_application(docker, elsewhere, "foreign", tmp_path)
    name = f"{here.address}/cache-models-test/foreign:models"
    exported("push", name, "--base", base)
    assert blobs(manifests(docker, name)["linux/amd64"])[:-LAYERS] == blobs(manifests(docker, base)["linux/amd64"])
    assert json.loads(docker("run", "--rm", "--network", "none", name).stdout) == bytes_by_id(exported)
    elsewhere.forget()
    exported("push", name, "--base", base)
    assert not elsewhere.asked("GET", "/blobs/sha256", 200)[1:], "more than its config was read again"


def test_models_are_not_put_on_top_of_models(exported: Clone, here: RealRegistry, with_models: str) -> None:
    """Those of an older lock would stay in the image; the message names the image below."""
    ran = exported("push", f"{here.address}/cache-models-test/twice:1", "--base", with_models, check=False)
    assert ran.exit_code == 2
    assert f"name the image without them, which is {with_models.replace(':models', ':1')}" in ran.err


def test_the_api_answers_from_models_that_no_build_has_seen(
    exported: Clone, here: RealRegistry, images: Images
) -> None:
    """The image `serve`, which has torch and no models, with the models on top."""
    docker, base = exported.docker, f"{here.address}/cache-models-test/serve:1"
    docker("tag", images.serve, base)
    docker("push", "--quiet", base)
    name = f"{here.address}/cache-models-test/serve:models"
    exported("push", name, "--base", base)
    pulled(docker, name)
    with running(docker, "--network", "none", *HARDENED, name) as started:
        wait_until_healthy(docker, started)
        assert docker("exec", started, "python", "-c", ASK, ONE).stdout == "2\n"


def test_the_tool_on_top_of_itself_proves_every_byte(exported: Clone, here: RealRegistry, init: str) -> None:
    """The image `init` as the base: in the result, `verify` reads the models at the root that it is told."""
    docker, base = exported.docker, f"{here.address}/cache-models-test/tool:1"
    docker("tag", init, base)
    docker("push", "--quiet", base)
    name = f"{here.address}/cache-models-test/tool:models"
    exported("push", name, "--base", base)
    assert WELL.format("/models") in docker("run", "--rm", "--network", "none", *HARDENED, name, "verify").stderr


# A root filled from a registry


def test_an_init_container_fills_a_volume_from_the_registry(
    exported: Clone, here: RealRegistry, pushed: str, with_models: str, init: str
) -> None:
    """The models alone, or an application with them; a second start makes no request."""
    docker, volume = exported.docker, "cache-models-test-from-registry"
    for image in (pushed, with_models):
        run = ["run", "--rm", "--network", "host", *HARDENED, "--memory", "256m"]
        run += ["--volume", f"{volume}:/models", init, "sync", "--locked", "--from", f"docker://{image}"]
        try:
            assert FILLED.format("/models") in docker(*run).stderr
            here.forget()
            assert "3 models ready in /models: unchanged." in docker(*run).stderr
            assert here.asked("GET") + here.asked("HEAD") == []
        finally:
            docker("volume", "rm", "--force", volume)


def test_a_large_file_comes_in_ranges(
    exported: Clone, public_hub: StandInHub, here: RealRegistry, tmp_path: Path
) -> None:
    """No request asks for all of its layer, and at the end nothing is left in the temporary directory."""
    public_hub.add("export/large", files_below(tiny.big_embedding(tmp_path / "large", 80)))
    large = Clone.make(exported.docker, tmp_path / "clone")
    (large.folder / "models.toml").write_text('[[embedding]]\nid = "export/large"\n')
    large("sync")
    name, temporary = f"{here.address}/cache-models-test/large:v1", tmp_path / "temporary"
    large("push", name)
    (layer,) = (layer for layer in manifests(exported.docker, name)["linux/amd64"]["layers"] if layer["size"] > 80e6)
    temporary.mkdir()
    here.forget()
    root = ["--root", str(tmp_path / "root")]
    large("sync", "--locked", *root, "--from", f"docker://{name}", env={"TMPDIR": str(temporary)})
    assert len(here.asked("GET", layer["digest"], 206)) > 1
    assert here.asked("GET", layer["digest"], 200) == []
    assert list(temporary.iterdir()) == []
    large("verify", *root)


def test_an_init_container_keeps_its_limit_with_many_small_files(
    docker: Docker, public_hub: StandInHub, here: RealRegistry, tmp_path: Path
) -> None:
    """Its /tmp is memory, and the layers of small files have more bytes in all than the container may have."""
    count, files = 5, 4
    for number in range(count):
        content = {f"{file}.bin": f"{number} {file}".encode() + bytes(14 << 20) for file in range(files)}
        public_hub.add(f"export/many-{number}", content)
    many = Clone.make(docker, tmp_path / "clone")
    tables = [f'[[other]]\nid = "export/many-{number}"\n' for number in range(count)]
    (many.folder / "models.toml").write_text("\n".join(tables))
    many("sync")
    name, image = f"{here.address}/cache-models-test/many-files:v1", f"{IMAGE}:many-files"
    many("push", name)
    docker.build(many.folder, "--target", "init", "--tag", image)
    volume = "cache-models-test-many-files"
    try:
        run = ["run", "--rm", "--network", "host", *HARDENED, "--memory", "256m", "--volume", f"{volume}:/models"]
        ran = docker(*run, image, "sync", "--locked", "--from", f"docker://{name}")
        assert f"{count} models ready in /models: {count} fetched." in ran.stderr
    finally:
        docker("volume", "rm", "--force", volume)


def test_a_tag_that_was_pushed_again_brings_no_other_models(
    exported: Clone, public_hub: StandInHub, here: RealRegistry, tmp_path: Path
) -> None:
    """With the older lock the pods get the older image by its digest, and nothing by the tag."""
    public_hub.add("export/moving", {**GRAPH, "README.md": b"First\n"})
    moving = Clone.make(exported.docker, tmp_path / "clone")
    (moving.folder / "models.toml").write_text('[[other]]\nid = "export/moving"\n')
    name = f"{here.address}/cache-models-test/moving:v1"
    moving("sync")
    first = moving("push", name).out.strip()
    older = (moving.folder / "models.lock").read_bytes()
    public_hub.add("export/moving", {**GRAPH, "README.md": b"Second\n"})
    moving("lock", "--upgrade")
    moving("sync")
    assert moving("push", name).out.strip() != first
    (moving.folder / "models.lock").write_bytes(older)
    sync = ["sync", "--locked", "--root", str(tmp_path / "root"), "--from"]
    refused = moving(*sync, f"docker://{name}", check=False)
    assert refused.exit_code == 1
    assert "The image has another version of the model" in refused.err
    assert "1 fetched." in moving(*sync, f"docker://{name.removesuffix(':v1')}@{first}").err


def test_the_login_of_docker_is_taken(exported: Clone, closed: RealRegistry, init: str, tmp_path: Path) -> None:
    """What `docker login` has written lets `push` write and an init container read; without it both say what to do."""
    docker, name = exported.docker, f"{closed.address}/cache-models-test/private:v1"
    refused = exported("push", name, check=False)
    assert refused.exit_code == 3
    assert f"docker login {closed.address}" in refused.err
    logged_in = tmp_path / "logged-in"
    docker("--config", str(logged_in), "login", "--username", USER, "--password", PASSWORD, closed.address)
    assert closed.address in json.loads((logged_in / "config.json").read_text())["auths"]
    said = exported("push", name, env={"DOCKER_CONFIG": str(logged_in)})
    assert said.out == f"{exported.layout.digest}\n"

    logged_in.chmod(0o755)
    (logged_in / "config.json").chmod(0o644)  # a mounted Secret can be read by the user of the container
    run = ["run", "--rm", "--network", "host", *HARDENED]
    sync = [init, "sync", "--locked", "--root", "/tmp/models", "--from", f"docker://{name}"]
    ended = docker(*run, *sync, check=False)
    assert ended.returncode == 3
    assert f"docker login {closed.address}" in ended.stderr
    login = ["--volume", f"{logged_in}:/login:ro", "--env"]
    for variable in ("DOCKER_CONFIG=/login", "REGISTRY_AUTH_FILE=/login/config.json"):
        ended = docker(*run, *login, variable, *sync)
        assert FILLED.format("/tmp/models") in ended.stderr
        assert PASSWORD not in ended.stderr + said.err + refused.err


def test_skopeo_copies_it_and_a_root_is_filled_from_the_copy(
    exported: Clone, elsewhere: RealRegistry, pushed: str, with_models: str, tmp_path: Path
) -> None:
    """To another registry, with its digest; also an application with models."""
    for number, source in enumerate((pushed, with_models)):
        target = f"docker://{elsewhere.address}/cache-models-test/copied-{number}:v1"
        copy(f"docker://{source}", target)
        digest = inspect(target)["Digest"]
        assert digest == inspect(f"docker://{source}")["Digest"]
        for name in (target, f"{target.removesuffix(':v1')}@{digest}"):
            root = ["--root", str(tmp_path / "root")]
            assert "3 fetched." in exported("sync", "--locked", *root, "--from", name).err
            assert "3 models in" in exported("verify", *root).err
            shutil.rmtree(tmp_path / "root")
    assert digest != exported.layout.digest
