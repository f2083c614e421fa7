"""What the tests of images share: an engine, a Hub that containers can reach, and the images, built once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import files_below
from tests.containers.engine import Docker, Ran, make_context, unavailable
from tests.containers.exported import MODELS as EXPORTED
from tests.containers.exported import Clone, offer
from tests.containers.pods import Podman
from tests.support import models, tiny
from tests.support.hub import StandInHub

EMBEDDING, CODE, RERANKER = "tinyorg/embedding", "tinyorg/code", "tinyorg/reranker"
SPARSE, MULTI_VECTOR, OTHER = "tinyorg/sparse", "tinyorg/multi-vector", "tinyorg/graph"
KINDS = {
    EMBEDDING: "embedding",
    CODE: "embedding",
    RERANKER: "reranker",
    SPARSE: "sparse",
    MULTI_VECTOR: "multi_vector",
    OTHER: "other",
}
MODELS = tuple(KINDS)
READY = f"{len(MODELS)} models ready"
FETCHED, COPIED = f"{len(MODELS)} fetched.", f"{len(MODELS)} copied."
_KEYS = {EMBEDDING: 'include = ["onnx/"]\n', CODE: "trust_remote_code = true\n"}
TABLES = tuple(f'[[{kind}]]\nid = "{model}"\n{_KEYS.get(model, "")}' for model, kind in KINDS.items())
GRAPH = {"onnx/model.onnx": b"\x08\x08graph", "onnx/model.onnx_data": bytes(range(256))}
"""Files that no loader here opens: some beside an embedding model, and a whole repository of [[other]]."""

_FOUND = [(model, "config.json") for model in MODELS if model != OTHER]
_FOUND += [(model, file) for model in (EMBEDDING, OTHER) for file in GRAPH]
# What a client of the Hub finds, offline, in the cache that its environment names.
BY_ID = (
    "python",
    "-c",
    f"""
import os
from huggingface_hub import hf_hub_download
for model, file in {_FOUND}:
    print(os.path.realpath(hf_hub_download(model, file)))
""",
)


def found_by_id(root: str) -> list[str]:
    """What `BY_ID` prints where a root has the models."""
    return [f"{root}/cached_{KINDS[model]}_models/{model.replace('/', '__')}/{file}" for model, file in _FOUND]


@dataclass(frozen=True)
class Images:
    """The images of small models of every kind, and what they were built from, the lock beside the manifest."""

    context: Path
    init: str = "cache-models-test:init"
    serve: str = "cache-models-test:serve"
    models: str = "cache-models-test:models"
    runtime: str = "cache-models-test:runtime"


@pytest.fixture(scope="session")
def bridge() -> str:
    """The address at which containers reach this machine."""
    if not shutil.which("docker"):
        unavailable("there is no docker here")
    found = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, text=True, check=False)
    if found.returncode:
        unavailable(f"no Docker engine answers: {found.stderr.strip()}")
    return str(json.loads(found.stdout)[0]["IPAM"]["Config"][0]["Gateway"])


@pytest.fixture(scope="session")
def public_hub(bridge: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    """A stand-in Hub on the containers' bridge: a model of each kind, one with code, and files of other programs."""
    source = tmp_path_factory.mktemp("repositories")
    with StandInHub(host=bridge) as hub:
        embedding = files_below(tiny.tiny_embedding(source / "embedding"))
        hub.add(EMBEDDING, {**embedding, **GRAPH}, licence="mit")
        hub.add(CODE, models.remote_code_embedding(source / "code"), licence="mit")
        hub.add(RERANKER, tiny.tiny_reranker(source / "reranker"), licence="apache-2.0")
        hub.add(SPARSE, models.splade_sparse(source / "sparse"), licence="apache-2.0")
        hub.add(MULTI_VECTOR, models.saved_multi_vector(source / "multi-vector"), licence="mit")
        hub.add(OTHER, {**GRAPH, "README.md": b"---\nlicense: mit\n---\n"}, licence="mit")
        yield hub


_MADE = (
    "cache-models-test*",
    "cache-models-pages-*",
    "*/cache-models-test/*",
    "*/test/cache-models*",
    "cache-models-models",
)
"""Images that tests make, as `docker images` and `podman images` select them."""


@contextmanager
def no_image_left(engine: Callable[..., Ran]) -> Iterator[None]:
    """Remove the images that tests made, also those that have lost their name, and fail if one stays."""

    def named() -> set[str]:
        selected = [word for pattern in _MADE for word in ("--filter", f"reference={pattern}")]
        return set(engine("images", "--format", "{{.Repository}}:{{.Tag}}", *selected).stdout.split())

    def others() -> set[str]:
        filters = ("dangling=true", "reference=*podman-pause")  # podman makes the second for the first pod
        return {
            image
            for one in filters
            for image in engine("images", "--quiet", "--no-trunc", "--filter", one).stdout.split()
        }

    before = others()
    yield
    if made := named() | others() - before:
        engine("rmi", "--force", *made, check=False)
    assert named() | others() - before == set(), "images of tests are left"


@pytest.fixture(scope="session")
def clean_docker(bridge: str) -> Iterator[None]:  # there has to be an engine
    """No image of a test stays in the engine."""
    with no_image_left(Docker("")):
        yield


@pytest.fixture(scope="session")
def docker(public_hub: StandInHub, clean_docker: None) -> Docker:
    """The engine, told where the Hub is."""
    return Docker(public_hub.url)


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """The pod engine; what it was given to keep is taken away at the end."""
    program = os.environ.get("PODMAN") or shutil.which("podman")
    if not program:
        unavailable("there is no podman here")
    engine = Podman(str(program), f"t{os.getpid()}")
    ran = engine("info", check=False)
    if ran.returncode:
        unavailable(f"podman does not work here: {ran.stderr.strip()}")
    with no_image_left(engine):
        yield engine
    for name in engine("volume", "ls", "--quiet", "--filter", f"name={engine.suffix}").stdout.split():
        engine("volume", "rm", "--force", name)


@pytest.fixture(scope="session")
def images(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Every target, built as docs/own-image.md says."""
    context = make_context(tmp_path_factory.mktemp("images") / "context", TABLES)
    docker.build(context, "--target", "lock", "--output", str(context))
    made = Images(context)
    for target in ("init", "serve", "models", "runtime"):
        docker.build(context, "--target", target, "--tag", getattr(made, target))
    return made


@pytest.fixture(scope="session")
def exported(docker: Docker, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Three models of three kinds, exported to a layout and to an archive."""
    folder = tmp_path_factory.mktemp("exported")
    offer(public_hub, folder / "sources")
    exported = Clone.make(docker, folder / "clone", *EXPORTED)
    said = exported.export().out
    assert said == f"{exported.layout.digest}\n"
    assert exported("export", "models.tar").out == said
    return exported


@pytest.fixture(scope="session")
def registry() -> str:
    """A registry on loopback."""
    if not os.environ.get("TEST_REGISTRY"):
        unavailable("TEST_REGISTRY names no registry")
    return os.environ["TEST_REGISTRY"]
