"""The main job, seen from outside: files on disk, modes, requests counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.names import PUBLISHED_MTIME
from modelcache.core.types import LARGEST_TEXT
from modelcache.transfer.host_limit import HostLimit
from tests.conftest import EMBEDDING, RERANKER, Tool, files_below, unreadable
from tests.support import models, tiny
from tests.support.hub import Slow, StandInHub


def test_sync_publishes_every_model_of_the_manifest(pair: Tool, tmp_path: Path) -> None:
    """Each id ends as its directory, with the repository's own bytes and a receipt."""
    ran = pair("sync")
    assert (ran.exit_code, ran.out) == (0, "")
    assert ran.err.splitlines()[-1] == f"2 models ready in {pair.folder}: 2 fetched."
    for model_id, kind, source in [
        (EMBEDDING, "embedding", tmp_path / "embedding"),
        (RERANKER, "reranker", tmp_path / "reranker"),
    ]:
        published, repository = files_below(pair.home(model_id, kind)), files_below(source)
        assert published.keys() == repository.keys() - {".gitattributes"} | {".cache-models.json"}
        assert all(content == repository[path] for path, content in published.items() if path in repository)


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_jobs_bounds_what_is_asked_at_the_same_time(
    hub: StandInHub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """Whether models are pinned or fetched, one or many; with a committed lock every file is fetched by `sync`."""
    content = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    for number in range(6):
        hub.add(f"many/{number}", content)
    tool.want(*(f"many/{number}" for number in range(6)))
    lock, now, seen = threading.Lock(), 0, list[int]()

    @contextmanager
    def counted(limit: HostLimit, sending: Any = HostLimit.sending) -> Iterator[None]:
        nonlocal now
        with lock:
            now += 1
            seen.append(now)
        try:
            with sending(limit):
                time.sleep(0.002)
                yield
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(HostLimit, "sending", counted)
    for command in ("lock", "sync"):
        seen.clear()
        assert tool(command, f"--jobs={jobs}").exit_code == 0
        assert 1 <= max(seen) <= jobs


def test_second_sync_makes_no_request(pair: Tool, hub: StandInHub) -> None:
    """A cache that is in place is left alone, without asking the Hub."""
    pair("sync")
    hub.forget()
    ran = pair("sync")
    assert (ran.exit_code, ran.err) == (0, f"2 models ready in {pair.folder}: unchanged.\n")
    assert hub.requests == []


def test_second_sync_works_while_the_hub_is_down(pair: Tool, hub: StandInHub) -> None:
    """An outage never stops a start whose bytes are there, also not without stamp and without lock."""
    pair("sync")
    hub.close()
    (pair.folder / ".cache-models.stamp").unlink()
    (pair.folder / "models.lock").unlink()
    assert pair("sync").exit_code == 0


def test_published_files_are_world_readable(pair: Tool) -> None:
    """Files are 0644 and directories 0755 with one mtime, whatever the umask."""
    before = os.umask(0o077)
    try:
        pair("sync")
    finally:
        os.umask(before)
    home = pair.home(EMBEDDING)
    for path in (home, *home.rglob("*")):
        found = path.lstat()
        assert stat.S_IMODE(found.st_mode) == (0o755 if path.is_dir() else 0o644), path
        assert found.st_mtime == 315532800, path
        assert not path.is_symlink()


def test_nothing_but_models_lock_and_stamp_is_left(pair: Tool) -> None:
    """No staging, no lease, no cache of anybody lies about after a run."""
    pair("sync")
    assert sorted(path.name for path in pair.folder.iterdir()) == [
        ".cache-models.stamp",
        "cached_embedding_models",
        "cached_reranker_models",
        "hub",
        "models.lock",
        "models.toml",
    ]
    assert [path.name for path in (pair.folder / "cached_embedding_models").iterdir()] == ["tinyorg__embedding"]


@pytest.mark.parametrize("last", [("sync",), ("prune",), ("sync", EMBEDDING)], ids=" ".join)
def test_every_directory_of_ours_has_the_one_mtime(pair: Tool, last: tuple[str, ...]) -> None:
    """Equal roots make equal image layers; the root itself is the user's."""
    pair("sync")
    if last == ("prune",):
        pair.want(EMBEDDING)
        pair("lock")
    else:
        (pair.home(EMBEDDING) / "more").touch()
    assert pair(*last).exit_code == 0
    folders = [path for path in pair.folder.rglob("*") if path.is_dir()]
    assert {path.name for path in folders} >= {"cached_embedding_models", "cached_reranker_models", "1_Pooling"}
    assert {path.stat().st_mtime for path in folders} == {PUBLISHED_MTIME}
    assert pair.folder.stat().st_mtime > PUBLISHED_MTIME


@pytest.mark.parametrize("how", ["written", "replaced, with its times", "written, with its times, and verified"])
def test_changed_byte_is_refetched(pair: Tool, hub: StandInHub, how: str) -> None:
    """A byte that changed on disk is noticed, and only that file is fetched.

    Only `verify` sees a file that was changed in place and got its mtime back: the stamp says why.
    """
    pair("sync")
    weights = pair.home(EMBEDDING) / "model.safetensors"
    good, times = weights.read_bytes(), weights.stat()
    target = weights.with_name("new") if how.startswith("replaced") else weights
    target.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    target.rename(weights)
    if "times" in how:
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    if how.endswith("verified"):
        assert pair("sync").err.endswith("unchanged.\n")
        assert pair("verify").exit_code == 1
    hub.forget()
    assert pair("sync").exit_code == 0
    assert weights.read_bytes() == good
    assert {request.file for request in hub.requests} == {"model.safetensors"}


def test_missing_and_extra_files_are_repaired(pair: Tool, hub: StandInHub) -> None:
    """A model directory ends as exactly what the lock names."""
    pair("sync")
    home = pair.home(EMBEDDING)
    before = files_below(home)
    (home / "1_Pooling" / "config.json").unlink()
    (home / "surplus.json").write_text("{}")
    assert pair("sync").exit_code == 0
    assert files_below(home) == before


def test_a_touched_file_is_read_and_kept(pair: Tool, hub: StandInHub) -> None:
    """Another mtime costs one reading, no fetching; then the second start is quiet again."""
    pair("sync")
    (pair.home(EMBEDDING) / "config.json").touch()
    hub.forget()
    assert "unchanged" in pair("sync").err
    assert hub.requests == []


def test_a_copied_root_is_taken_as_it_is(pair: Tool, hub: StandInHub) -> None:
    """A volume restored from elsewhere, with other times, needs no Hub."""
    pair("sync")
    shutil.copytree(pair.folder, pair.folder.parent / "copy", copy_function=shutil.copyfile)
    hub.forget()
    ran = pair("sync", "--root", str(pair.folder.parent / "copy"))
    assert (ran.exit_code, hub.requests) == (0, [])


def test_without_a_lock_the_receipts_are_the_pin(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """What is on disk is kept with no request although `main` has moved on, and the lock is written from it."""
    pair("sync")
    lock = (pair.folder / "models.lock").read_text()
    (pair.folder / "models.lock").unlink()
    (tmp_path / "embedding" / "README.md").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    hub.forget()
    assert pair("sync").exit_code == 0
    assert hub.requests == []
    assert (pair.folder / "models.lock").read_text() == lock


def test_a_receipt_that_cannot_be_read_moves_no_model(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """A disk that fails for a moment is no missing receipt: without a lock that would fetch what is newest."""
    pair("sync")
    (pair.folder / "models.lock").unlink()
    (tmp_path / "embedding" / "README.md").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    home = pair.home(EMBEDDING)
    before = (home / "README.md").read_bytes()
    hub.forget()
    with unreadable(home / ".cache-models.json"):
        for words in (["sync"], ["sync", "--dry-run"], ["verify"], ["status"], ["path", EMBEDDING], ["prune"]):
            told = pair(*words)
            broken = words != ["prune"]  # which wants a lock, and looks no further
            assert told.exit_code == (4 if broken else 2), told.err
            assert not broken or "Input/output error" in told.err, told.err
    assert hub.requests == []
    assert (home / "README.md").read_bytes() == before
    assert pair("sync").exit_code == 0
    assert hub.requests == []


def test_a_locked_model_is_not_moved_by_sync(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Only `lock` may ask what is newest; an empty root is filled with the pinned commit."""
    pair("lock")
    (tmp_path / "embedding" / "README.md").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    assert pair("sync").exit_code == 0
    assert (pair.home(EMBEDDING) / "README.md").read_text() != "moved on"


def test_an_upgrade_fetches_only_what_changed(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """From one commit to the next, files of equal hash are given a second name, not fetched."""
    pair("sync")
    weights = (pair.home(EMBEDDING) / "model.safetensors").stat().st_ino
    (tmp_path / "embedding" / "README.md").write_text("---\nlicense: mit\n---\nmoved on")
    commit = hub.add(EMBEDDING, tmp_path / "embedding")
    hub.forget()
    assert pair("lock", "--upgrade", EMBEDDING).exit_code == 0
    ran = pair("sync")
    assert ran.err.splitlines()[-1].endswith("1 replaced, 1 unchanged.")
    assert commit in (pair.folder / "models.lock").read_text()
    assert (pair.home(EMBEDDING) / "README.md").read_text().endswith("moved on")
    assert (pair.home(EMBEDDING) / "model.safetensors").stat().st_ino == weights
    assert {request.file for request in hub.requests if request.file} == {"README.md", "model.safetensors"}
    sent = sum(request.sent for request in hub.requests if request.file == "model.safetensors")
    assert sent <= 36 << 10  # the header of the weights, which `lock` looks at, and the way to it


def test_a_changed_manifest_resolves_only_what_changed(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """A model that is added asks the Hub about itself alone."""
    pair("sync")
    hub.add("tinyorg/other", tmp_path / "embedding")
    pair.want(EMBEDDING, "tinyorg/other", rerankers=(RERANKER,))
    hub.forget()
    assert pair("sync").exit_code == 0
    assert {request.repo for request in hub.requests} == {"tinyorg/other"}
    assert (pair.folder / "models.lock").read_text().count("[[model]]") == 3


def test_sync_can_be_told_one_model(pair: Tool) -> None:
    """`sync ID` leaves the others alone; an id that the manifest does not have is refused."""
    assert pair("sync", RERANKER).exit_code == 0
    assert not pair.home(EMBEDDING).exists()
    ran = pair("sync", "tinyorg/rerankr")
    assert ran.exit_code == 2
    assert re.search(f"tinyorg/rerankr\\b.*'{RERANKER}'", ran.err)


def test_dry_run_changes_nothing(pair: Tool) -> None:
    """The plan is printed, with sizes, and nothing is written."""
    pair("lock")
    for words in (("lock", "--dry-run", "--upgrade"), ("sync", "--dry-run")):
        before = sorted(pair.folder.rglob("*"))
        ran = pair(*words)
        assert ran.exit_code == 0
        assert sorted(pair.folder.rglob("*")) == before
    assert ran.err.count("  fetch ") == 2


def test_locked_refuses_a_lock_that_is_missing_or_stale(pair: Tool, hub: StandInHub) -> None:
    """`--locked` resolves nothing: without a fitting lock it ends with 2."""
    assert pair("sync", "--locked").exit_code == 2
    assert hub.requests == []
    pair("lock")
    assert pair("sync", "--locked").exit_code == 0
    pair.want(EMBEDDING, "tinyorg/other", rerankers=(RERANKER,))
    ran = pair("sync", "--locked")
    assert ran.exit_code == 2
    assert "tinyorg/other (embedding)" in ran.err


def test_sync_from_another_root_needs_no_hub(pair: Tool, hub: StandInHub) -> None:
    """`--from` seeds a volume out of baked models: same bytes, other inodes, no request."""
    pair("sync")
    hub.close()
    target = pair.folder.parent / "volume"
    (pair.folder / "models.lock").unlink()
    assert pair("sync", "--from", str(pair.folder), "--root", str(target)).exit_code == 0
    home = target / "cached_embedding_models" / "tinyorg__embedding"
    assert files_below(home) == files_below(pair.home(EMBEDDING))
    assert (home / "config.json").stat().st_ino != (pair.home(EMBEDDING) / "config.json").stat().st_ino


def test_sync_from_a_root_with_other_bytes_fails(pair: Tool, tmp_path: Path) -> None:
    """A damaged source is not copied: exit 1, the file named, nothing published."""
    pair("sync")
    with (pair.home(EMBEDDING) / "vocab.txt").open("r+") as file:
        file.write("X")
    ran = pair("sync", "--from", str(pair.folder), "--root", str(tmp_path / "volume"))
    assert ran.exit_code == 1
    assert re.search(f"^error: .*{pair.home(EMBEDDING)} .*vocab.txt", ran.err, re.MULTILINE)
    assert not (tmp_path / "volume" / "cached_embedding_models" / "tinyorg__embedding").exists()


def test_a_model_from_a_directory_is_pinned_by_its_bytes(tool: Tool, tmp_path: Path, hub: StandInHub) -> None:
    """`path` needs no Hub; a source that changed is not taken silently."""
    source = tiny.tiny_embedding(tmp_path / "mine")
    tool.want(extra=f'[[embedding]]\nid = "me/mine"\npath = "{source}"\n')
    assert tool("sync").exit_code == 0
    assert str(source) not in (tool.folder / "models.lock").read_text()
    (source / "vocab.txt").write_text("changed")
    assert tool("sync").exit_code == 0
    shutil.rmtree(tool.home("me/mine"))
    ran = tool("sync")
    assert ran.exit_code == 1
    assert "vocab.txt" in ran.err
    assert tool("lock", "--upgrade").exit_code == 0
    assert tool("sync").exit_code == 0
    assert (tool.home("me/mine") / "vocab.txt").read_text() == "changed"
    assert hub.requests == []


def test_a_directory_of_an_unknown_user_is_asked_for_only_when_it_is_needed(tool: Tool, tmp_path: Path) -> None:
    """As in a container whose user has no home: what is in place needs no source; other models are published."""
    source = tiny.tiny_embedding(tmp_path / "mine")
    table = '[[embedding]]\nid = "me/{}"\npath = "{}"\n'
    tool.want(extra=table.format("mine", source) + table.format("other", source))
    assert tool("sync").exit_code == 0
    tool.want(extra=table.format("mine", "~no-such-user/mine") + table.format("other", source))
    assert tool("sync").exit_code == 0
    shutil.rmtree(tool.folder / "cached_embedding_models")
    ran = tool("sync")
    assert ran.exit_code == 2
    assert "~no-such-user/mine" in ran.err
    assert tool.home("me/other").is_dir()
    assert tool("lock", "--upgrade").exit_code == 2


def test_files_of_the_hugging_face_cache_are_copied_not_fetched(pair: Tool, hub: StandInHub, snapshot: Path) -> None:
    """What `snapshot_download` has already fetched is not fetched again, and never linked."""
    pair("lock")
    hub.forget()
    assert pair("sync", EMBEDDING).exit_code == 0
    assert not [request for request in hub.requests if request.repo == EMBEDDING]
    assert (pair.home(EMBEDDING) / "model.safetensors").stat().st_nlink == 1


def test_the_hugging_face_cache_serves_a_committed_lock_too(
    pair: Tool, hub: StandInHub, snapshot: Path, tmp_path: Path
) -> None:
    """With a lock from elsewhere, small files come out of the cache's links; what cannot be read there is fetched."""
    pair("lock", "--root", str(tmp_path / "elsewhere"))
    (snapshot / "vocab.txt").unlink()
    (snapshot / "vocab.txt").symlink_to("nowhere")
    hub.forget()
    assert pair("sync", EMBEDDING).exit_code == 0
    assert [request.file for request in hub.requests] == ["vocab.txt"]
    assert not any(path.is_symlink() for path in pair.home(EMBEDDING).rglob("*"))


def test_a_link_in_a_published_model_is_not_carried_on(pair: Tool, tmp_path: Path) -> None:
    """A file that somebody replaced by a link to equal bytes is a file again after the next run."""
    pair("sync")
    weights = pair.home(EMBEDDING) / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert pair("sync").exit_code == 0
    assert not weights.is_symlink()
    assert pair("verify").exit_code == 0


def test_a_model_added_while_a_run_goes_on_is_not_forgotten(pair: Tool, hub: StandInHub) -> None:
    """The stamp vouches for the manifest that the run was about, not for what it says by the end."""
    hub.fail(Slow(100_000), on=r"GET cdn .*embedding/.*model\.safetensors")
    process = pair.process("sync")
    while not any(request.host == "cdn" for request in hub.requests):
        time.sleep(0.01)
    pair.want(EMBEDDING)
    assert process.wait(30) == 0
    assert "1 model ready" in pair("sync").err


def test_one_occupied_place_stops_no_other_model(pair: Tool) -> None:
    """A directory that is not ours concerns its own model only."""
    pair.home(EMBEDDING).mkdir(parents=True)
    (pair.home(EMBEDDING) / "mine").write_text("mine")
    assert pair("sync").exit_code == 4
    assert pair.home(RERANKER, "reranker").is_dir()


def test_a_directory_that_is_not_ours_is_not_replaced(pair: Tool) -> None:
    """Somebody's fine-tuned model in our place may be the only copy: refused with 4, untouched."""
    home = pair.home(EMBEDDING)
    home.mkdir(parents=True)
    (home / "model.safetensors").write_bytes(b"years of work")
    ran = pair("sync")
    assert ran.exit_code == 4
    assert re.search(f"^error: {home} .*^hint: ", ran.err, re.MULTILINE | re.DOTALL)
    assert files_below(home) == {"model.safetensors": b"years of work"}


def test_a_lost_receipt_is_written_again(pair: Tool, hub: StandInHub) -> None:
    """A directory with the right files and no receipt is ours again, and nothing is fetched."""
    pair("sync")
    before = files_below(pair.home(EMBEDDING))
    (pair.home(EMBEDDING) / ".cache-models.json").unlink()
    hub.forget()
    assert pair("sync").exit_code == 0
    assert files_below(pair.home(EMBEDDING)) == before
    assert hub.requests == []


@pytest.mark.parametrize("damage", ["", "{}", "nonsense", '{"format": 1}'])
def test_a_damaged_receipt_is_written_again(pair: Tool, hub: StandInHub, damage: str) -> None:
    """Whatever became of the receipt, right files are ours, and nothing is fetched."""
    pair("sync")
    before = files_below(pair.home(EMBEDDING))
    (pair.home(EMBEDDING) / ".cache-models.json").write_text(damage)
    hub.forget()
    assert pair("sync").exit_code == 0
    assert files_below(pair.home(EMBEDDING)) == before
    assert hub.requests == []


def test_what_a_crash_left_is_cleared_by_the_next_run(pair: Tool) -> None:
    """Leases of the dead, half-removed models and temporary stamps go, also when every model is in place."""
    pair("sync")
    state = pair.folder / "cached_embedding_models" / ".cache-models"
    (state / ".gone~1" / "x").mkdir(parents=True)
    (state / "other__model~0123456789ab").mkdir()
    (state / "other__model.lease").write_text("dead")
    (pair.folder / ".cache-models.stamp.0123").write_text("half")
    ran = pair("sync")
    assert (ran.exit_code, ran.err.endswith("unchanged.\n")) == (0, True)
    assert not state.exists()
    assert not (pair.folder / ".cache-models.stamp.0123").exists()


def test_a_stamp_that_was_being_written_is_cleared_by_the_next_run(pair: Tool) -> None:
    """Its writer was killed, and another run has written a good one: that one is no reason to leave it."""
    pair("sync")
    (pair.folder / ".cache-models.stamp.new").write_text("half")
    assert pair("sync").err.endswith("unchanged.\n")
    assert not (pair.folder / ".cache-models.stamp.new").exists()


def test_any_user_can_come_to_the_models(pair: Tool) -> None:
    """The directories above the models are readable, too, whatever the umask."""
    before = os.umask(0o077)
    try:
        pair("sync", "--root", "new/root")
    finally:
        os.umask(before)
    for folder in (pair.folder / "new", pair.folder / "new/root", pair.folder / "new/root/cached_embedding_models"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755, folder


def test_symlink_in_model_is_refused(tool: Tool, tmp_path: Path) -> None:
    """A directory that holds links is no model to publish: exit 5, the link named."""
    source = tiny.tiny_embedding(tmp_path / "mine")
    (source / "vocab.txt").rename(tmp_path / "elsewhere.txt")
    (source / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    tool.want(extra=f'[[embedding]]\nid = "me/mine"\npath = "{source}"\n')
    ran = tool("sync")
    assert ran.exit_code == 5
    assert "vocab.txt" in ran.err
    assert not tool.home("me/mine").exists()


def test_a_vocabulary_may_be_larger_than_a_configuration(hub: StandInHub, tool: Tool) -> None:
    """A bag of words is its config.json alone: no weights, and more words than a configuration has bytes."""
    words = [f"word{number:07}" for number in range(LARGEST_TEXT // 14)]
    module = {"idx": 0, "name": "0", "path": "0_BoW", "type": "sentence_transformers.models.BoW"}
    config = json.dumps({"vocab": words, "word_weights": {}}).encode()
    assert len(config) > LARGEST_TEXT
    hub.add("house/words", {"modules.json": json.dumps([module]).encode(), "0_BoW/config.json": config})
    tool.want("house/words")
    for command in ("lock", "sync", "verify"):
        assert tool(command).exit_code == 0
    assert (tool.home("house/words") / "0_BoW/config.json").read_bytes() == config


def test_path_with_dotdot_is_left_behind(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """A name that leads outside the model is neither asked for nor written; a module there ends with 5."""
    files = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add("evil/one", {**files, "../../outside.json": b"{}", "sub/../../x.json": b"{}"})
    tool.want("evil/one")
    assert tool("sync").exit_code == 0
    assert not [request for request in hub.requests if ".." in (request.file or "")]
    assert not list(tmp_path.rglob("outside.json"))
    modules = json.loads(files["modules.json"])
    modules[1]["path"] = "../../1_Pooling"
    hub.add("evil/two", {**files, "modules.json": json.dumps(modules).encode(), "../../1_Pooling/config.json": b"{}"})
    tool.want("evil/two")
    ran = tool("sync")
    assert ran.exit_code == 5
    assert "../../1_Pooling" in ran.err


def test_nested_config_json_is_not_confused(pair: Tool, tmp_path: Path) -> None:
    """`config.json` and `1_Pooling/config.json` are two files, each at its own path."""
    pair("sync")
    for path in ("config.json", "1_Pooling/config.json"):
        assert (pair.home(EMBEDDING) / path).read_bytes() == (tmp_path / "embedding" / path).read_bytes()


def test_one_models_failure_does_not_hide_the_others(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Everything that is wrong is told, what can be cached is cached, the least curable code is the exit code."""
    pair("lock")
    hub.remove(EMBEDDING)
    ran = pair("sync")
    assert ran.exit_code == 3
    assert EMBEDDING in ran.err
    assert pair.home(RERANKER, "reranker").is_dir()


@pytest.mark.slow
def test_every_refusal_of_a_first_run_is_told(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Three wrong models give three reasons in one run."""
    hub.add("a/pickle", models.bin_only_embedding(tmp_path / "a"))
    hub.add("b/adapter", models.peft_adapter(tmp_path / "b"))
    tool.want("a/pickle", "b/adapter", "c/nothing")
    ran = tool("sync")
    assert ran.exit_code == 5
    for model_id in ("a/pickle", "b/adapter", "c/nothing"):
        assert re.search(f"^error: .*{model_id}", ran.err, re.MULTILINE)
    assert not (tool.folder / "models.lock").exists()


def test_a_read_only_lock_is_taken_in_stride(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock cannot be written, the run says that the receipts are the pin, and succeeds."""
    ran = pair("sync", "--lockfile", "/proc/models.lock")
    assert ran.exit_code == 0
    assert re.search("^  unpinned /proc/models.lock ", ran.err, re.MULTILINE)
