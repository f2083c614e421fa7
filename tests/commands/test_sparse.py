"""Sparse encoders from the Hub to an application: every layout, by path and by id, queries and documents."""

from __future__ import annotations

import json
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
from tests.support.models.bert import save_bert
from tests.support.models.layouts import SPARSE_LAYOUTS
from tests.support.tiny import Shape, write_json

pytestmark = pytest.mark.slow

NAMES = [layout.make.__name__ for layout in SPARSE_LAYOUTS]
QUERY, DOCUMENT = ".encode_query(TEXTS).to_dense()", ".encode_document(TEXTS).to_dense()"
LINES = (
    (f"SparseEncoder(model){QUERY}", ""),
    (f"SparseEncoder(model){DOCUMENT}", ""),
    (f"cache_models.load_sparse_encoder(model){QUERY}", f"SparseEncoder(model){QUERY}"),
    (f"cache_models.load_sparse_encoder(model){DOCUMENT}", f"SparseEncoder(model){DOCUMENT}"),
)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> CachedLayouts:
    """A root with all of them."""
    return cache(tmp_path_factory.mktemp("sparse"), SPARSE_LAYOUTS)


@pytest.fixture(scope="module")
def ours(cached: CachedLayouts) -> dict[str, np.ndarray]:
    """What the directories give."""
    return cached.by_path()


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_gives_the_numbers_of_the_hub(name: str, cached: CachedLayouts, ours: dict[str, np.ndarray]) -> None:
    """Bit for bit, with nothing but its directory; and some words weigh something, not all of them."""
    expected, found = cached.online[name], ours[name]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert (found != 0).any(axis=1).all()
    assert (found == 0).any(axis=1).all()


def test_the_same_weights_in_another_layout_give_the_same_numbers(ours: dict[str, np.ndarray]) -> None:
    """SPLADE has four layouts here; its documents are those of the models whose queries go another way, too."""
    for name in ("saved_sparse", "raw_sparse", "raw_bin_sparse"):
        assert ours[name].tobytes() == ours["splade_sparse"].tobytes()
    for name in ("routes_sparse", "saved_routes_sparse"):
        queries, documents = np.split(ours[name], 2)
        assert (queries != documents).any()
    assert np.split(ours["saved_routes_sparse"], 2)[1].tobytes() == np.split(ours["splade_sparse"], 2)[1].tobytes()


def test_every_line_of_an_application_gives_the_numbers_of_the_directory(cached: CachedLayouts) -> None:
    """By id, with the Hub view and no network; `cache_models.load_sparse_encoder` gives the same."""
    loads, answers = cached.by_id(LINES)
    assert answers.differences(loads) == {}
    assert answers.tried == []


def test_they_are_whole(cached: CachedLayouts, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is as locked, and each model lies in the collection of its kind."""
    monkeypatch.chdir(cached.root)
    assert tool("verify").exit_code == 0
    assert (cached.root / "models.lock").read_text().count('kind = "sparse"') == len(NAMES)
    assert {home.name for home in (cached.root / "cached_sparse_models").iterdir() if home.name[0] != "."} == {
        f"org__{name}" for name in NAMES
    }


# what is refused -------------------------------------------------------------------------------------------------


def without_type(folder: Path) -> None:
    """Take away what says that it is a sparse encoder."""
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    del config["model_type"]
    write_json(path, config)


def without_router(folder: Path) -> None:
    """Leave the model that reads documents, and the table of words, as before version 5."""
    (folder / "modules.json").unlink()


def of_an_encoder(folder: Path) -> None:
    """Put weights without a head in the place of the others, of vectors that are wide enough for the random layer."""
    from transformers import BertConfig, BertModel

    save_bert(folder, BertModel(BertConfig(**Shape(hidden=64).config("BertModel"))))


def without_settings(folder: Path) -> None:
    """Take away that the logarithm is taken twice."""
    (folder / "document_1_SpladePooling" / "config.json").unlink()


CHANGED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no type": ("splade_sparse", without_type, "says SparseEncoder"),
    "no Router": ("routes_sparse", without_router, "does not read idf.json"),
    "no head": ("splade_sparse", of_an_encoder, "has no head over the vocabulary"),
    "no head, and no modules.json": ("raw_sparse", of_an_encoder, "a layer of random numbers"),
    "no settings of the pooling": (
        "routes_sparse",
        without_settings,
        "there is no document_1_SpladePooling/config.json",
    ),
}


def test_a_model_that_the_loader_would_change_is_refused(ours: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Each of these loads without an error and gives other numbers than the whole model; `lock` says why."""
    jobs: list[tuple[Any, Path]] = []
    for name, (layout, change, told) in CHANGED.items():
        folder = getattr(models, layout)(tmp_path / name.replace(" ", "-"))
        change(folder)
        assert told in "\n".join(refusal(folder, WantedModel(Kind.SPARSE, "owner/name"))), name
        jobs.append(("sparse", folder))
    for (layout, _, _), found in zip(CHANGED.values(), models.outputs(jobs), strict=True):
        assert found.tobytes() != ours[layout].tobytes(), layout
