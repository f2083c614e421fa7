"""Multi-vector models from the Hub to an application: every layout, by path and by id, queries and documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelcache.core.kinds import Kind
from modelcache.core.types import WantedModel
from tests.conftest import Tool
from tests.support import models
from tests.support.by_id.layouts import CachedLayouts, cache
from tests.support.choosing import refusal
from tests.support.models.layouts import MULTI_VECTOR_LAYOUTS
from tests.support.tiny import write_json

pytestmark = pytest.mark.slow

NAMES = [layout.make.__name__ for layout in MULTI_VECTOR_LAYOUTS]
WAYS = ("encode_query", "encode_document")
LINES = tuple(
    (f"torch.cat({loader}(model).{way}(TEXTS))", f"torch.cat(MultiVectorEncoder(model).{way}(TEXTS))")
    for way in WAYS
    for loader in ("MultiVectorEncoder", "cache_models.load_multi_vector_encoder")
)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> CachedLayouts:
    """A root with all of them."""
    return cache(tmp_path_factory.mktemp("multi-vector"), MULTI_VECTOR_LAYOUTS)


@pytest.fixture(scope="module")
def ours(cached: CachedLayouts) -> dict[str, np.ndarray]:
    """What the directories give."""
    return cached.by_path()


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_gives_the_numbers_of_the_hub(name: str, cached: CachedLayouts, ours: dict[str, np.ndarray]) -> None:
    """Bit for bit, with nothing but its directory; every token has a vector of length one."""
    expected, found = cached.online[name], ours[name]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_the_same_weights_in_another_layout_give_the_same_numbers(ours: dict[str, np.ndarray]) -> None:
    """What was in a pickle is the same in safetensors; PyLate's two layouts are one model."""
    assert ours["stanford_bin_multi_vector"].tobytes() == ours["stanford_multi_vector"].tobytes()
    assert ours["old_pylate_multi_vector"].tobytes() == ours["pylate_multi_vector"].tobytes()
    widths = {name: found.shape[1] for name, found in ours.items()}
    assert (widths["stanford_multi_vector"], widths["small_stanford_multi_vector"]) == (16, 12)


def test_every_line_of_an_application_gives_the_numbers_of_the_directory(cached: CachedLayouts) -> None:
    """By id, with the Hub view and no network; `cache_models.load_multi_vector_encoder` gives the same."""
    loads, answers = cached.by_id(LINES)
    assert answers.differences(loads) == {}
    assert answers.tried == []


def test_they_are_whole(cached: CachedLayouts, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is as locked, and each model lies in the collection of its kind."""
    monkeypatch.chdir(cached.root)
    assert tool("verify").exit_code == 0
    assert (cached.root / "models.lock").read_text().count('kind = "multi_vector"') == len(NAMES)
    assert {home.name for home in (cached.root / "cached_multi_vector_models").iterdir() if home.name[0] != "."} == {
        f"org__{name}" for name in NAMES
    }


# what is refused -------------------------------------------------------------------------------------------------


def named(architecture: str) -> Callable[[Path], None]:
    """Return what names another class in config.json."""

    def name(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**config, "architectures": [architecture]})

    return name


def without(path: str) -> Callable[[Path], None]:
    """Return what takes a file away."""
    return lambda folder: (folder / path).unlink()


def without_dense(folder: Path) -> None:
    """Take the projection away."""
    shutil.rmtree(folder / "1_Dense")
    write_json(folder / "modules.json", json.loads((folder / "modules.json").read_text())[:1])


CHANGED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "Stanford's, by another name": ("stanford_multi_vector", named("BertModel"), "a projection of random numbers"),
    "PyLate's without a Dense": ("old_pylate_multi_vector", without_dense, "a projection of random numbers"),
    "PyLate's by Stanford's name": ("old_pylate_multi_vector", named("HF_ColBERT"), "says ColBERT"),
    "no settings of Normalize": (
        "saved_multi_vector",
        without("3_Normalize/config.json"),
        "3_Normalize/config.json does not say that vectors of tokens are normalized",
    ),
    "no settings of the mask": (
        "saved_multi_vector",
        without("2_MultiVectorMask/config.json"),
        "there is no 2_MultiVectorMask/config.json",
    ),
}


def test_a_model_that_the_loader_would_change_is_refused(ours: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Each of these loads without an error and gives other numbers than the whole model; `lock` says why."""
    jobs: list[tuple[Any, Path]] = []
    for name, (layout, change, told) in CHANGED.items():
        folder = getattr(models, layout)(tmp_path / name.replace(" ", "-"))
        change(folder)
        assert told in "\n".join(refusal(folder, WantedModel(Kind.MULTI_VECTOR, "owner/name"))), name
        jobs.append(("multi_vector", folder))
    for (layout, _, _), found in zip(CHANGED.values(), models.outputs(jobs), strict=True):
        assert found.tobytes() != ours[layout].tobytes(), layout
