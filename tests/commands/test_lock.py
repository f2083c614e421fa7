"""`lock`: what it says of each pin, what it says is left to fetch, and what it leaves on disk."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.kinds import Kind
from modelcache.formats.lockfile import format_lock
from modelcache.pipeline.pins import read_lock
from tests.conftest import EMBEDDING, RERANKER, SOON, Ran, Tool, files_below
from tests.support import tiny
from tests.support.hub import Slow, StandInHub, Status

PICKLED, CODED, IMPL, HOUSE = "tinyorg/pickled", "tinyorg/coded", "other/impl", "me/house"
CODE = b"import torch\n\n\nclass X:\n    pass\n"


@pytest.fixture
def several(pair: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """The tool, wanting a model of every way to have one: plain, converted, with code of others, from a directory."""
    hub.add(PICKLED, pickled(tmp_path / "pickled"))
    files = files_below(tiny.tiny_embedding(tmp_path / "coded"))
    config = {**json.loads(files["config.json"]), "auto_map": {"AutoModel": f"{IMPL}--modeling_x.X"}}
    hub.add(CODED, {**files, "config.json": json.dumps(config).encode()})
    hub.add(IMPL, {"modeling_x.py": CODE})
    tiny.tiny_embedding(tmp_path / "house")
    keys = {PICKLED: "allow_pickle = true", CODED: "trust_remote_code = true", HOUSE: 'path = "../house"'}
    tables = [f'[[embedding]]\nid = "{model}"\n{key}\n' for model, key in keys.items()]
    pair.want(EMBEDDING, rerankers=(RERANKER,), extra="\n" + "\n".join(tables))
    return pair


def pickled(folder: Path) -> Path:
    """A model whose weights are a pickle."""
    repository = tiny.tiny_embedding(folder)
    (repository / "model.safetensors").unlink()
    tiny.write_pickle(repository / "pytorch_model.bin", 100_000)
    return repository


def change(hub: StandInHub, tmp_path: Path, model: str = EMBEDDING, name: str = "README.md") -> str:
    """Add a file to a repository, or write it anew; return the new commit."""
    folder = tmp_path / model.rpartition("/")[2]
    (folder / name).write_text(f"{time.monotonic_ns()}")
    return hub.add(model, folder)


def events(tool: Tool, *words: str) -> list[dict[str, Any]]:
    """Run a command that has to succeed; return its events."""
    ran = tool(*words, "--log-format", "json")
    assert ran.exit_code == 0, ran.err
    return [json.loads(line) for line in ran.err.splitlines()]


def by_model(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the event of each model."""
    names = {"lock", "upgrade", "change", "same", "keep", "drop"}
    return {event["model"]: event["event"] for event in found if event["event"] in names}


def counts(found: list[dict[str, Any]]) -> dict[str, int]:
    """Return the counts of the last line that are not zero."""
    words = ("new", "moved", "changed", "unchanged", "dropped")
    return {word: found[-1][word] for word in words if found[-1][word]}


def rewrite(tool: Tool, **changes: Any) -> None:
    """Write the lock with other values in its only model."""
    (model,) = read_lock(tool.folder / "models.lock") or ()
    (tool.folder / "models.lock").write_text(format_lock([replace(model, **changes)]))


# What changed


def test_an_upgrade_tells_the_old_commit_and_the_new_one_and_what_stayed(
    pair: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """In the row and for programs; a dry run says the same, and writes nothing."""
    assert by_model(events(pair, "lock")) == {EMBEDDING: "lock", RERANKER: "lock"}
    before = {model.id: model for model in read_lock(pair.folder / "models.lock") or ()}
    old, new = before[EMBEDDING].commit, change(hub, tmp_path)
    for words in (["--dry-run"], []):
        written = (pair.folder / "models.lock").read_bytes()
        found = events(pair, "lock", "--upgrade", *words)
        assert by_model(found) == {EMBEDDING: "upgrade", RERANKER: "same"}
        (upgrade,) = [event for event in found if event["event"] == "upgrade"]
        assert (upgrade["old_commit"], upgrade["commit"]) == (old, new)
        assert upgrade["text"].endswith(f"{old[:12]} → {new[:12]}")
        (same,) = [event for event in found if event["event"] == "same"]
        assert same["commit"] == before[RERANKER].commit
        assert same["commit"][:12] in same["text"]
        assert "main" in same["text"]
        assert counts(found) == {"moved": 1, "unchanged": 1}
        assert re.search(r" 2 models: 1 moved, 1 unchanged; ", found[-1]["text"])
        assert ((pair.folder / "models.lock").read_bytes() == written) == bool(words)
    assert by_model(events(pair, "lock", "--upgrade")) == {EMBEDDING: "same", RERANKER: "same"}


def test_a_conversion_is_not_told_as_the_fetch_of_a_model(several: Tool) -> None:
    """`lock` publishes none, and a program that counts `fetch` in a `sync` without a lock counts each model once."""
    found = [(event["event"], event.get("model")) for event in events(several, "lock")]
    assert ("convert", PICKLED) in found
    assert "fetch" not in {name for name, _ in found}
    (several.folder / "models.lock").unlink()
    found = [(event["event"], event.get("model")) for event in events(several, "sync")]
    assert found.count(("fetch", PICKLED)) == 1


def test_a_pin_that_was_not_asked_for_is_told_apart_from_one_that_is_still_the_newest(
    several: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """`keep` without asking, `same` after asking, of every kind of model; both are unchanged in the last line."""
    assert counts(events(several, "lock")) == {"new": 5}
    found = events(several, "lock", "--upgrade", RERANKER)
    assert by_model(found) == {**dict.fromkeys([EMBEDDING, PICKLED, CODED, HOUSE], "keep"), RERANKER: "same"}
    assert counts(found) == {"unchanged": 5}
    found = events(several, "lock", "--upgrade")
    assert by_model(found) == dict.fromkeys([EMBEDDING, PICKLED, CODED, HOUSE, RERANKER], "same")
    assert counts(found) == {"unchanged": 5}
    assert " 5 models: unchanged; " in found[-1]["text"]


def test_a_new_commit_without_a_change_in_the_model_says_so(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Its files are the pinned ones: there is nothing to fetch."""
    pair("sync")
    change(hub, tmp_path, name="training.log")
    found = events(pair, "lock", "--upgrade")
    assert by_model(found) == {EMBEDDING: "upgrade", RERANKER: "same"}
    assert found[0]["text"].endswith(", same files")
    assert found[-1]["to_fetch"] == 0


def test_other_files_and_other_settings_at_the_same_commit_are_told(
    hub: StandInHub, tool: Tool, tmp_path: Path
) -> None:
    """Another version of the tool chose other files, or models.toml has changed: no commit has moved."""
    commit = hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"))
    tool.want(EMBEDDING)
    tool("lock")
    (model,) = read_lock(tool.folder / "models.lock") or ()
    rewrite(tool, files=model.files[1:])
    (change, *differs, effect, last) = events(tool, "lock", "--upgrade")
    assert (change["event"], change["changed"], change["commit"]) == ("change", "files", commit)
    settings = {"embedding_dimension": "32", "pooling_mode": '["mean"]'}
    said = [
        f"differs  {EMBEDDING}: settings: 1_Pooling/config.json: {key} unset → {value}"
        for key, value in settings.items()
    ]
    assert [event["text"] for event in differs] == said
    assert effect["text"] == f"effect   {EMBEDDING}: vectors may differ: compare with `check`, or re-index"
    assert counts([last]) == {"changed": 1}
    assert " 1 model: 1 changed; " in last["text"]

    tool.want(extra=f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "{commit}"\n')
    (change, revision, effect, last) = events(tool, "lock")
    assert (change["event"], change["changed"], change["commit"]) == ("change", "settings", commit)
    assert revision["text"] == f"differs  {EMBEDDING}: pin: revision main → {commit}"
    assert effect["text"] == f"effect   {EMBEDDING}: vectors stay as they are"
    (same, last) = events(tool, "lock", "--upgrade")
    assert same["event"] == "same"
    assert "newest" not in same["text"]


def test_a_directory_that_holds_other_files_than_before_is_told(tool: Tool, tmp_path: Path) -> None:
    """It has no commit."""
    tiny.tiny_embedding(tool.folder / "house")
    tool.want(extra=f'[[embedding]]\nid = "{HOUSE}"\npath = "house"\n')
    tool("lock")
    card = tool.folder / "house" / "README.md"
    card.write_text(card.read_text() + "new")
    (change, differs, effect, last) = events(tool, "lock", "--upgrade")
    assert (change["event"], change["changed"], change["commit"]) == ("change", "files", "")
    assert differs["text"] == f"differs  {HOUSE}: documents: README.md"
    assert effect["text"] == f"effect   {HOUSE}: vectors stay as they are"
    assert counts([last]) == {"changed": 1}


def test_a_model_that_is_new_or_no_longer_wanted_is_told(pair: Tool) -> None:
    """Its pin leaves the lock, so it has a row of its own."""
    pair.want(EMBEDDING)
    pair("lock")
    pair.want(rerankers=(RERANKER,))
    found = events(pair, "lock")
    assert by_model(found) == {RERANKER: "lock", EMBEDDING: "drop"}
    assert counts(found) == {"new": 1, "dropped": 1}
    rewrite(pair, kind=Kind.EMBEDDING)
    found = events(pair, "lock")
    assert counts(found) == {"new": 1, "dropped": 1}
    (drop,) = [event for event in found if event["event"] == "drop"]
    assert (drop["model"], drop["kind"]) == (RERANKER, "embedding")
    assert "[[reranker]]" in drop["text"]
    pair.want()
    found = events(pair, "lock")
    assert (by_model(found), found[-1]["models"]) == ({RERANKER: "drop"}, 0)


# What will be fetched


def fetched(hub: StandInHub) -> int:
    """How many bytes of files the Hub has sent."""
    return sum(one.sent for one in hub.requests if one.file and one.status in (200, 206))


def assert_true(tool: Tool, hub: StandInHub, *words: str) -> int:
    """Lock, then sync; what `lock` said will be fetched is what `sync` fetches. Return it."""
    last = events(tool, "lock", *words)[-1]
    count: int = last["to_fetch"]
    assert last["text"].endswith("will be fetched." if count else "nothing has to be fetched.")
    assert "at most" not in last["text"]
    hub.forget()
    assert tool("sync").exit_code == 0
    assert fetched(hub) == count
    return count


def test_what_lock_says_will_be_fetched_is_what_sync_fetches(several: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Of an empty root, of one that is in place, and of one that has the version before."""
    assert assert_true(several, hub) > 0
    assert assert_true(several, hub) == 0
    change(hub, tmp_path)
    assert assert_true(several, hub, "--upgrade") == 0  # `lock` kept the file that is new
    weights = bytearray((tmp_path / "embedding" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "embedding" / "model.safetensors").write_bytes(weights)
    hub.add(EMBEDDING, tmp_path / "embedding")
    assert assert_true(several, hub, "--upgrade") == len(weights)


def test_what_lock_kept_is_not_fetched(several: Tool, hub: StandInHub) -> None:
    """The small files of all, and the pickle that it converted: weights are left, each once."""
    several.use_root()
    count = assert_true(several, hub)
    homes = [several.home(EMBEDDING), several.home(CODED), several.home(RERANKER, "reranker")]
    assert count == sum((home / "model.safetensors").stat().st_size for home in homes)


def test_a_lock_that_pins_nothing_anew_tells_what_this_root_lacks(pair: Tool, hub: StandInHub) -> None:
    """As after a clone of a repository that has a lock; and after a model was removed."""
    pair("lock")
    everything = assert_true(pair, hub)
    shutil.rmtree(pair.home(EMBEDDING))
    assert 0 < assert_true(pair, hub) < everything


def test_a_file_of_the_hugging_face_cache_is_not_fetched(
    several: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its hash, as weights and pickles lie there, or at its commit, as small files do."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hfcache"))
    everything = events(several, "lock", "--dry-run")[-1]["to_fetch"]
    several("lock")
    pins = {model.id: model for model in read_lock(several.folder / "models.lock") or ()}
    for model in (EMBEDDING, PICKLED):
        folder = tmp_path / "hfcache" / f"models--{model.replace('/', '--')}"
        snapshot = folder / "snapshots" / pins[model].commit
        shutil.copytree(tmp_path / model.rpartition("/")[2], snapshot)
    assert everything / 2 < assert_true(several, hub) < everything


def test_what_a_root_has_is_counted_by_its_sizes(pair: Tool) -> None:
    """A root that was copied without its times is in place: no gigabyte is hashed to say how much is left."""
    pair("sync")
    for path in pair.home(EMBEDDING).rglob("*"):
        path.touch()
    weights = pair.home(EMBEDDING) / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert events(pair, "lock")[-1]["to_fetch"] == 0
    weights.write_bytes(b"")
    assert events(pair, "lock")[-1]["to_fetch"] > 0


def test_a_part_that_an_interrupted_run_left_makes_it_at_most(pair: Tool, hub: StandInHub) -> None:
    """Its bytes count only once they are hashed."""
    pair("lock")
    whole = events(pair, "lock")[-1]["to_fetch"]
    hub.fail(Slow(60_000), on=r"GET cdn .*model\.safetensors", times=-1)
    process = pair.process("sync")
    deadline = time.monotonic() + SOON
    while not list(pair.folder.rglob("*.ranges")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    last = events(pair, "lock")[-1]
    assert 0 < last["to_fetch"] <= whole
    assert re.search(r"; at most .* will be fetched\.$", last["text"])


def test_a_dry_run_says_what_would_be_fetched(pair: Tool, hub: StandInHub) -> None:
    """Nothing is written, so nothing will be."""
    last = events(pair, "lock", "--dry-run")[-1]
    assert re.fullmatch(r"models.lock would pin 2 models; .* would be fetched\.", last["text"])


# What is left on disk


def names(folder: Path) -> set[str]:
    """Everything below a directory."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def test_lock_leaves_nothing_but_the_lock_in_a_repository(several: Tool, temporary: Path) -> None:
    """Models of every kind, again and again; git sees no other file, not even an ignored one."""
    subprocess.run(["git", "init", "-q"], cwd=several.folder, check=True)
    command = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all"]
    for words in (["--dry-run"], [], [], ["--upgrade"], ["--upgrade", EMBEDDING], ["--check"]):
        assert several("lock", *words).exit_code == 0
        listed = subprocess.run(command, cwd=several.folder, check=True, capture_output=True, text=True).stdout
        lock = [] if words == ["--dry-run"] else ["?? models.lock"]
        assert listed.splitlines() == [*lock, "?? models.toml"]
        assert names(several.folder) - {name for name in names(several.folder) if name.startswith(".git")} == {
            line.removeprefix("?? ") for line in listed.splitlines()
        }
        assert names(temporary) == set()


@pytest.mark.parametrize("what", ["a file is gone", "a pickle is refused", "the lock cannot be written"])
def test_a_lock_that_fails_leaves_nothing(
    several: Tool, hub: StandInHub, tmp_path: Path, temporary: Path, what: str
) -> None:
    """Whatever it had fetched and converted by then."""
    words = []
    if what == "a file is gone":
        gone = Status(404, {"X-Error-Code": "EntryNotFound"})
        hub.fail(gone, on=r"GET hub /tinyorg/reranker/resolve/.*/tokenizer\.json", times=-1)
    elif what == "a pickle is refused":
        (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"no zip archive")
        hub.add(PICKLED, tmp_path / "pickled")
    else:
        words = ["--lockfile", "/proc/models.lock"]
    assert several("lock", *words).exit_code in (3, 4, 5)
    assert (names(several.folder), names(temporary)) == ({"models.toml"}, set())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_lock_that_is_killed_leaves_nothing_in_the_repository(
    several: Tool, hub: StandInHub, temporary: Path, number: signal.Signals
) -> None:
    """While it fetches a pickle. After SIGTERM nothing is left anywhere; SIGKILL leaves a temporary directory."""
    hub.fail(Slow(20_000), on=r"GET cdn .*pytorch_model\.bin", times=-1)
    process = several.process("lock")
    deadline = time.monotonic() + SOON
    while not list(temporary.rglob("*.ranges")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert names(several.folder) == {"models.toml"}
    assert bool(names(temporary)) == (number == signal.SIGKILL)


KEEPS: Mapping[str, bool] = {"default": False, "in use": True, "--root": True, "CACHE_MODELS_ROOT": True}


@pytest.mark.parametrize("root", KEEPS)
def test_lock_keeps_what_it_fetched_only_in_a_root_in_use_or_one_that_was_named(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """There `sync` fetches no small file again; elsewhere it does, and the result is the same."""
    words = ["--root", str(tmp_path / "root")] if root == "--root" else []
    if root == "CACHE_MODELS_ROOT":
        monkeypatch.setenv("CACHE_MODELS_ROOT", str(tmp_path / "root"))
    elif root == "in use":
        (pair.folder / "cached_reranker_models").mkdir()  # one of the collections is enough
    assert pair("lock", *words).exit_code == 0
    hub.forget()
    assert pair("sync", *words).exit_code == 0
    assert ({request.file for request in hub.requests if request.file} == {"model.safetensors"}) == KEEPS[root]
    assert pair("verify", *words).exit_code == 0


def test_sync_keeps_what_it_fetched_to_pin_a_model(pair: Tool, hub: StandInHub) -> None:
    """It resolves and fetches in one root, whatever that is: each file comes once."""
    assert pair("sync").exit_code == 0
    fetched_whole = [(one.repo, one.file) for one in hub.requests if one.file and one.status == 200]
    assert len(fetched_whole) == len(set(fetched_whole)) > 10


def test_a_pickle_is_converted_in_the_directory_of_temporary_files(
    several: Tool, small_volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is too small the error names its variable, and with a root that is named it is not needed."""
    monkeypatch.setenv("TMPDIR", str(small_volume))
    monkeypatch.setattr("tempfile.tempdir", None)
    ran = several("lock")
    assert ran.exit_code == 4
    assert str(small_volume) in ran.err
    assert re.search("^hint: .*TMPDIR", ran.err, re.MULTILINE)
    assert names(small_volume) == set()
    assert several("lock", "--root", "root").exit_code == 0


# How it is said


def refused(tool: Tool, *words: str) -> Ran:
    """Run a command that cannot write."""
    ran = tool(*words)
    assert ran.exit_code == 4, ran.err
    return ran


def test_a_lock_that_cannot_be_written_advises_lockfile_and_not_root(pair: Tool, small_volume: Path) -> None:
    """On a volume that is read-only, in a directory that is not there, and on one that is full."""
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    for path in (small_volume / "models.lock", small_volume / "gone" / "models.lock"):
        ran = refused(pair, "lock", "--lockfile", str(path))
        assert re.search("^hint: .*--lockfile", ran.err, re.MULTILINE)
        assert "--root" not in ran.err
        assert re.search(rf": {path}$", ran.err, re.MULTILINE)  # and not the name of a temporary file beside it


def test_rows_are_as_wide_as_their_longest_id_asks(several: Tool) -> None:
    """An ordinary row fits into a terminal of 80 columns; sizes stand below each other."""
    rows = [line for line in several("lock").err.splitlines() if line.startswith("  lock ")]
    assert len(rows) == 5
    assert max(map(len, rows)) <= 80
    assert len(set(map(len, rows))) == 1


def test_a_model_is_never_larger_than_the_repository_it_is_compared_with(
    hub: StandInHub, tool: Tool, tmp_path: Path
) -> None:
    """Code of another repository comes on top: then the model's size stands alone."""
    files = files_below(tiny.tiny_embedding(tmp_path / "coded"))
    config = {**json.loads(files["config.json"]), "auto_map": {"AutoModel": f"{IMPL}--modeling_x.X"}}
    hub.add(CODED, {**files, "config.json": json.dumps(config).encode()})
    hub.add(IMPL, {"modeling_x.py": CODE + b"#" * 5000})
    tool.want(CODED, extra="trust_remote_code = true\n")
    (row,) = [line for line in tool("lock").err.splitlines() if line.startswith("  lock ")]
    assert " of " not in row


@pytest.mark.parametrize("flag", ["--check", "--locked"])
def test_an_upgrade_that_could_pin_nothing_is_refused(pair: Tool, hub: StandInHub, flag: str) -> None:
    """`lock --upgrade --check` is no look for newer commits, and "fits" would be taken for its result."""
    pair("lock")
    hub.forget()
    ran = pair("lock", "--upgrade", flag)
    assert (ran.exit_code, hub.requests) == (2, [])
    (words,) = re.findall("`cache-models ([^`]+)`", ran.err)
    assert pair(*words.split()).exit_code == 0


def test_a_lock_of_no_model_says_that_the_manifest_lists_none(tool: Tool) -> None:
    """A manifest that was saved empty is a mistake, and `prune` would then remove every model."""
    (tool.folder / "models.toml").write_text("")
    assert "models.toml lists none" in tool("lock").err


@pytest.mark.parametrize("gated", [False, True])
def test_a_gated_model_is_pinned_as_gated(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, gated: bool
) -> None:
    """The Hub says so once; a report later has no network to ask it."""
    hub.token = "hf_ours"
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    hub.add(EMBEDDING, files_below(tiny.tiny_embedding(tmp_path / "again")), gated=gated)
    assert pair("lock").exit_code == 0
    pins = read_lock(pair.folder / "models.lock") or ()
    assert {pin.id: pin.gated for pin in pins} == {EMBEDDING: gated, RERANKER: False}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        (b"---\nlicense: [mit, x]\n---\n", "mit"),
        (b"---\nlicense: 'two words'\n---\n", ""),
        (b"# No front matter", ""),
        (None, ""),
    ],
)
def test_the_licence_of_a_directory_is_its_cards(tool: Tool, card: bytes | None, licence: str) -> None:
    """As for a model of the Hub, which reads the card itself."""
    house = tiny.tiny_embedding(tool.folder / "house")
    (house / "README.md").unlink()
    if card is not None:
        (house / "README.md").write_bytes(card)
    tool.want(extra=f'[[embedding]]\nid = "{HOUSE}"\npath = "house"\n')
    assert tool("lock").exit_code == 0
    (pin,) = read_lock(tool.folder / "models.lock") or ()
    assert pin.licence == licence
