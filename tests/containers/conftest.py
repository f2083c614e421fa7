"""What the tests of images share: an engine, a Hub that containers can reach, and the images, built once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.engine import Docker, make_context, unavailable
from tests.support import models, tiny
from tests.support.hub import StandInHub

EMBEDDING, CODE, RERANKER = "tinyorg/embedding", "tinyorg/code", "tinyorg/reranker"
TABLES = (
    f'[[embedding]]\nid = "{EMBEDDING}"\n',
    f'[[embedding]]\nid = "{CODE}"\ntrust_remote_code = true\n',
    f'[[reranker]]\nid = "{RERANKER}"\n',
)


@dataclass(frozen=True)
class Images:
    """The images of three small models, and the directory that they were built from, its lock beside the manifest."""

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
    """A stand-in Hub on the containers' bridge, with one plain model, one with code, and one reranker."""
    source = tmp_path_factory.mktemp("repositories")
    with StandInHub(host=bridge) as hub:
        hub.add(EMBEDDING, tiny.tiny_embedding(source / "embedding"), licence="mit")
        hub.add(CODE, models.remote_code_embedding(source / "code"), licence="mit")
        hub.add(RERANKER, tiny.tiny_reranker(source / "reranker"), licence="apache-2.0")
        yield hub


_MADE = ("cache-models-test*", "cache-models-pages-*", "*/cache-models-test/*")
"""Images that tests make, as `docker images` selects them."""


@pytest.fixture(scope="session")
def docker(public_hub: StandInHub) -> Iterator[Docker]:
    """The engine, told where the Hub is; no image of a test stays in it, not even one that has lost its name."""
    engine = Docker(public_hub.url)
    before = set(engine("images", "--quiet", "--no-trunc", "--filter", "dangling=true").stdout.split())
    yield engine
    selected = [word for pattern in _MADE for word in ("--filter", f"reference={pattern}")]
    named = engine("images", "--format", "{{.Repository}}:{{.Tag}}", *selected).stdout.split()
    nameless = set(engine("images", "--quiet", "--no-trunc", "--filter", "dangling=true").stdout.split()) - before
    for image in (*named, *nameless):
        engine("rmi", "--force", image, check=False)  # the engine keeps one that a container still has


@pytest.fixture(scope="session")
def images(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Every target, built as the README says."""
    context = make_context(tmp_path_factory.mktemp("images") / "context", TABLES)
    docker.build(context, "--target", "lock", "--output", str(context))
    made = Images(context)
    for target in ("init", "serve", "models", "runtime"):
        docker.build(context, "--target", target, "--tag", getattr(made, target))
    return made


@pytest.fixture(scope="session")
def registry() -> str:
    """A registry on loopback."""
    if not os.environ.get("TEST_REGISTRY"):
        unavailable("TEST_REGISTRY names no registry")
    return os.environ["TEST_REGISTRY"]
