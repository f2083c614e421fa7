"""deploy/kubernetes played by podman: the shipped objects, the real images, a Hub that counts."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest
import yaml

from tests.commands.test_package import run
from tests.conftest import PROJECT
from tests.containers.conftest import (
    BY_ID,
    CODE,
    COPIED,
    EMBEDDING,
    FETCHED,
    MODELS,
    READY,
    RERANKER,
    Images,
    found_by_id,
)
from tests.containers.engine import Docker
from tests.containers.manifests import FOLDER, Object, containers, one, own_overlay, pods, render
from tests.containers.pods import Api, Podman, filling_pods, for_podman
from tests.containers.registries import PASSWORD, RealRegistry, real_registry
from tests.support.hub import StandInHub
from tests.support.hub.faults import Slow
from tests.support.proxy import make_certificate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def shipped(
    podman: Podman, docker: Docker, images: Images, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of deploy/kubernetes with a registry of our own written where the docs say, and the images pulled."""
    folder = tmp_path_factory.mktemp("deploy") / "kubernetes"
    shutil.copytree(FOLDER, folder)
    names = folder / "components/images/kustomization.yaml"
    names.write_text(names.read_text().replace("registry.example.com", f"{registry}/test"))
    for image in yaml.safe_load(names.read_text())["images"]:
        reference = f"{image['newName']}:{image['newTag']}"
        docker("tag", getattr(images, image["name"]), reference)
        docker("push", "--quiet", reference)
        # Through the registry only what is new travels: 15 s the first time, where `docker save` takes 26 each time.
        podman("pull", "--quiet", "--tls-verify=false", reference)
        docker("rmi", reference)
    return folder


WITH_CA = {
    "target": {"kind": "Deployment"},
    "patch": yaml.safe_dump(
        [
            {
                "op": "add",
                "path": "/spec/template/spec/volumes/-",
                "value": {"name": "ca", "configMap": {"name": "ca"}},
            },
            {
                "op": "add",
                "path": "/spec/template/spec/initContainers/0/volumeMounts/-",
                "value": {"name": "ca", "mountPath": "/ca", "readOnly": True},
            },
        ]
    ),
}
"""Mounts the certificate of a registry where its own company has signed it."""


class Namespace:
    """Overlays of one test: a user's own kustomization over the shipped ones, rendered and played."""

    def __init__(self, folder: Path, shipped: Path, podman: Podman, hub: StandInHub) -> None:
        self.folder = folder
        self._shipped = shipped
        self.podman = podman
        self._hub = hub

    def render(
        self,
        overlay: str,
        *,
        components: tuple[str, ...] = (),
        settings: tuple[Object, ...] = (),
        patches: tuple[Object, ...] = (),
    ) -> list[Object]:
        """Return an overlay's objects, with names of their own and the stand-in Hub."""
        to_hub = {"name": "cache-models-hub", "behavior": "merge", "literals": [f"HF_ENDPOINT={self._hub.url}"]}
        fetches = overlay in ("emptydir", "shared-volume")
        own = {
            "nameSuffix": f"-{overlay}-{self.podman.suffix}",
            "configMapGenerator": [*settings, *([to_hub] if fetches else [])],
            "patches": list(patches),
        }
        return render(own_overlay(self.folder, self._shipped, overlay, components, **own))


@pytest.fixture
def namespace(tmp_path: Path, shipped: Path, podman: Podman, public_hub: StandInHub) -> Namespace:
    """A place for overlays, and a Hub with a fresh record."""
    public_hub.forget()
    return Namespace(tmp_path, shipped, podman, public_hub)


def assert_answers(api: Api, root: str) -> None:
    """Embeddings, also by a model with code, and a ranking; a client of the Hub finds the models of that root."""
    api.wait_until_ready()
    assert api.run(*BY_ID).splitlines() == found_by_id(root)
    status, body = api.ask("/v1/embeddings", {"model": EMBEDDING, "input": "rain"})
    assert (status, len(body["data"][0]["embedding"])) == (200, 32)
    status, body = api.ask("/v1/embeddings", {"model": CODE, "input": ["rain", "sun"]})
    assert (status, len(body["data"])) == (200, 2)
    status, body = api.ask("/v1/rerank", {"model": RERANKER, "query": "rain", "documents": ["wet", "dry"]})
    assert (status, len(body["results"])) == (200, 2)


@pytest.fixture(scope="module")
def certificate(bridge: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a registry that containers reach."""
    return make_certificate(tmp_path_factory.mktemp("certificate") / "registry.pem", f"IP:{bridge}")


@pytest.fixture(scope="module")
def closed(bridge: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """A registry that wants a login, over https."""
    folder = tmp_path_factory.mktemp("closed") / "registry"
    with real_registry(folder, host=bridge, login=True, certificate=certificate) as started:
        yield started


@pytest.fixture(scope="module")
def models(images: Images, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the models, beside their manifest and lock."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("models.toml", "models.lock"):
        shutil.copy(images.context / name, folder)
    tool(folder, {"HF_ENDPOINT": public_hub.url}, "sync", "--locked")
    return folder


def tool(folder: Path, env: Mapping[str, str], *words: str) -> str:
    """Run this tool in a folder; return what it prints."""
    ended = run([sys.executable, str(PROJECT / "cache_models.py"), *words], folder, env)
    assert ended.exit_code == 0, ended.err
    return ended.out


def push(root: Path, registry: RealRegistry, env: Mapping[str, str]) -> str:
    """Push the models of a root; return the image, by its digest."""
    (root / "config.json").write_text(registry.config_json)
    name = f"{registry.address}/cache-models-test/models"
    return f"{name}@{tool(root, {'DOCKER_CONFIG': str(root), **env}, 'push', name).strip()}"


def source(image: str, *literals: str) -> Object:
    """The setting that says which image has the models, and others beside it."""
    literals = (f"CACHE_MODELS_FROM=docker://{image}", *literals)
    return {"name": "cache-models-registry", "behavior": "merge", "literals": list(literals)}


def sent(hub: StandInHub) -> Counter[tuple[str | None, str | None]]:
    """How often the bytes of each file were sent; a redirection sends none."""
    return Counter((asked.repo, asked.file) for asked in hub.requests if asked.file and asked.status in (200, 206))


def test_an_init_container_fills_the_pods_own_volume(namespace: Namespace, public_hub: StandInHub) -> None:
    """emptydir: each file is fetched once, then the API answers; it cannot write, and knows its processors."""
    objects = namespace.render("emptydir")
    for container in containers(pods(objects)["Deployment"]):
        container["workingDir"] = "/usr"  # the commands work anywhere
    with namespace.podman.playing(for_podman(objects), namespace.folder) as played:
        assert played.returncode == 0, played.stderr
        api = Api(namespace.podman, objects)
        init = api.name.replace("-pod-api", "-pod-models")
        assert f"{READY} in /shared: {FETCHED}" in namespace.podman.logs(init)
        assert set(sent(public_hub).values()) == {1}
        public_hub.forget()
        assert_answers(api, "/shared")
        assert public_hub.requests == []

        tried = namespace.podman("exec", api.name, "sh", "-c", "touch /shared/x; touch /app/x; echo $OMP_NUM_THREADS")
        assert tried.stderr.count("Read-only file system") == 2
        limits = pods(objects)["Deployment"]["containers"][0]["resources"]["limits"]
        assert tried.stdout.strip() == limits["cpu"]
        hook = pods(objects)["Deployment"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        namespace.podman("exec", api.name, hook[0], "0")


def test_an_image_volume_needs_nothing_else(namespace: Namespace, public_hub: StandInHub) -> None:
    """image-volume: the models image is mounted, no init container runs, nobody asks the Hub."""
    objects = namespace.render("image-volume")
    with namespace.podman.playing(for_podman(objects), namespace.folder) as played:
        assert played.returncode == 0, played.stderr
        assert_answers(Api(namespace.podman, objects), "/shared/models")
    assert public_hub.requests == []


def test_a_claim_is_seeded_from_the_baked_image(namespace: Namespace, public_hub: StandInHub) -> None:
    """seeded-claim: copied the first time, left alone the second, never asked for."""
    objects = namespace.render("seeded-claim")
    for container in containers(pods(objects)["Deployment"]):
        container["workingDir"] = "/tmp"  # the commands work anywhere
    for told in (f"{READY} in /shared/1: {COPIED}", f"{READY} in /shared/1: unchanged."):
        with namespace.podman.playing(for_podman(objects), namespace.folder) as played:
            assert played.returncode == 0, played.stderr
            api = Api(namespace.podman, objects)
            assert told in namespace.podman.logs(api.name.replace("-pod-api", "-pod-models"))
            if "unchanged" in told:
                assert_answers(api, "/shared/1")
    assert public_hub.requests == []


def test_pods_that_start_together_share_the_work(namespace: Namespace, public_hub: StandInHub) -> None:
    """shared-volume: three pods at once send each file once; what starts later has nothing to do, and asks nobody.

    Small models go four at a time, so it may be one pod that fetches them all: the others wait for it.
    """
    podman = namespace.podman
    objects = namespace.render("shared-volume")
    claim = one(objects, "PersistentVolumeClaim")["metadata"]["name"]
    podman("volume", "create", claim)
    volume = Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", claim).stdout.strip())
    os.chown(volume, 0, 10001)
    volume.chmod(0o2775)  # as the kubelet leaves it for an fsGroup

    names = [f"fill-{number}-{podman.suffix}" for number in range(3)]
    public_hub.fail(Slow(30_000), on=r"GET cdn .*model\.safetensors", times=3)  # so that the pods meet
    with podman.playing(filling_pods(objects, names), namespace.folder) as played:
        assert played.returncode == 0, played.stderr
        codes = podman("wait", *(f"{name}-models" for name in names)).stdout.split()
        said = [podman.logs(f"{name}-models") for name in names]
        assert codes == ["0", "0", "0"], said
    assert all(f"{READY} in /shared/1" in words for words in said)
    fetched = [re.findall(r"^  fetch    (\S+) +[\d.]+ [kM]?B ", words, re.MULTILINE) for words in said]
    assert sorted(chain(*fetched)) == sorted(MODELS)
    assert all(mine or "another process" in words for mine, words in zip(fetched, said, strict=True)), said
    assert set(sent(public_hub).values()) == {1}
    models = volume / "1" / "cached_embedding_models" / EMBEDDING.replace("/", "__")
    # Directories are shared with the group that may write to the root; files are never written in place.
    assert {oct(path.stat().st_mode) for path in models.rglob("*")} == {"0o100644", "0o42775"}

    public_hub.forget()
    with podman.playing(for_podman(objects), namespace.folder) as played:
        assert played.returncode == 0, played.stderr
        api = Api(podman, objects)
        assert f"{READY} in /shared/1: unchanged." in podman.logs(api.name.replace("-pod-api", "-pod-models"))
        assert_answers(api, "/shared/1")
    assert public_hub.requests == []


def test_pods_take_the_models_from_a_registry(
    namespace: Namespace, closed: RealRegistry, certificate: Path, models: Path, public_hub: StandInHub
) -> None:
    """registry: over https with the login of the Secret, in the form that kubectl gives it; the Hub is not asked."""
    image = push(models, closed, {"SSL_CERT_FILE": str(certificate)})
    (namespace.folder / "ca.pem").write_bytes(certificate.read_bytes())
    public_hub.forget()
    objects = namespace.render(
        "registry",
        settings=({"name": "ca", "files": ["ca.pem"]}, source(image, "SSL_CERT_FILE=/ca/ca.pem")),
        patches=(WITH_CA,),
    )
    for container in containers(pods(objects)["Deployment"]):
        container["workingDir"] = "/usr"  # the commands work anywhere
    init = f"{one(objects, 'Deployment')['metadata']['name']}-pod-models"
    with namespace.podman.playing(for_podman(objects), namespace.folder) as played:
        assert played.returncode
        assert namespace.podman.state(init)["ExitCode"] == 3
        assert "Log in with `docker login" in namespace.podman.logs(init)

    secret: Object = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    secret |= {"metadata": {"name": "cache-models-login"}, "stringData": {".dockerconfigjson": closed.config_json}}
    with namespace.podman.playing([secret, *for_podman(objects)], namespace.folder) as played:
        assert played.returncode == 0, played.stderr
        assert f"{READY} in /shared: {FETCHED}" in (said := namespace.podman.logs(init))
        assert PASSWORD not in said
        api = Api(namespace.podman, objects)
        assert_answers(api, "/shared")
        assert namespace.podman("exec", api.name, "ls", "/login", check=False).returncode, "the API sees the login"
    assert public_hub.requests == []


def test_a_registry_without_a_login_needs_no_secret(
    namespace: Namespace, bridge: str, models: Path, tmp_path: Path, public_hub: StandInHub
) -> None:
    """registry, and one inside of the cluster that speaks plain http; by its digest."""
    with real_registry(tmp_path / "open", host=bridge) as registry:
        image = push(models, registry, {"CACHE_MODELS_INSECURE": "1"})
        public_hub.forget()
        objects = namespace.render("registry", settings=(source(image, "CACHE_MODELS_INSECURE=1"),))
        with namespace.podman.playing(for_podman(objects), namespace.folder) as played:
            assert played.returncode == 0, played.stderr
            api = Api(namespace.podman, objects)
            assert f"{READY} in /shared: {FETCHED}" in namespace.podman.logs(
                api.name.replace("-pod-api", "-pod-models")
            )
            assert_answers(api, "/shared")
    assert public_hub.requests == []


def test_what_fails_keeps_the_api_down_and_says_why(
    namespace: Namespace, images: Images, public_hub: StandInHub, tmp_path: Path
) -> None:
    """A manifest, out of a ConfigMap, with a model that the Hub does not have."""
    for name in ("models.toml", "models.lock"):
        text = (images.context / name).read_text().replace(EMBEDDING, "tinyorg/gone")
        (namespace.folder / name).write_text(text)
    generated = {"name": "cache-models-manifest", "files": ["models.toml", "models.lock"]}
    objects = namespace.render("emptydir", components=("manifest",), settings=(generated,))
    log = tmp_path / "termination-log"
    log.touch()
    log.chmod(0o666)  # as the kubelet makes it
    with namespace.podman.playing(for_podman(objects, log), namespace.folder) as played:
        assert played.returncode
        api = f"{one(objects, 'Deployment')['metadata']['name']}-pod-api"
        assert namespace.podman.state(api)["Status"] == "created"
        init = api.replace("-pod-api", "-pod-models")
        assert namespace.podman.state(init)["ExitCode"] == 3
        for words in (namespace.podman.logs(init), log.read_text()):
            assert "error: tinyorg/gone is not on " in words


def test_the_token_of_the_secret_reaches_the_tool(namespace: Namespace) -> None:
    """With one, a Hub on plain http is refused at once: the token is never sent in the clear."""
    objects = namespace.render("emptydir")
    secret = {"name": "cache-models-token"}
    token = {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"HF_TOKEN": "hf_secret"}}
    with namespace.podman.playing([token, *for_podman(objects)], namespace.folder) as played:
        assert played.returncode
        init = f"{one(objects, 'Deployment')['metadata']['name']}-pod-models"
        assert namespace.podman.state(init)["ExitCode"] == 2
        said = namespace.podman.logs(init)
        assert "token" in said
        assert "hf_secret" not in said
