"""HF_HUB_CACHE names the Hub view of a root, as in the images: to the tool it is a standard cache like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support.hub import StandInHub


@pytest.fixture
def root(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with both models, and its view as the standard cache of the next runs."""
    from huggingface_hub import constants

    root = pair.folder.parent / "root"
    monkeypatch.setenv("CACHE_MODELS_ROOT", str(root))
    assert pair("sync").exit_code == 0
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
    return root


def test_a_damaged_file_is_not_mended_with_itself(root: Path, pair: Tool, hub: StandInHub) -> None:
    """Its link in the view leads back to it; the Hub has the right bytes."""
    before = files_below(root)
    home = root / "cached_embedding_models" / EMBEDDING.replace("/", "__")
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    hub.forget()
    assert pair("sync").exit_code == 0
    assert {request.file for request in hub.requests} == {"model.safetensors"}
    assert {path: content for path, content in files_below(root).items() if "stamp" not in path} == {
        path: content for path, content in before.items() if "stamp" not in path
    }


def test_a_removed_model_is_fetched_again(root: Path, pair: Tool, hub: StandInHub) -> None:
    """The links of the view lead nowhere."""
    home = root / "cached_reranker_models" / RERANKER.replace("/", "__")
    before = files_below(home)
    shutil.rmtree(home)
    assert pair("sync").exit_code == 0
    assert files_below(home) == before


def test_another_root_is_filled_from_it(root: Path, pair: Tool, hub: StandInHub) -> None:
    """With copies and no links, and no file is asked for."""
    hub.forget()
    other = root.parent / "other"
    assert pair("sync", "--root", str(other), "--locked").exit_code == 0
    for folder in ("cached_embedding_models", "cached_reranker_models"):
        assert files_below(other / folder) == files_below(root / folder)
        assert not [path for path in (other / folder).rglob("*") if path.is_symlink()]
        ours = {path.stat().st_ino for path in (root / folder).rglob("*") if path.is_file()}
        assert ours.isdisjoint(path.stat().st_ino for path in (other / folder).rglob("*"))
    assert [request for request in hub.requests if request.file] == []
