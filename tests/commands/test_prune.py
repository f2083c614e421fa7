"""`prune` removes what the lock does not name, and says so where the lock may be too old to be asked."""

from __future__ import annotations

import json
import shutil

import pytest

from modelcache.formats.lockfile import format_lock, parse_lock
from tests.conftest import EMBEDDING, RERANKER, Tool, files_below


def forget(tool: Tool, model_id: str) -> None:
    """Take a model out of the lock, as a branch has it that was made before."""
    path = tool.folder / "models.lock"
    path.write_text(format_lock(pin for pin in parse_lock(path.read_bytes(), path.name) if pin.id != model_id))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["really", "dry run"])
def test_prune_refuses_to_remove_a_model_that_the_manifest_wants(pair: Tool, dry: list[str]) -> None:
    """Exit 2 with its id and the way out; nothing is removed, not even what nothing wants."""
    pair("sync")
    forget(pair, RERANKER)
    shutil.copytree(pair.home(EMBEDDING), pair.home("old/copy"))
    before = files_below(pair.folder)
    ran = pair("prune", *dry)
    assert ran.exit_code == 2
    told = ran.err.splitlines()[0]
    assert RERANKER in told
    assert EMBEDDING not in told
    assert "cache-models lock" in ran.err
    assert files_below(pair.folder) == before
    pair("lock")
    assert pair("prune").exit_code == 0
    assert [pair.home("old/copy").exists(), pair.home(RERANKER, "reranker").exists()] == [False, True]


def test_prune_does_not_mind_a_wanted_model_that_is_not_here(pair: Tool) -> None:
    """There is nothing of it to lose."""
    pair("sync")
    forget(pair, RERANKER)
    shutil.rmtree(pair.home(RERANKER, "reranker"))
    assert pair("prune").exit_code == 0


def test_prune_goes_by_the_lock_alone_where_there_is_no_manifest(pair: Tool) -> None:
    """As in an image."""
    pair("sync")
    forget(pair, RERANKER)
    (pair.folder / "models.toml").unlink()
    ran = pair("prune", "--manifest", "gone.toml", "--lockfile", "models.lock")
    assert ran.exit_code == 0
    assert [pair.home(EMBEDDING).exists(), pair.home(RERANKER, "reranker").exists()] == [True, False]


def test_prune_refuses_a_manifest_that_it_cannot_read(pair: Tool) -> None:
    """It may want what the lock does not name."""
    pair("sync")
    forget(pair, RERANKER)
    (pair.folder / "models.toml").write_text("[[embeddin")
    assert pair("prune").exit_code == 2
    assert pair.home(RERANKER, "reranker").exists()


def test_prune_notes_a_model_that_only_the_lock_still_names(pair: Tool) -> None:
    """It is kept, and the note says how to drop it; one that is not here is not worth a word."""
    pair("sync")
    pair.want(EMBEDDING)
    events = [json.loads(line) for line in pair("prune", "--log-format=json").err.splitlines()]
    assert [(event["event"], event.get("model")) for event in events] == [("note", RERANKER), ("ready", None)]
    assert "cache-models lock" in events[0]["text"]
    assert pair.home(RERANKER, "reranker").exists()
    shutil.rmtree(pair.home(RERANKER, "reranker"))
    assert "  note " not in pair("prune").err
    pair("sync")
    pair("lock")
    ran = pair("prune")
    assert (ran.exit_code, "  note " in ran.err) == (0, False)


def test_a_copy_of_a_wanted_model_under_another_name_is_removed(pair: Tool) -> None:
    """Its receipt names the wanted model, and the model itself is in its own place."""
    pair("sync")
    shutil.copytree(pair.home(EMBEDDING), pair.home("old/copy"))
    assert pair("prune").exit_code == 0
    assert [pair.home(EMBEDDING).exists(), pair.home("old/copy").exists()] == [True, False]
