"""What `sync` tells: what it did itself, where the bytes came from, and what it wrote into the lock."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDING, RERANKER, Ran, Tool
from tests.support import tiny
from tests.support.hub import Slow, StandInHub

HEADER = "bytes=0-32767"


def events_of(ran: Ran) -> list[dict[str, Any]]:
    """Return the events of a run with `--log-format=json` that ended with 0."""
    assert ran.exit_code == 0, ran.err
    return [json.loads(line) for line in ran.err.splitlines()]


def done(pair: Tool, *words: str) -> tuple[list[str], list[str], dict[str, int]]:
    """Return for a `sync` what its dry run announces for each model, what it reports for each, and its counts."""
    plan = events_of(pair("sync", "--dry-run", "--log-format=json", *words))
    planned = [event["action"] for event in plan if event["event"] == "plan"]
    *events, ready = events_of(pair("sync", "--log-format=json", *words))
    assert ready["event"] == "ready"
    done = [event["event"] for event in events if {"model", "seconds"} <= event.keys()]
    counts = {name: ready[name] for name in ready.keys() - {"event", "text", "root", "models"}}
    assert sum(counts.values()) == ready["models"]
    return planned, done, {name: count for name, count in counts.items() if count}


def other_root(pair: Tool, tmp_path: Path, *model_ids: str) -> Path:
    """Return a root that holds these models, filled by a project of its own."""
    root = tmp_path / "baked"
    root.mkdir()
    if model_ids:
        assert pair("sync", *model_ids, "--root", str(root), "--lockfile", str(tmp_path / "its.lock")).exit_code == 0
    return root


COPIED, FETCHED = (["copy"], ["copy"], {"copied": 1}), (["fetch"], ["fetch"], {"fetched": 1})


def test_a_copy_from_the_hugging_face_cache_is_not_told_as_a_fetch(pair: Tool, snapshot: Path) -> None:
    """Without a lock the Hub is asked for the listing and the header of the weights; with one for nothing."""
    pair.want(EMBEDDING)
    assert done(pair) == COPIED
    shutil.rmtree(pair.home(EMBEDDING))
    assert done(pair) == COPIED


def test_a_model_that_is_partly_fetched_is_told_as_a_fetch(pair: Tool, snapshot: Path) -> None:
    """One small file is not in the cache; without a lock it is fetched before the model is planned."""
    (snapshot / "vocab.txt").resolve().unlink()
    pair.want(EMBEDDING)
    assert done(pair) == FETCHED
    shutil.rmtree(pair.home(EMBEDDING))
    assert done(pair) == FETCHED


def test_a_file_of_the_cache_that_turns_out_wrong_makes_it_a_fetch(pair: Tool, snapshot: Path) -> None:
    """The plan knows names and sizes only; the result knows what was asked for."""
    pair.want(EMBEDDING)
    assert pair("lock").exit_code == 0
    blob = (snapshot / "model.safetensors").resolve()
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert done(pair) == (["copy"], ["fetch"], {"fetched": 1})


def test_a_copy_of_a_directory_is_not_told_as_a_fetch(tool: Tool, tmp_path: Path) -> None:
    """A model with `path`; no Hub is needed to know it."""
    source = tiny.tiny_embedding(tmp_path / "mine")
    tool.want(extra=f'[[embedding]]\nid = "me/mine"\npath = "{source}"\n')
    assert done(tool) == COPIED


def test_a_copy_from_another_root_is_not_told_as_a_fetch(pair: Tool, tmp_path: Path) -> None:
    """`--from`, with a pin of the receipts or of the lock."""
    root = other_root(pair, tmp_path, EMBEDDING, RERANKER)
    for _ in range(2):
        assert done(pair, "--from", str(root)) == (["copy"] * 2, ["copy"] * 2, {"copied": 2})
        shutil.rmtree(pair.folder / "cached_embedding_models")
        shutil.rmtree(pair.folder / "cached_reranker_models")


def test_a_replaced_model_is_told_as_replaced_wherever_its_bytes_come_from(pair: Tool, tmp_path: Path) -> None:
    """From the old version, from the Hub or from another root."""
    root = other_root(pair, tmp_path, EMBEDDING)
    pair.want(EMBEDDING)
    assert pair("sync").exit_code == 0
    for name, words in ((".cache-models.json", []), ("vocab.txt", []), ("vocab.txt", ["--from", str(root)])):
        (pair.home(EMBEDDING) / name).unlink()
        assert done(pair, *words) == (["replace"], ["replace"], {"replaced": 1})


def words_only(hub: StandInHub, tool: Tool) -> None:
    """Want a model of small files only, all of which are read to pin it."""
    module = {"idx": 0, "name": "0", "path": "0_BoW", "type": "sentence_transformers.models.BoW"}
    config = {"vocab": ["one", "two"], "word_weights": {}}
    files = {"modules.json": [module], "0_BoW/config.json": config}
    hub.add("house/words", {path: json.dumps(content).encode() for path, content in files.items()})
    tool.want("house/words")


def test_files_kept_by_lock_are_told_as_a_copy(hub: StandInHub, tool: Tool) -> None:
    """An earlier run has fetched them, and said so."""
    words_only(hub, tool)
    tool.use_root()
    assert tool("lock").exit_code == 0
    assert done(tool) == COPIED


def test_files_that_a_run_fetched_to_pin_a_model_are_told_as_a_fetch(hub: StandInHub, tool: Tool) -> None:
    """Without a lock, one run does both; from its staging directory to the model it is no second source."""
    words_only(hub, tool)
    assert done(tool) == FETCHED


def test_a_process_that_waited_does_not_claim_to_have_fetched(pair: Tool, hub: StandInHub) -> None:
    """The first one fetches both models; the second one counts none as its own, also in its last line."""
    pair("lock")
    hub.forget()
    hub.fail(Slow(60_000), on=r"GET cdn .*model\.safetensors", times=-1)
    first = pair.process("sync", "--log-format=json")
    while sum(request.host == "cdn" for request in hub.requests) < 2:
        time.sleep(0.01)
    second = pair.process("sync", "--log-format=json")
    told = [process.communicate(timeout=60) for process in (first, second)]
    fetched, waited = (events_of(Ran(0, *said)) for said in told)
    assert (first.returncode, second.returncode) == (0, 0)
    assert [event["event"] for event in fetched] == ["fetch", "fetch", "ready"]
    assert (fetched[-1]["fetched"], fetched[-1]["by_another_process"]) == (2, 0)
    kept = [event["model"] for event in waited if event.get("by_another_process") is True]
    assert sorted(kept) == [EMBEDDING, RERANKER]
    assert (waited[-1]["fetched"], waited[-1]["by_another_process"]) == (0, 2)
    assert waited[-1]["text"] == f"2 models ready in {pair.folder}: 2 by another process."


def test_a_dry_run_has_each_step_as_fields(pair: Tool) -> None:
    """Sizes are words for people and numbers for programs; the last event has the counts, as after a run."""
    pair("sync", RERANKER)
    (pair.home(RERANKER, "reranker") / "vocab.txt").unlink()
    *plan, ready = events_of(pair("sync", "--dry-run", "--log-format=json"))
    assert (ready["event"], ready["models"], ready["fetched"], ready["replaced"]) == ("ready", 2, 1, 1)
    assert ready["to_write"] == sum(event["bytes"] for event in plan)
    assert [(event["event"], event["action"], event["model"]) for event in plan] == [
        ("plan", "fetch", EMBEDDING),
        ("plan", "replace", RERANKER),
    ]
    assert all(event["bytes"] > 0 and re.search(r" [\d.]+ k?B( |$)", event["text"]) for event in plan)
    assert [bool(event["reason"]) for event in plan] == [False, True]


def pinned_in(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return each lock that was written, and how many models it pins."""
    return [(event["lockfile"], event["models"]) for event in events if event["event"] == "pinned"]


def test_the_first_lock_is_told_as_new_and_a_later_one_as_changed(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """It is said how many models it pins; a run that pins nothing says nothing."""
    lock = str(pair.folder / "models.lock")
    first = events_of(pair("sync", "--log-format=json"))
    assert pinned_in(first) == [(lock, 2)]
    assert "now pins 2 models" in first[-2]["text"]
    assert "changed" not in first[-2]["text"]
    hub.add("tinyorg/other", tmp_path / "embedding")
    pair.want(EMBEDDING, "tinyorg/other", rerankers=(RERANKER,))
    later = events_of(pair("sync", "--log-format=json"))
    assert pinned_in(later) == [(lock, 3)]
    assert "has changed and pins 3 models" in later[-2]["text"]
    shutil.rmtree(pair.home(EMBEDDING))
    assert pinned_in(events_of(pair("sync", "--log-format=json"))) == []


def test_the_first_lock_of_one_model_is_told_as_one(pair: Tool) -> None:
    """In its number, too."""
    pair.want(EMBEDDING)
    assert re.search("^  pinned .*models.lock now pins 1 model;", pair("sync").err, re.MULTILINE)


def test_a_lock_that_another_process_wrote_alike_is_no_change(pair: Tool, hub: StandInHub) -> None:
    """Two first runs on one root pin the same: neither tells the user to run anything again."""
    assert pair("lock").exit_code == 0
    lock = pair.folder / "models.lock"
    content = lock.read_bytes()
    lock.unlink()
    hub.forget()
    hub.fail(Slow(60_000), on=r"GET cdn .*model\.safetensors", times=-1)
    process = pair.process("sync", "--log-format=json")
    while not any(request.host == "cdn" and request.range != HEADER for request in hub.requests):
        time.sleep(0.01)
    lock.write_bytes(content)
    events = events_of(Ran(0, *process.communicate(timeout=60)))
    assert process.returncode == 0
    assert not {"pinned", "unpinned"} & {event["event"] for event in events}
    assert lock.read_bytes() == content
    assert pair("sync").err == f"2 models ready in {pair.folder}: unchanged.\n"


def test_every_model_that_no_lock_pins_is_told(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Several are kept by their receipts: a row for each, in the order of the manifest, with the command that pins."""
    hub.add("tinyorg/other", tmp_path / "embedding")
    pair.want(EMBEDDING, "tinyorg/other")
    assert pair("sync", "--lockfile", str(tmp_path / "its.lock")).exit_code == 0
    pair.want(rerankers=(RERANKER,))
    assert pair("lock").exit_code == 0
    before = (pair.folder / "models.lock").read_bytes()
    pair.want(EMBEDDING, "tinyorg/other", rerankers=(RERANKER,))
    events = events_of(pair("sync", "--log-format=json"))
    unpinned = [event for event in events if event["event"] == "unpinned"]
    assert [event["model"] for event in unpinned] == [EMBEDDING, "tinyorg/other"]
    assert all("`cache-models lock`" in event["text"] for event in unpinned)
    assert (pair.folder / "models.lock").read_bytes() == before


def test_a_run_of_some_models_says_that_it_writes_no_lock(pair: Tool) -> None:
    """A lock holds every model of the manifest or is not written; the models that it would lack are named."""
    ran = pair("sync", RERANKER)
    assert re.search(f"^  unpinned .*models.lock .*{EMBEDDING}.*`cache-models lock`", ran.err, re.MULTILINE)
    assert not (pair.folder / "models.lock").exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_from_an_absent_directory_says_that_it_is_absent(
    pair: Tool, hub: StandInHub, tmp_path: Path, locked: bool, words: tuple[str, ...]
) -> None:
    """Exit 2 before anything is written, with or without a lock; a file may be an archive."""
    if locked:
        pair("lock", "--root", str(tmp_path / "elsewhere"))
    hub.forget()
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    file.touch()
    told = {nowhere: f"there is no directory {nowhere}", file: f"{file} is a file"}
    hints = {nowhere: f"{EMBEDDING}, {RERANKER}", file: f"write oci-archive:{file}"}
    for path, message in told.items():
        ran = pair("sync", *words, "--from", str(path))
        assert (ran.exit_code, ran.err.splitlines()[0]) == (2, f"error: {message}")
        assert re.search(f"^hint: .*{hints[path]}", ran.err, re.MULTILINE)
    assert hub.requests == []
    assert not pair.home(EMBEDDING).parent.exists()


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_from_a_directory_without_models_says_that_it_holds_none(pair: Tool, tmp_path: Path, locked: bool) -> None:
    """Empty, or one collection instead of the root: exit 2, and the hint says what a root is."""
    if locked:
        pair("lock", "--root", str(tmp_path / "elsewhere"))
    root = other_root(pair, tmp_path, RERANKER)
    (tmp_path / "empty" / "cached_embedding_models" / ".cache-models").mkdir(parents=True)
    for wrong in (tmp_path / "empty", root / "cached_reranker_models"):
        ran = pair("sync", "--from", str(wrong))
        assert (ran.exit_code, ran.err.splitlines()[0]) == (2, f"error: {wrong} holds no models")
        assert re.search(r"^hint: .*a root is the directory that holds cached_\*_models", ran.err, re.MULTILINE)


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_from_a_root_that_lacks_models_names_it_and_them(pair: Tool, tmp_path: Path, locked: bool) -> None:
    """Exit 2, and nothing is copied: not the model that it has either."""
    if locked:
        pair("lock", "--root", str(tmp_path / "elsewhere"))
    root = other_root(pair, tmp_path, RERANKER)
    ran = pair("sync", "--from", str(root))
    assert (ran.exit_code, ran.err.splitlines()[0]) == (2, f"error: {root} does not hold {EMBEDDING}")
    assert not pair.home(RERANKER, "reranker").exists()


def test_from_a_root_with_models_of_other_settings_names_it_and_them(pair: Tool, tmp_path: Path) -> None:
    """Without a lock its receipts are the pins; where none fits the manifest, that is told, and not that it is away."""
    root = other_root(pair, tmp_path, EMBEDDING, RERANKER)
    pair.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "{"0" * 40}"\n')
    ran = pair("sync", "--from", str(root))
    assert ran.exit_code == 2
    assert re.search(f"^error: {root} .* fits .*{EMBEDDING}: revision main instead of 0{{40}}$", ran.err, re.MULTILINE)


def test_from_a_directory_that_cannot_be_read_is_a_fault_of_storage(pair: Tool, tmp_path: Path) -> None:
    """Whether it is there cannot be told; so it is not told as absent."""
    pair("lock", "--root", str(tmp_path / "elsewhere"))
    ran = pair("sync", "--from", str(tmp_path / ("x" * 300)))
    assert ran.exit_code == 4
    assert str(tmp_path / "xxx") in ran.err


@pytest.mark.parametrize("source", ["gone", "empty", "with one of them"])
@pytest.mark.parametrize("left", ["stamp", "lock", "receipts"])
def test_from_needs_no_source_where_all_is_in_place(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, source: str
) -> None:
    """A restart with CACHE_MODELS_FROM whose volume is not mounted any more ends with 0 and one line."""
    root = other_root(pair, tmp_path, EMBEDDING, RERANKER)
    monkeypatch.setenv("CACHE_MODELS_FROM", str(root))
    assert pair("sync").err.endswith("2 copied.\n")
    hub.close()
    if source == "with one of them":
        shutil.rmtree(root / "cached_reranker_models")
    else:
        shutil.rmtree(root)
    if source == "empty":
        root.mkdir()
    if left != "stamp":
        (pair.folder / ".cache-models.stamp").unlink()
    if left == "receipts":
        (pair.folder / "models.lock").unlink()
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    assert ran.err.splitlines()[-1] == f"2 models ready in {pair.folder}: unchanged."
    assert len(ran.err.splitlines()) == (2 if left == "receipts" else 1)  # the lock is written again


@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no lock"])
def test_from_needs_only_the_models_that_are_not_in_place(pair: Tool, tmp_path: Path, locked: bool) -> None:
    """A source that has the one missing model is enough."""
    if locked:
        pair("lock")
    root = other_root(pair, tmp_path, RERANKER)
    assert pair("sync", EMBEDDING).exit_code == 0
    assert pair("sync", "--from", str(root)).err.splitlines()[-1].endswith(": 1 copied, 1 unchanged.")


def test_a_run_with_from_names_the_directory(pair: Tool, tmp_path: Path) -> None:
    """Once, before the first model; where nothing is copied it is not mentioned."""
    root = other_root(pair, tmp_path, EMBEDDING, RERANKER)
    for words in (["--dry-run"], [], [EMBEDDING]):
        events = events_of(pair("sync", *words, "--from", str(root), "--log-format=json"))
        named = [event for event in events if event["event"] == "from"]
        assert [event["source"] for event in named] == ([] if words == [EMBEDDING] else [str(root)])
        assert all(str(root) in event["text"] for event in named)
        assert events[0] == named[0] if named else True
