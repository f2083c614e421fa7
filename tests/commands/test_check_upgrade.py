"""`check` after an upgrade of models: by how much their outputs moved, and whether an index has to be made anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.support.checked_root import Checked, Root
from tests.support.hub import StandInHub
from tests.support.models.layouts import LAYOUTS, MULTI_VECTOR_LAYOUTS, SPARSE_LAYOUTS, Layout

pytestmark = pytest.mark.slow

FOUND = {layout.make.__name__: layout for layout in (*LAYOUTS, *SPARSE_LAYOUTS, *MULTI_VECTOR_LAYOUTS)}
CARD, EMBEDDING, RERANKER, SPARSE, MATRICES = (
    FOUND[name]
    for name in ("static_embedding", "plain_embedding", "plain_reranker", "splade_sparse", "pylate_multi_vector")
)
MODELS = (CARD, EMBEDDING, RERANKER, SPARSE, MATRICES)


def train_further(model: Path) -> None:
    """Change all weights a little, as more training does."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(1)
    tensors: dict[str, Any] = load_file(model / "model.safetensors")
    moved = {
        name: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape) if tensor.dim() > 1 else tensor
        for name, tensor in tensors.items()
    }
    save_file(moved, model / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Models of every kind, recorded, and then upgraded: one got another card, and the others other weights."""
    folder = tmp_path_factory.mktemp("check-upgrade")
    with StandInHub() as hub:
        repositories = {layout: layout.make(folder / layout.make.__name__) for layout in MODELS}
        for layout, repository in repositories.items():
            hub.add(layout.id, repository)
        root = Root.cached(folder / "root", hub, [layout.table for layout in MODELS])
        assert root.check("--record").exit_code == 0
        (repositories[CARD] / "README.md").write_text("Another card\n")
        for layout, repository in repositories.items():
            if layout is not CARD:
                train_further(repository)
            hub.add(layout.id, repository)
        for words in (["lock", "--upgrade"], ["sync"]):
            command = [sys.executable, str(PROJECT / "cache_models.py"), *words, "--quiet"]
            subprocess.run(command, cwd=root.folder, env={**os.environ, "HF_ENDPOINT": hub.url}, check=True)
    return root


@pytest.fixture(scope="module")
def checked(root: Root) -> Checked:
    """The first check after the upgrade, which records nothing."""
    return root.check()


def note_of(checked: Checked, layout: Layout) -> str:
    """The note that compares a model with its recorded version."""
    notes = [line for line in checked.lines if line["event"] == "note" and line["model"] == layout.id]
    (text,) = [line["text"] for line in notes if "compared with" in line["text"]]
    return str(text)


FIGURES = r"cosine at least (-?[01]\.\d+), mean -?[01]\.\d+; "
SCORES = r"scores differ by [\d.e-]+ at most, [\d.e-]+ on average; "
ORDER = r"[0-7] of [3-7] texts keep their nearest one, [0-7] the whole order; "


@pytest.mark.parametrize(
    ("layout", "ending"),
    [
        (CARD, "0 of 8 outputs changed; vectors stay as they are, as far as these texts show"),
        (EMBEDDING, rf"8 of 8 outputs changed; {FIGURES}{ORDER}vectors will differ: re-index"),
        (RERANKER, rf"9 of 9 outputs changed; {SCORES}the order of the texts (stays|changes, .*); scores will differ"),
        (SPARSE, rf"\d+ of 16 outputs changed; {FIGURES}{ORDER}.*vectors will differ: re-index"),
        (MATRICES, rf"\d+ of 17 outputs changed; {FIGURES}{SCORES}{ORDER}vectors will differ: re-index"),
    ],
    ids=lambda value: value.id if isinstance(value, Layout) else "",
)
def test_an_upgraded_model_is_compared_with_the_recorded_version(layout: Layout, ending: str, checked: Checked) -> None:
    """Exit 0: the new version was never recorded; the note says whether an index can stay."""
    assert checked.exit_code == 0
    assert checked.rows[layout.id]["event"] == "unproven"
    beginning = re.escape(f"note     {layout.id}: compared with the recorded version: ")
    assert re.fullmatch(beginning + ending, note_of(checked, layout)), note_of(checked, layout)


def test_the_row_has_the_figures_for_programs(checked: Checked) -> None:
    """Those that the outputs of a kind have, and the effect by its name."""
    assert {layout.id: checked.rows[layout.id]["effect"] for layout in MODELS} == {
        layout.id: "none" if layout is CARD else "certain" for layout in MODELS
    }
    card, embedding, reranker = (checked.rows[layout.id] for layout in (CARD, EMBEDDING, RERANKER))
    assert (card["recorded"], card["changed"], card["cosine_min"]) == (8, 0, 1.0)
    assert -1 <= embedding["cosine_min"] <= embedding["cosine_mean"] < 0.99999
    assert "score_max" not in embedding
    assert reranker["score_max"] >= reranker["score_mean"] > 1e-4
    assert (reranker["queries"], "cosine_min" in reranker) == (1, False)
    assert {"cosine_min", "score_max", "same_order"} <= checked.rows[MATRICES.id].keys()
    for row in checked.rows.values():
        json.dumps(row, allow_nan=False)


def test_recording_the_upgrade_says_the_same(root: Root, checked: Checked) -> None:
    """When the new numbers replace the old ones, the comparison is printed for the last time."""
    recorded = root.check("--record")
    assert recorded.exit_code == 0
    assert [note_of(recorded, layout) for layout in MODELS] == [note_of(checked, layout) for layout in MODELS]
    again = root.check()
    assert not [line for line in again.lines if "compared with" in line["text"]]
    assert {(row["event"], row["effect"], row["changed"]) for row in again.rows.values()} == {("proven", "none", 0)}
