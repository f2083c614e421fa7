"""podman builds what docs/own-image.md says: the lock, the images without models, and the reader's own image."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.containers.conftest import Images
from tests.containers.engine import Docker, Ran, make_context
from tests.containers.pods import Podman
from tests.containers.test_own_application import FROM_INIT
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

Build = Callable[..., Ran]
TOKEN = "hf_this-must-not-be-seen-anywhere"


@pytest.fixture(scope="module")
def base(docker: Docker, podman: Podman, registry: str) -> str:
    """The base image of Docker's engine, in podman."""
    base = f"{registry}/test/cache-models-base:1"
    docker("tag", "python:3.11-slim-bookworm", base)
    docker("push", "--quiet", base)
    podman("pull", "--quiet", "--tls-verify=false", base)
    docker("rmi", base)
    return base


@pytest.fixture(scope="module")
def build(podman: Podman, base: str) -> Build:
    """Build with podman, from the same base image."""

    def run(context: Path, *words: str, check: bool = True) -> Ran:
        return podman(
            "build", "--network=host", "--build-arg", f"PYTHON_IMAGE={base}", *words, str(context), check=check
        )

    return run


@pytest.fixture(scope="module")
def init(build: Build, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image `init`, built by podman."""
    folder = tmp_path_factory.mktemp("init")
    public_hub.add("org/plain", tiny.tiny_embedding(folder / "plain"))
    context = make_context(folder / "context", ['[[embedding]]\nid = "org/plain"\n'])
    build(context, "--target", "init", "--tag", "localhost/cache-models-test:podman")
    return "localhost/cache-models-test:podman"


def test_podman_locks_a_gated_model(build: Build, tmp_path: Path) -> None:
    """`--target lock` with the token as a secret: without it the Hub refuses, and the lock does not hold it."""
    with StandInHub() as hub:
        hub.token = TOKEN
        hub.add("org/gated", tiny.tiny_embedding(tmp_path / "gated"), gated=True)
        context = make_context(tmp_path / "context", ['[[embedding]]\nid = "org/gated"\n'])
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        words = ["--build-arg", f"HF_ENDPOINT={hub.url}", "--target", "lock", "--output", str(context)]
        refused = build(context, *words, check=False)
        assert refused.returncode
        assert "org/gated is gated" in refused.stderr + refused.stdout
        ran = build(context, "--secret", f"id=hf_token,src={tmp_path / 'token'}", *words)
    lock = (context / "models.lock").read_text()
    assert [model["id"] for model in tomllib.loads(lock)["model"]] == ["org/gated"]
    assert TOKEN not in lock + ran.stdout + ran.stderr


def test_podman_builds_the_init_image(init: str, podman: Podman, public_hub: StandInHub) -> None:
    """It fills a volume."""
    words = ["run", "--rm", "--read-only", "--network=host", "--env", f"HF_ENDPOINT={public_hub.url}"]
    words += ["--tmpfs", "/models:mode=1777", "--workdir", "/usr"]
    assert "1 model ready in /models: 1 fetched." in podman(*words, init).stderr


def test_podman_makes_the_layer_that_docker_makes(
    build: Build, podman: Podman, docker: Docker, images: Images, base: str, init: str, tmp_path: Path
) -> None:
    """The Dockerfile of the reader's own image, with the option that docs/own-image.md names for podman."""
    (option,) = re.findall(r"`(--timestamp \d+)`", (PROJECT / "docs/own-image.md").read_text())
    for name in ("models.toml", "models.lock"):
        (tmp_path / name).write_bytes((images.context / name).read_bytes())
    named = {"cache-models-init AS models": f"{init} AS models\nARG HF_ENDPOINT", "my-app": base}
    named["COPY --from=models"] = "COPY --from=models --chown=0:0"
    dockerfile = FROM_INIT
    for shown, used in named.items():
        dockerfile = dockerfile.replace(shown, used)
    (tmp_path / "Dockerfile").write_text(dockerfile)
    tag = "localhost/cache-models-test:podman-own"
    build(tmp_path, *option.split(), "--build-arg", f"HF_ENDPOINT={docker.hub}", "--tag", tag)
    layers = json.loads(podman("image", "inspect", tag).stdout)[0]["RootFS"]["Layers"]
    assert layers[-1:] == docker.layers(images.models)
