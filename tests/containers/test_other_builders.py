"""podman builds what docs/containers.md says: the lock and the images without models, with a token in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers.engine import Docker, Ran, make_context
from tests.containers.pods import Podman
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

Build = Callable[..., Ran]
TOKEN = "hf_this-must-not-be-seen-anywhere"


@pytest.fixture(scope="module")
def build(docker: Docker, podman: Podman, registry: str) -> Build:
    """Build with podman, from the same base image."""
    base = f"{registry}/test/cache-models-base:1"
    docker("tag", "python:3.11-slim-bookworm", base)
    docker("push", "--quiet", base)
    podman("pull", "--quiet", "--tls-verify=false", base)
    docker("rmi", base)

    def run(context: Path, *words: str, check: bool = True) -> Ran:
        return podman(
            "build", "--network=host", "--build-arg", f"PYTHON_IMAGE={base}", *words, str(context), check=check
        )

    return run


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


def test_podman_builds_the_init_image(build: Build, podman: Podman, public_hub: StandInHub, tmp_path: Path) -> None:
    """It fills a volume."""
    public_hub.add("org/plain", tiny.tiny_embedding(tmp_path / "plain"))
    context = make_context(tmp_path / "context", ['[[embedding]]\nid = "org/plain"\n'])
    build(context, "--target", "init", "--tag", "localhost/cache-models-test:podman")
    words = ["run", "--rm", "--read-only", "--network=host", "--env", f"HF_ENDPOINT={public_hub.url}"]
    words += ["--tmpfs", "/models:mode=1777", "--workdir", "/usr"]
    assert "1 model ready in /models: 1 fetched." in podman(*words, "localhost/cache-models-test:podman").stderr
