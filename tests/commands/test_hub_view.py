"""The Hub view in a root: `sync` writes it and mends it, `verify` and `status` look at it, `prune` removes it.

Programs that load by id are in test_by_id.py, replacements in tests/faults/test_replaced_by_id.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

import cache_models
from modelcache.core.names import PUBLISHED_MTIME
from modelcache.formats.lockfile import parse_lock
from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

VIEW = "hub/models--tinyorg--embedding"


def pin(tool: Tool, model_id: str = EMBEDDING) -> tuple[str, str]:
    """The revision and the commit that the lock pins."""
    lock = parse_lock((tool.folder / "models.lock").read_bytes(), "models.lock")
    return next((model.revision, model.commit) for model in lock if model.id == model_id)


def entries(folder: Path) -> dict[str, str]:
    """Everything in a view that is no directory: the text of a file, the target of a link."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in paths
    }


def test_a_view_has_a_link_for_each_file(pair: Tool) -> None:
    """One ref, and a snapshot whose links lead to the published files; the receipt is none of them."""
    pair("sync")
    _, commit = pin(pair)
    snapshot = pair.folder / VIEW / "snapshots" / commit
    assert (pair.folder / VIEW / "refs" / "main").read_bytes() == commit.encode()
    published = files_below(pair.home(EMBEDDING))
    published.pop(".cache-models.json")
    assert files_below(snapshot) == published
    links = [path for path in snapshot.rglob("*") if not path.is_dir()]
    assert all(path.is_symlink() and not os.readlink(path).startswith("/") for path in links)
    assert {path.name for path in (pair.folder / VIEW).iterdir()} == {"refs", "snapshots"}


def test_every_entry_has_the_one_mtime(pair: Tool) -> None:
    """Equal views make equal image layers, and a link has a time of its own."""
    pair("sync")
    hub = pair.folder / "hub"
    assert {path.lstat().st_mtime for path in (hub, *hub.rglob("*"))} == {PUBLISHED_MTIME}


def test_a_root_can_be_moved_and_mounted_elsewhere(pair: Tool, tmp_path: Path) -> None:
    """Its links are relative, so they lead nowhere else."""
    pair("sync")
    shutil.copytree(pair.folder, tmp_path / "elsewhere", symlinks=True)
    before = files_below(pair.folder / "hub")
    shutil.rmtree(pair.folder)
    assert files_below(tmp_path / "elsewhere" / "hub") == before


def test_a_pinned_tag_is_found_by_both_names(pair: Tool, hub: StandInHub) -> None:
    """A program that names no revision asks for `main`, which then is the pinned commit, too."""
    pair("lock", "--root", str(pair.folder / "other"))
    hub.tag(EMBEDDING, "v1.0", pin(pair)[1])
    pair.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1.0"\n')
    assert pair("sync").exit_code == 0
    refs = entries(pair.folder / VIEW / "refs")
    assert refs == dict.fromkeys(("main", "v1.0"), pin(pair)[1])


def test_a_model_from_a_directory_has_a_view(tool: Tool, tmp_path: Path) -> None:
    """Its commit is a part of its set digest."""
    source = tiny.tiny_embedding(tmp_path / "source")
    tool.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\npath = "{source}"\n')
    assert tool("sync").exit_code == 0
    commit = (tool.folder / VIEW / "refs" / "main").read_text()
    assert (tool.folder / "models.lock").read_text().count(f'set_digest = "{commit}') == 1
    assert (tool.folder / VIEW / "snapshots" / commit / "config.json").read_bytes()


def test_the_revision_moves_and_the_commit_stays(pair: Tool, hub: StandInHub) -> None:
    """Also where git can have only one of two names at a time: the older one makes way."""
    pair("lock", "--root", str(pair.folder / "other"))
    commit = pin(pair)[1]
    for revision in ("v1", "v1/x", "v1", "refs/pr/1", "main/x", "main"):
        if revision != "main":
            hub.tag(EMBEDDING, revision, commit)
        pair.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "{revision}"\n')
        assert pair("sync").exit_code == 0
        refs = entries(pair.folder / VIEW / "refs")
        assert set(refs.values()) == {commit}
        assert {"main", revision} - {"main/x"} <= refs.keys()
        assert pair("sync").err == f"1 model ready in {pair.folder}: unchanged.\n"


@pytest.mark.parametrize("theirs", ["v1", "v1/x/y"])
def test_a_ref_of_a_client_is_not_removed_for_one_of_ours(pair: Tool, hub: StandInHub, theirs: str) -> None:
    """The model is in place without a view, and the message names the ref."""
    pair("lock", "--root", str(pair.folder / "other"))
    hub.tag(EMBEDDING, "v1/x", pin(pair)[1])
    pair.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1/x"\n')
    ref = pair.folder / VIEW / "refs" / theirs
    ref.parent.mkdir(parents=True)
    ref.write_text("f" * 40)
    ran = pair("sync")
    assert ran.exit_code == 0
    assert f"{EMBEDDING} has no Hub view, so programs find it by its path alone: {ref} is in the way" in ran.err
    assert ". Remove it, then run this again.\n" in ran.err
    assert entries(pair.folder / VIEW) == {f"refs/{theirs}": "f" * 40}
    assert pair("status").exit_code == 0
    assert pair("verify").exit_code == 0
    assert pair("sync").err == f"1 model ready in {pair.folder}: unchanged.\n"


def remove_root_view(tool: Tool) -> None:
    """As in a root of an older version of the tool."""
    shutil.rmtree(tool.folder / "hub")


def remove_link(tool: Tool) -> None:
    """A link that is not there."""
    (tool.folder / VIEW / "snapshots" / pin(tool)[1] / "config.json").unlink()


def retarget_link(tool: Tool) -> None:
    """A link to another model."""
    link = tool.folder / VIEW / "snapshots" / pin(tool)[1] / "config.json"
    link.unlink()
    link.symlink_to("../../../../cached_reranker_models/tinyorg__reranker/config.json")


def replace_link(tool: Tool) -> None:
    """A file in the place of a link, as a client with `force_download` leaves one."""
    link = tool.folder / VIEW / "snapshots" / pin(tool)[1] / "1_Pooling" / "config.json"
    link.unlink()
    link.write_text("{}")


def move_ref(tool: Tool) -> None:
    """Another commit, as an online client writes one."""
    (tool.folder / VIEW / "refs" / "main").write_text("f" * 40)


def remove_ref(tool: Tool) -> None:
    """No ref."""
    (tool.folder / VIEW / "refs" / "main").unlink()


def add_old_snapshot(tool: Tool) -> None:
    """An old commit that leads to the new bytes, as an older version of the tool would leave it."""
    snapshots = tool.folder / VIEW / "snapshots"
    shutil.copytree(snapshots / pin(tool)[1], snapshots / ("e" * 40), symlinks=True)


def leave_work(tool: Tool) -> None:
    """A snapshot in the making, of a run that was killed after another one had written the stamp."""
    (tool.folder / VIEW / ".cache-models" / f"{pin(tool)[1]}~0123456789ab").mkdir(parents=True)


DAMAGES = [remove_link, retarget_link, replace_link, move_ref, remove_ref, add_old_snapshot]


@pytest.mark.parametrize("damage", [remove_root_view, leave_work, *DAMAGES])
def test_a_damaged_view_is_noticed_and_mended(pair: Tool, hub: StandInHub, damage: Callable[[Tool], None]) -> None:
    """By a quick start as well: it costs one line, and no request."""
    pair("sync")
    before = entries(pair.folder / "hub")
    assert pair("sync").err == f"2 models ready in {pair.folder}: unchanged.\n"
    damage(pair)
    hub.forget()
    planned = pair("sync", "--dry-run")
    assert f"  link     {EMBEDDING}" in planned.err
    assert "Hub view: " in planned.err
    mended = pair("sync")
    assert mended.exit_code == 0
    assert f"  link     {EMBEDDING}: Hub view written\n" in mended.err
    assert hub.requests == []
    assert entries(pair.folder / "hub") == before
    assert pair("sync").err == f"2 models ready in {pair.folder}: unchanged.\n"


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_and_status_see_a_damaged_view(pair: Tool, damage: Callable[[Tool], None]) -> None:
    """A program would get other bytes than those that are pinned, or none."""
    pair("sync")
    assert pair("verify").exit_code == 0
    damage(pair)
    found = pair("verify")
    assert found.exit_code == 1
    assert f"error: {EMBEDDING} has a Hub view that does not match its pin ({pair.folder / VIEW}): " in found.err
    assert "hint: Run `cache-models sync` to write it again.\n" in found.err
    assert f"ok       {RERANKER}" in found.err
    (row, other) = json.loads(pair("status", "--json").out)
    assert (row["hub_view"], other["hub_view"]) == (False, True)
    assert row["state"].startswith("ready: Hub view: ")
    pair("sync")
    assert pair("verify").exit_code == 0


def test_verify_finds_no_fault_with_a_root_without_views(pair: Tool) -> None:
    """It may be on a volume without links; this and `status` say it."""
    pair("sync")
    assert "Hub view" not in pair("verify").err
    remove_root_view(pair)
    found = pair("verify")
    assert found.exit_code == 0
    assert (
        f"note     not in the Hub view: {EMBEDDING}, {RERANKER}. Programs find them by their paths alone" in found.err
    )
    assert [row["hub_view"] for row in json.loads(pair("status", "--json").out)] == [False, False]
    assert "ready: Hub view: it is not there" in pair("status").out


def test_a_new_version_replaces_the_view(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Of the old commit nothing is left: its links would lead to the new bytes."""
    pair("sync")
    old = pin(pair)[1]
    (tmp_path / "embedding" / "vocab.txt").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade")
    pair("sync")
    new = pin(pair)[1]
    assert old != new
    assert [path.name for path in (pair.folder / VIEW / "snapshots").iterdir()] == [new]
    assert (pair.folder / VIEW / "refs" / "main").read_text() == new
    assert (pair.folder / VIEW / "snapshots" / new / "vocab.txt").read_text() == "moved on"


def test_an_old_version_has_its_view_while_the_new_one_cannot_be_fetched(
    pair: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """Also when a run was killed while it replaced it, and has left its view held."""
    pair("sync")
    before = entries(pair.folder / "hub")
    weights = tmp_path / "embedding" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade", "--root", str(tmp_path / "other"))
    snapshot = next((pair.folder / VIEW / "snapshots").iterdir())
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../.cache-models/being-replaced")
    hub.close()
    assert pair("sync").exit_code == 3
    assert entries(pair.folder / "hub") == before


def test_a_fetch_that_fails_leaves_no_view(pair: Tool, hub: StandInHub) -> None:
    """A program finds no model, and no link that leads nowhere."""
    pair("lock", "--root", str(pair.folder / "other"))
    hub.close()
    assert pair("sync").exit_code == 3
    assert not (pair.folder / "hub").exists()


def test_prune_removes_the_view(pair: Tool) -> None:
    """And leaves those of other models; without any, no directory is left."""
    pair("sync")
    pair.want(EMBEDDING)
    pair("lock")
    assert pair("prune").exit_code == 0
    assert [path.name for path in (pair.folder / "hub").iterdir()] == ["models--tinyorg--embedding"]
    assert pair("sync").err == f"1 model ready in {pair.folder}: unchanged.\n"
    pair.want()
    pair("lock")
    pair("prune")
    assert not (pair.folder / "hub").exists()


def test_prune_leaves_the_view_of_a_model_that_has_another_table_now(pair: Tool) -> None:
    """Its id leads to the directory of its new kind; the one of the old kind goes."""
    pair("sync")
    before = entries(pair.folder / "hub")
    shutil.copytree(pair.home(EMBEDDING), pair.home(EMBEDDING, "reranker"))
    assert pair("prune").exit_code == 0
    assert not pair.home(EMBEDDING, "reranker").exists()
    assert entries(pair.folder / "hub") == before


def test_prune_removes_the_view_of_a_model_that_was_removed_by_hand(pair: Tool) -> None:
    """Its links lead nowhere; a dry run names it and leaves it."""
    pair("sync")
    shutil.rmtree(pair.home(RERANKER, "reranker"))
    pair.want(EMBEDDING)
    pair("lock")
    folder = pair.folder / "hub" / "models--tinyorg--reranker"
    for word in ("--dry-run", "--quiet"):
        assert folder.exists()
        ran = pair("prune", word)
        assert (f"remove   {RERANKER}: Hub view without a model" in ran.err) is (word == "--dry-run")
    assert not folder.exists()


def test_a_view_comes_with_the_models_of_another_root(pair: Tool) -> None:
    """`sync --from` makes it anew, whatever the other root has."""
    pair("sync")
    remove_root_view(pair)
    claim = pair.folder / "claim"
    assert pair("sync", "--from", str(pair.folder), "--root", str(claim)).exit_code == 0
    assert entries(claim / VIEW / "refs") == {"main": pin(pair)[1]}


def test_the_functions_write_a_view_in_a_root(pair: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a directory with another name they do not: its parent is no root."""
    monkeypatch.chdir(pair.folder)
    cache_models.cache_sentence_transformers([EMBEDDING], cache_models.EMBEDDINGS_DIR)
    cache_models.cache_cross_encoders([RERANKER], tmp_path / "rerankers")
    assert [path.name for path in (pair.folder / "hub").iterdir()] == ["models--tinyorg--embedding"]
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_volume_without_links_has_no_view(pair: Tool, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """That is said once for each model; the models are in place, and later starts are quick."""

    def refuse(*words: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", refuse)
    ran = pair("sync")
    assert ran.exit_code == 0
    assert ran.err.count("has no Hub view, so programs find it by its path alone: ") == 2
    assert not (pair.folder / "hub").exists()
    assert pair("verify").exit_code == 0
    assert [row["hub_view"] for row in json.loads(pair("status", "--json").out)] == [False, False]
    assert pair("sync").err == f"2 models ready in {pair.folder}: unchanged.\n"


def test_a_cache_of_a_client_stays_whole_on_a_volume_without_links(
    pair: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ref, too, by which the client finds its snapshot of the same commit."""
    snapshot_download(EMBEDDING, cache_dir=pair.folder / "hub", endpoint=hub.url)
    before = files_below(pair.folder / "hub")

    def refuse(*words: object, **more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    assert "has no Hub view" in pair("sync").err
    assert files_below(pair.folder / "hub") == before
    assert not list((pair.folder / VIEW).glob(".*"))


def test_a_read_only_root_without_views_is_in_place(pair: Tool, small_volume: Path) -> None:
    """A root of an older version of the tool, on a volume that nobody can write."""
    subprocess.run(["mount", "-o", "remount,size=10m", small_volume], check=True)
    pair("sync", "--root", str(small_volume))
    shutil.rmtree(small_volume / "hub")
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    ran = pair("sync", "--root", str(small_volume))
    assert ran.exit_code == 0
    assert f"{EMBEDDING} has no Hub view" in ran.err
    assert "Read-only file system" in ran.err


@pytest.mark.parametrize(
    "place", ["hub", VIEW, f"{VIEW}/refs", f"{VIEW}/snapshots", f"{VIEW}/.cache-models", f"{VIEW}/snapshots/COMMIT"]
)
@pytest.mark.parametrize("thing", ["a file", "a link"])
def test_nothing_is_written_behind_a_link_or_in_the_place_of_a_file(
    pair: Tool, tmp_path: Path, place: str, thing: str
) -> None:
    """What is there stays, the model is in place without a view, and the message names what is in the way."""
    pair("lock", "--root", str(tmp_path / "other"))
    odd = pair.folder / place.replace("COMMIT", pin(pair)[1])
    odd.parent.mkdir(parents=True, exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("of somebody")
    if thing == "a link":
        odd.symlink_to(elsewhere)
    else:
        odd.write_text("of somebody")
    ran = pair("sync")
    assert ran.exit_code == 0
    assert files_below(elsewhere) == {"config.json": b"of somebody"}
    assert {path.name for path in elsewhere.iterdir()} == {"config.json"}
    assert "has no Hub view" in ran.err
    assert str(odd) in ran.err
    assert pair("status").exit_code == 0


@pytest.mark.parametrize("place", ["refs", ".cache-models", "snapshots/COMMIT"])
def test_no_model_is_replaced_while_its_view_cannot_be_held(
    pair: Tool, hub: StandInHub, tmp_path: Path, place: str
) -> None:
    """Its links would lead from the old commit to the new bytes; so the old version stays until somebody tidies up."""
    pair("sync")
    snapshot = pair.folder / VIEW / "snapshots" / pin(pair)[1]
    (tmp_path / "embedding" / "vocab.txt").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade")
    odd = pair.folder / VIEW / place.replace("COMMIT", pin(pair)[1])
    if odd.exists():
        odd.rename(tmp_path / "moved")
    odd.write_text("of somebody")
    before = files_below(snapshot)
    ran = pair("sync")
    assert ran.exit_code == 4
    assert f"{odd} is not a directory" in ran.err
    assert files_below(snapshot) == before
    odd.unlink()
    assert pair("sync").exit_code == 0
    assert pair("verify").exit_code == 0
    assert not snapshot.exists()


def test_verify_sees_a_view_that_cannot_be_read_whole(pair: Tool, tmp_path: Path) -> None:
    """A link in the place of its refs leads programs anywhere."""
    pair("sync")
    refs = pair.folder / VIEW / "refs"
    refs.rename(tmp_path / "refs")
    refs.symlink_to(tmp_path / "refs")
    found = pair("verify")
    assert found.exit_code == 1
    assert f"{refs} is not a directory" in found.err


@pytest.mark.parametrize("left", [None, b"", b"this model is being replaced: load it again\n"])
def test_a_held_snapshot_goes_after_a_power_cut(pair: Tool, left: bytes | None) -> None:
    """The sentence may have lost its bytes, or be gone; its links are no files of a client all the same."""
    pair("sync")
    before = entries(pair.folder / "hub")
    held = pair.folder / VIEW / "snapshots" / ("e" * 40) / "config.json"
    held.parent.mkdir()
    held.symlink_to("../../.cache-models/being-replaced")
    if left is not None:
        (pair.folder / VIEW / ".cache-models").mkdir()
        (pair.folder / VIEW / ".cache-models" / "being-replaced").write_bytes(left)
    assert pair("verify").exit_code == 1
    assert pair("sync").exit_code == 0
    assert entries(pair.folder / "hub") == before


def test_what_a_killed_run_had_half_removed_is_no_snapshot(pair: Tool) -> None:
    """It was on its way out; nothing of it comes back under another name."""
    pair("sync")
    before = entries(pair.folder / "hub")
    grave = pair.folder / VIEW / ".cache-models" / ".gone~0123"
    grave.mkdir(parents=True)
    (grave / "config.json").write_text("{}")
    (pair.folder / VIEW / "refs" / "main").unlink()
    assert pair("sync").exit_code == 0
    assert entries(pair.folder / "hub") == before
