"""One layer a model: `scripts/bake`, told by the tool which models there are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.containers.engine import Docker, make_context
from tests.support import tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

MODELS = ("bake/one", "bake/two", "bake/three")


@dataclass(frozen=True)
class Bakery:
    """A context of three models, and its images' names."""

    docker: Docker
    context: Path
    hub: StandInHub
    sources: Path
    run: str

    def bake(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the script as a user does."""
        env = {"HF_ENDPOINT": self.docker.hub, "IMAGE": "cache-models-test-bake"}
        if wheels := os.environ.get("WHEELS_DIR"):
            env |= {"WHEELS": wheels, "TORCH_INDEX_URL": ""}
        ran = subprocess.run(
            ["scripts/bake", "--progress=plain", *words],
            cwd=self.context, env={**os.environ, **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not (check and ran.returncode), ran.stderr[-6000:]
        return ran

    def want(self, *ids: str) -> None:
        """Write models.toml, of this run: an engine that is used again has the lock of another one in its cache."""
        tables = "".join(f'[[embedding]]\nid = "{model}"\n' for model in ids)
        (self.context / "models.toml").write_text(f"# {self.run}\n{tables}")

    def lock(self) -> None:
        """Write models.lock anew, with nothing installed but the engine."""
        (self.context / "models.lock").unlink(missing_ok=True)
        self.docker.build(
            self.context,
            "--target",
            "lock",
            "--build-arg",
            f"LOCKED_AT={uuid4().hex}",
            "--output",
            str(self.context),
        )

    def layers(self, image: str = "models") -> list[str]:
        """The layers of an image, each model's among them."""
        return self.docker.layers(f"cache-models-test-bake{'' if image == 'runtime' else '-' + image}:latest")


@pytest.fixture(scope="module")
def bakery(docker: Docker, public_hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    """Three models, locked and baked once."""
    folder = tmp_path_factory.mktemp("bake")
    bakery = Bakery(docker, make_context(folder / "context", []), public_hub, folder / "sources", uuid4().hex)
    for number, model in enumerate(MODELS):
        source = tiny.tiny_embedding(bakery.sources / model)
        (source / "README.md").write_text(f"---\nlicense: mit\n---\nNumber {number}\n")
        public_hub.add(model, source)
    bakery.want(*MODELS)
    bakery.lock()
    bakery.bake("models", "runtime")
    yield bakery
    shutil.rmtree(folder)


def test_models_and_runtime_share_one_layer_a_model(bakery: Bakery) -> None:
    """What is pushed for the one is there for the other."""
    assert len(bakery.layers()) == len(MODELS)
    assert [layer for layer in bakery.layers("runtime") if layer in bakery.layers()] == bakery.layers()


def test_a_changed_model_changes_its_layer_and_fetches_itself(bakery: Bakery) -> None:
    """Of three models one moves: the layers of the others stay, and nobody asks for their files."""
    before = bakery.layers()
    source = bakery.sources / MODELS[1]
    (source / "README.md").write_text("---\nlicense: mit\n---\nMoved on\n")
    bakery.hub.add(MODELS[1], source)
    bakery.lock()
    bakery.hub.forget()
    bakery.bake("models")
    after = bakery.layers()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    asked = {request.repo for request in bakery.hub.requests if request.file}
    assert asked == {MODELS[1]}
    assert {request.file for request in bakery.hub.requests if request.file} == {"README.md"}


def test_layers_stay_without_the_build_cache(bakery: Bakery) -> None:
    """`--no-cache`: fetched again, and yet the same bytes with the same times."""
    before = bakery.layers()
    bakery.bake("--no-cache", "models")
    assert bakery.layers() == before


def test_a_lock_that_does_not_fit_is_not_baked(bakery: Bakery) -> None:
    """The script ends before anything is baked, with the reason and the command that writes a lock."""
    bakery.want(*MODELS, "bake/later")
    ran = bakery.bake("models", check=False)
    bakery.want(*MODELS)
    assert ran.returncode
    assert "bake/later (embedding) is not pinned" in ran.stderr
    assert "`docker build --target lock --output . .`" in ran.stderr


def test_a_model_that_is_added_to_the_manifest_is_baked(bakery: Bakery) -> None:
    """models.toml is all that is touched: no list of models stands anywhere else."""
    before = bakery.layers()
    bakery.hub.add("bake/four.and-more_4", tiny.tiny_embedding(bakery.sources / "four"))
    bakery.want(*MODELS, "bake/four.and-more_4")
    (bakery.context / "models.lock").unlink()
    bakery.bake("models")
    after = bakery.layers()
    assert len(after) == 4
    assert after[:3] == before


def test_a_pushed_image_is_pulled_with_the_same_layers(bakery: Bakery, registry: str) -> None:
    """Through a real registry; what is there already is not sent again."""
    name = f"{registry}/cache-models-test/models:latest"
    bakery.docker("tag", "cache-models-test-bake-models:latest", name)
    bakery.docker("push", name)
    layers = bakery.layers()
    bakery.docker("rmi", name)
    bakery.docker("pull", name)
    assert bakery.docker.layers(name) == layers
    runtime = f"{registry}/cache-models-test/models:again"
    bakery.docker("tag", "cache-models-test-bake-models:latest", runtime)
    assert "Layer already exists" in bakery.docker("push", runtime).stdout


def test_what_bake_is_told_comes_from_the_tool(bakery: Bakery) -> None:
    """Each model has its own manifest and lock, so that its layer depends on nothing else."""
    said: dict[str, Any] = json.loads(bakery.bake("--print", "models").stdout)
    args = [target["args"]["MODEL"] for name, target in said["target"].items() if "MODEL" in target.get("args", {})]
    assert "cached_embedding_models.bake__one" in args
