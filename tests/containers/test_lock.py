"""models.lock by Docker alone: what is new is pinned, the rest stays, and an image is made of a lock that fits only."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from tests.containers.engine import Docker, make_context
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow


@dataclass
class Project:
    """Models on the Hub, a manifest of some of them, and their lock."""

    docker: Docker
    hub: StandInHub
    folder: Path
    owner: str = field(default_factory=lambda: f"lock-{uuid4().hex[:8]}")
    """Of this test alone: an engine that is used again has the locks of others in its cache."""

    @property
    def context(self) -> Path:
        return self.folder / "context"

    def push(self, *names: str) -> None:
        """Give each model a new commit on the Hub."""
        for name in names:
            source = self.folder / name
            if not source.exists():
                tiny.tiny_embedding(source)
            (source / "README.md").write_text(f"---\nlicense: mit\n---\n{uuid4().hex}\n")
            self.hub.add(f"{self.owner}/{name}", source)

    def want(self, *names: str) -> None:
        """Write models.toml."""
        tables = [f'[[embedding]]\nid = "{self.owner}/{name}"\n' for name in names]
        (self.context / "models.toml").write_text("\n".join(tables))

    def lock(self, **arguments: str) -> dict[str, str]:
        """Write models.lock as the docs say; return the commit of each model."""
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self.docker.build(self.context, "--target", "lock", *words, "--output", str(self.context))
        return self.pins()

    def pins(self) -> dict[str, str]:
        """Return the commit of each model of models.lock."""
        lock = tomllib.loads((self.context / "models.lock").read_text())
        return {model["id"].removeprefix(f"{self.owner}/"): model["commit"] for model in lock["model"]}


@pytest.fixture
def project(docker: Docker, public_hub: StandInHub, tmp_path: Path) -> Project:
    """Two models, locked. Both have newer commits on the Hub since, and there is a third one."""
    project = Project(docker, public_hub, tmp_path)
    make_context(project.context, [])
    project.push("one", "two")
    project.want("one", "two")
    project.lock()
    project.push("one", "two", "three")
    return project


def test_a_new_model_is_pinned_by_docker_alone_and_no_pin_moves(project: Project) -> None:
    """A third model in models.toml: the two keep their commits, although the Hub has newer ones."""
    before = project.pins()
    project.want("one", "two", "three")
    project.hub.forget()
    after = project.lock()
    assert {name: after[name] for name in before} == before
    assert after.keys() == {"one", "two", "three"}
    assert {request.repo for request in project.hub.requests if request.repo} == {f"{project.owner}/three"}
    project.want("one", "three")
    assert project.lock() == {name: after[name] for name in ("one", "three")}


def test_one_pin_is_upgraded_by_docker_alone(project: Project) -> None:
    """CACHE_MODELS_UPGRADE moves the models that it names, each time that LOCKED_AT is new."""
    before = project.pins()
    upgrade = {"CACHE_MODELS_UPGRADE": f"{project.owner}/two"}
    after = project.lock(**upgrade, LOCKED_AT="Monday")
    assert after["one"] == before["one"]
    assert after["two"] != before["two"]
    project.push("two")
    again = project.lock(**upgrade, LOCKED_AT="Tuesday")
    assert again["one"] == before["one"]
    assert again["two"] not in (before["two"], after["two"])


def test_the_first_lock_is_the_one_that_an_image_was_built_from(project: Project) -> None:
    """Without a lock a build pins the models itself; the target `lock` writes those pins, until LOCKED_AT is new."""
    (project.context / "models.lock").unlink()
    project.want("three")
    project.docker.build(project.context, "--target", "models", "--tag", "cache-models-test:first")
    project.push("three")
    project.hub.forget()
    first = project.lock()
    assert project.hub.requests == []
    (project.context / "models.lock").unlink()
    assert project.lock(LOCKED_AT="Monday") != first
