"""The commands beside `sync`: what they print where, and how they end."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from modelcache.check.golden import Golden, GoldenFile, format_golden
from modelcache.check.probes import Answer, Probe
from modelcache.core.kinds import Kind
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Tool, files_below
from tests.support import models, tiny
from tests.support.hub import StandInHub, Status


def test_locking_twice_gives_the_same_bytes(pair: Tool, hub: StandInHub) -> None:
    """The lock holds no date, no place and no order of arrival; a second `lock` asks nothing."""
    assert pair("lock").exit_code == 0
    first = (pair.folder / "models.lock").read_bytes()
    hub.forget()
    assert pair("lock").exit_code == 0
    assert hub.requests == []
    (pair.folder / "models.lock").unlink()
    assert pair("lock").exit_code == 0
    assert (pair.folder / "models.lock").read_bytes() == first


@pytest.mark.slow
def test_lock_prints_what_it_saves(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Kept bytes stand beside the repository's."""
    source = models.with_heavy_duplicates(models.plain_embedding(tmp_path / "plain"), real_size=False)
    hub.add(EMBEDDING, source)
    tool.want(EMBEDDING)
    (line,) = [line for line in tool("lock").err.splitlines() if line.startswith("  lock ")]
    assert re.fullmatch(r"  lock     tinyorg/embedding +123 kB of 1\.\d MB", line), line


def test_lock_warns_of_a_schema_that_only_the_newest_loader_reads(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """A note with the names of the files, and no refusal; neither lock nor receipt says it, so it is told once."""
    files = files_below(tiny.tiny_embedding(tmp_path / "new"))
    hub.add(EMBEDDING, {**files, "1_Pooling/config.json": b'{"embedding_dimension": 32, "pooling_mode": "mean"}'})
    tool.want(EMBEDDING)
    told = f"{EMBEDDING}: only sentence-transformers 5.4 and later read the schema of 1_Pooling/config.json"
    ran = tool("lock")
    assert (ran.exit_code, ran.err.count(f"  note     {told}")) == (0, 1), ran.err
    lock = tool.folder / "models.lock"
    assert "5.4" not in lock.read_text()
    assert "note" not in tool("lock").err
    assert "note" not in tool("sync").err
    assert "5.4" not in (tool.home(EMBEDDING) / ".cache-models.json").read_text()
    lock.unlink()
    shutil.rmtree(tool.home(EMBEDDING))
    lines = [json.loads(line) for line in tool("sync", "--log-format", "json").err.splitlines()]
    (note,) = [line for line in lines if line["event"] == "note"]
    assert note["model"] == EMBEDDING
    assert note["text"].endswith(told.partition(": ")[2] + "; text-embeddings-inference does not")


def test_what_lock_fetched_is_kept_for_sync(pair: Tool, hub: StandInHub) -> None:
    """Small files are fetched once, to be hashed; of the weights the header is, and then the whole.

    Requests to the Hub together are files + 2 and one more for each weight file; in one `sync` that one is not needed,
    since the address of the weights is known by then.
    """
    pair.use_root()
    pair("lock")
    pair("sync")
    for model in (EMBEDDING, RERANKER):
        asked = [request for request in hub.requests if request.host == "hub" and request.repo == model]
        kind = "embedding" if model == EMBEDDING else "reranker"
        files = len(files_below(pair.home(model, kind))) - 1
        assert len(asked) <= files + 3 + 1
        assert sum("/tree/" in request.path for request in asked) == 1
        named = [request.file for request in asked if request.file]
        assert sorted(named) == sorted([*set(named), "model.safetensors"])
        assert len(set(named)) == files
    (pair.folder / "models.lock").unlink()
    shutil.rmtree(pair.folder / "cached_embedding_models")
    hub.forget()
    assert pair("sync").exit_code == 0
    asked = [request for request in hub.requests if request.host == "hub" and request.repo == EMBEDDING]
    assert len(asked) <= len(files_below(pair.home(EMBEDDING))) - 1 + 3


def test_locking_again_and_again_keeps_each_file_once(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """What is kept, or in place, is neither fetched nor kept again, empty files neither; only what changed is."""
    repository = tiny.tiny_embedding(tmp_path / "embedding")
    (repository / "empty.txt").touch()
    hub.add(EMBEDDING, repository)
    tool.want(EMBEDDING)
    state = tool.folder / "cached_embedding_models" / ".cache-models"
    tool.use_root()
    assert tool("lock").exit_code == 0
    kept = files_below(state)
    (tool.folder / "models.lock").unlink()
    hub.forget()
    for words in (("lock",), ("lock", "--upgrade"), ("lock", "--upgrade", "--dry-run")):
        assert tool(*words).exit_code == 0
        assert files_below(state) == kept
    assert {request.file for request in hub.requests if request.file} == {"model.safetensors"}  # its header

    hub.forget()
    (repository / "README.md").write_text("another card")
    hub.add(EMBEDDING, repository)
    assert tool("lock", "--upgrade").exit_code == 0
    assert {request.file for request in hub.requests if request.file} == {"README.md", "model.safetensors"}
    assert len(files_below(state)) == len(kept) + 1

    assert tool("sync").exit_code == 0
    assert tool("lock", "--upgrade").exit_code == 0
    assert not state.exists()


def test_what_a_killed_lock_left_beside_it_goes(pair: Tool) -> None:
    """The file that was to become models.lock, by a run that died, is cleared away by the next one that writes it."""
    left, other = pair.folder / ".models.lock.0123456789abcdef", pair.folder / ".models.lock.mine"
    left.write_text("half")
    other.write_text("mine")
    assert pair("lock").exit_code == 0
    assert [left.exists(), other.exists()] == [False, True]


def test_the_lock_is_on_disk_before_it_has_its_name(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not leave an empty models.lock: that would stop every later start with 2."""
    durable: dict[int, int] = {}
    fsync, replace = os.fsync, os.replace

    def noted(fd: int) -> None:
        fsync(fd)
        durable[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    def replaced(source: Path, target: Path) -> None:
        assert durable.get(source.stat().st_ino) == source.stat().st_size > 0 or target.name != "models.lock"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", replaced)
    assert pair("lock").exit_code == 0
    assert (pair.folder / "models.lock").exists()


def test_a_lock_whose_new_file_another_run_took_away_is_written_all_the_same(
    pair: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that write the lock at one time: each clears away what it takes for a dead one's."""
    replace = os.replace
    taken: list[Path] = []

    def replaced(source: Path, target: Path) -> None:
        if not taken:
            taken.append(source)
            source.unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    assert pair("lock").exit_code == 0
    assert (pair.folder / "models.lock").exists()
    assert not list(pair.folder.glob(".models.lock.*"))


def test_lock_leaves_nothing_in_a_root_it_cannot_write(pair: Tool) -> None:
    """Locking needs no root: where nothing can be kept, `sync` fetches the small files again."""
    assert pair("lock", "--root", "/proc/nowhere").exit_code == 0


def test_lock_check_asks_no_network(pair: Tool, hub: StandInHub) -> None:
    """`lock --check` compares manifest and lock: 2 where they differ, with every difference."""
    assert pair("lock", "--check").exit_code == 2
    pair("lock")
    hub.forget()
    assert pair("lock", "--check").exit_code == 0
    pair.want(EMBEDDING, "new/one")
    ran = pair("lock", "--check")
    assert ran.exit_code == 2
    assert "new/one (embedding)" in ran.err
    assert f"{RERANKER} (reranker)" in ran.err
    assert EMBEDDING not in ran.err
    assert hub.requests == []


def test_lock_upgrade_moves_only_what_it_names(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """`lock` alone keeps every pin; `--upgrade ID` moves that one; `--upgrade` moves all."""
    pair("lock")
    for model_id, folder in ((EMBEDDING, "embedding"), (RERANKER, "reranker")):
        (tmp_path / folder / "README.md").write_text("---\nlicense: mit\n---\nmoved on")
        hub.add(model_id, tmp_path / folder)
    before = (pair.folder / "models.lock").read_text()
    pair("lock")
    assert (pair.folder / "models.lock").read_text() == before
    pair("lock", "--upgrade", RERANKER)
    after = (pair.folder / "models.lock").read_text()
    assert after.split("[[model]]")[1] == before.split("[[model]]")[1]
    assert after.split("[[model]]")[2] != before.split("[[model]]")[2]
    pair("lock", "--upgrade")
    assert (pair.folder / "models.lock").read_text().split("[[model]]")[1] != before.split("[[model]]")[1]


def test_verify_needs_the_lock_alone(pair: Tool, hub: StandInHub) -> None:
    """Every byte is compared, offline, without a manifest."""
    pair("sync")
    hub.close()
    (pair.folder / "models.toml").rename(pair.folder / "elsewhere.toml")
    ran = pair("verify", "--manifest", "gone.toml", "--lockfile", "models.lock")
    assert ran.exit_code == 0
    assert ran.err.splitlines()[-1] == f"2 models in {pair.folder}: every byte as pinned."


def test_verify_without_a_lock_goes_by_the_receipts(pair: Tool) -> None:
    """The receipts are the pin; a byte that differs from them is found."""
    pair("sync")
    (pair.folder / "models.lock").unlink()
    assert pair("verify").exit_code == 0
    with (pair.home(EMBEDDING) / "vocab.txt").open("r+") as file:
        file.write("X")
    assert pair("verify").exit_code == 1


def test_extra_file_fails_verify(pair: Tool) -> None:
    """Missing, extra and changed files are told, of all models, and the exit code is 1."""
    pair("sync")
    home = pair.home(EMBEDDING)
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("left by another tool")
    (home / "vocab.txt").unlink()
    (home / "link").symlink_to("config.json")
    (home / "LICENSE").write_text("All rights reserved")
    (home / "1_Pooling").rename(pair.folder / "elsewhere")
    (home / "1_Pooling").symlink_to(pair.folder / "elsewhere")
    (pair.home(RERANKER, "reranker") / "config.json").write_text("{}")
    ran = pair("verify")
    assert ran.exit_code == 1
    for line in (
        "missing  vocab.txt",
        "extra    .cache/huggingface/CACHEDIR.TAG",
        "extra    link",
        "extra    1_Pooling",
        "missing  1_Pooling/config.json",
        "changed  LICENSE   expected 1.1 kB  found 19 B",
        "changed  config.json",
    ):
        assert line in ran.err, ran.err


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "no lock"])
def test_a_model_that_is_not_there_is_named_without_its_files(pair: Tool, locked: bool) -> None:
    """Each of its files would be missing; the hint is right for a model that was never fetched."""
    if locked:
        assert pair("lock").exit_code == 0
    ran = pair("verify", "--root", "elsewhere")
    assert ran.exit_code == 1
    for kind, model in (("embedding", EMBEDDING), ("reranker", RERANKER)):
        place = pair.folder / "elsewhere" / f"cached_{kind}_models" / model.replace("/", "__")
        assert f"error: {model} is not there ({place})" in ran.err
    assert len(ran.err.splitlines()) == 4
    assert "--root" in ran.err
    assert "again" not in ran.err


@pytest.mark.parametrize("quick", [False, True])
def test_verify_quick_reads_only_what_looks_touched(pair: Tool, quick: bool) -> None:
    """With the stamp gone and times restored, only the full comparison sees a flipped byte; sizes both see."""
    pair("sync")
    vocabulary = pair.home(EMBEDDING) / "vocab.txt"
    times = vocabulary.stat()
    vocabulary.write_bytes(b"X" + vocabulary.read_bytes()[1:])
    os.utime(vocabulary, ns=(times.st_atime_ns, times.st_mtime_ns))
    (pair.folder / ".cache-models.stamp").unlink()
    assert pair("verify", *(["--quick"] if quick else [])).exit_code == (0 if quick else 1)
    vocabulary.write_bytes(b"")
    assert pair("verify", "--quick").exit_code == 1


def recorded(*models: str) -> GoldenFile:
    """What a check may have recorded of these models."""
    entries = [Golden(model, Kind.EMBEDDING, (Answer(Probe("one"), array("f", [1.0])),)) for model in models]
    return {f"{number:064x}": entry for number, entry in enumerate(entries)}


def test_recording_without_a_lock_keeps_what_is_known_of_absent_models(tool: Tool) -> None:
    """A wrong root, or an absent model, is an error (1); only numbers of unwanted models are forgotten."""
    tool.want(EMBEDDING, "org/other")
    golden = tool.folder / "models.golden.json"
    golden.write_text(format_golden(recorded(EMBEDDING, "org/other", "org/unwanted")))
    ran = tool("check", "--record")
    assert ran.exit_code == 1
    errors = re.findall("^error: .*", ran.err, re.MULTILINE)
    assert len(errors) == 2
    assert EMBEDDING in errors[0]
    assert "org/other" in errors[1]
    assert golden.read_text() == format_golden(recorded(EMBEDDING, "org/other"))


def test_numbers_that_cannot_be_written_hide_no_failure(pair: Tool, small_volume: Path) -> None:
    """The errors of the models come first, then that of the file; the exit code is that of the models."""
    pair("lock")
    golden = small_volume / "models.golden.json"
    golden.write_text('{"format": 1, "models": {}}')
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    (pair.folder / "models.golden.json").symlink_to(golden)
    ran = pair("check", "--record")
    assert ran.exit_code == 1
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert EMBEDDING in errors[0]
    assert RERANKER in errors[1]
    assert str(golden) in errors[2]


def test_status_shows_a_row_a_model(pair: Tool) -> None:
    """Data goes to stdout: absent, ready, damaged and other version are told apart."""
    rows = json.loads(pair("status", "--json").out)
    assert [(row["id"], row["state"]) for row in rows] == [(EMBEDDING, "absent"), (RERANKER, "absent")]
    pair("sync")
    rows = json.loads(pair("status", "--json").out)
    assert [row["state"] for row in rows] == ["ready", "ready"]
    assert re.fullmatch(r"[0-9a-f]{40}", rows[0]["commit"])
    assert rows[0]["path"] == str(pair.home(EMBEDDING))
    (pair.home(EMBEDDING) / "vocab.txt").unlink()
    shutil.rmtree(pair.home(RERANKER, "reranker"))
    ran = pair("status")
    assert (ran.exit_code, ran.err) == (0, "")
    assert ran.out.splitlines()[1].endswith("damaged: missing vocab.txt")
    assert ran.out.splitlines()[2].endswith("absent")


def test_path_prints_the_absolute_directory(pair: Tool) -> None:
    """Stdout holds the directory and nothing else; a model that is absent or damaged is an error."""
    assert pair("path", EMBEDDING).exit_code == 2
    pair("sync")
    ran = pair("path", RERANKER)
    assert (ran.exit_code, ran.out, ran.err) == (0, f"{pair.home(RERANKER, 'reranker')}\n", "")
    (pair.home(RERANKER, "reranker") / "vocab.txt").unlink()
    ran = pair("path", RERANKER)
    assert (ran.exit_code, ran.out) == (1, "")
    assert "missing  vocab.txt" in ran.err


def test_json_lines_are_objects_one_a_line(pair: Tool, hub: StandInHub) -> None:
    """`--log-format json` writes nothing but objects, errors included; the last one says how it ended."""
    events = [json.loads(line) for line in pair("sync", "--log-format", "json").err.splitlines()]
    assert [event["event"] for event in events] == ["fetch", "fetch", "pinned", "ready"]
    again = json.loads(pair("sync", "--log-format", "json").err)
    assert (again["event"], "unchanged" in again["text"]) == ("ready", True)
    hub.close()
    pair.want(EMBEDDING, "not/there")
    last = json.loads(pair("sync", "--log-format=json").err.splitlines()[-1])
    assert (last["event"], last["exit_code"], last["retryable"]) == ("error", 3, True)
    pair.want("not an id")
    last = json.loads(pair("sync", "--log-format=json").err.splitlines()[-1])
    assert (last["event"], last["exit_code"], last["retryable"]) == ("error", 2, False)


def test_quiet_prints_errors_only(pair: Tool) -> None:
    """`--quiet` says nothing when all is well."""
    assert pair("sync", "--quiet") == pair("sync", "--quiet")
    assert pair("sync", "--quiet").err == ""
    assert pair("verify", "--quiet").err == ""
    assert "error" in pair("sync", "--quiet", "unknown/one").err


def test_too_little_space_is_refused_before_the_first_byte(pair: Tool, hub: StandInHub, small_volume: Path) -> None:
    """Needed, free and short by are told; nothing is fetched; exit 4."""
    pair("lock")
    hub.forget()
    ran = pair("sync", "--root", str(small_volume))
    assert ran.exit_code == 4
    assert re.search(r"needed [\d.]+ \w?B, free [\d.]+ \w?B, short by at least [\d.]+ \w?B", ran.err)
    assert hub.requests == []
    assert list(small_volume.rglob("*")) == []


def test_a_volume_that_cannot_be_asked_for_its_space_is_told(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the volume's fault, not a bug here."""
    pair("lock")

    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "statvfs", broken)
    ran = pair("sync")
    assert (ran.exit_code, os.strerror(errno.EIO) in ran.err) == (4, True)


def test_what_the_dead_left_makes_room(pair: Tool, small_volume: Path) -> None:
    """On a volume that has room for one copy, the staging of a killed run is given up rather than in the way."""
    pair("lock")
    subprocess.run(["mount", "-o", "remount,size=620k", small_volume], check=True)
    dead = small_volume / "cached_embedding_models" / ".cache-models" / "tinyorg__embedding~0123456789ab"
    dead.mkdir(parents=True)
    (dead / ("0" * 64)).write_bytes(bytes(300_000))
    assert pair("sync", "--root", str(small_volume)).exit_code == 0
    assert not dead.parent.exists()


def test_a_read_only_root_is_told(pair: Tool, small_volume: Path) -> None:
    """A root that nobody can write ends with 4 and names it; once filled, it is enough for 0."""
    subprocess.run(["mount", "-o", "remount,size=10m,ro", small_volume], check=True)
    ran = pair("sync", "--root", str(small_volume))
    assert ran.exit_code == 4
    assert str(small_volume) in ran.err
    assert "Read-only file system" in ran.err
    subprocess.run(["mount", "-o", "remount,rw", small_volume], check=True)
    assert pair("sync", "--root", str(small_volume)).exit_code == 0
    (small_volume / ".cache-models.stamp").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    assert pair("sync", "--root", str(small_volume)).exit_code == 0
    assert pair("verify", "--root", str(small_volume)).exit_code == 0


@pytest.mark.parametrize("closed", ["2>&1 >/dev/null | true", "2>&-", "2>/dev/full"])
def test_the_exit_code_needs_no_listener(pair: Tool, closed: str) -> None:
    """With nobody reading its words, a run does what it does and ends with what that means."""
    tool = f"{sys.executable} {PROJECT}/cache_models.py"
    for command, code in (("sync", 0), ("sync", 0), ("verify", 0), ("verify --lockfile nowhere.lock --locked", 2)):
        line = f"set -o pipefail; {tool} {command} {closed}"
        assert subprocess.run(["bash", "-c", line], cwd=pair.folder, check=False).returncode == code, (command, closed)
    (pair.home(EMBEDDING) / "vocab.txt").unlink()
    line = f"set -o pipefail; {tool} verify {closed}"
    assert subprocess.run(["bash", "-c", line], cwd=pair.folder, check=False).returncode == 1


def test_status_into_a_closed_pipe_is_no_failure(pair: Tool) -> None:
    """A reader that has seen enough ends nothing with an error."""
    line = f"set -o pipefail; {sys.executable} {PROJECT}/cache_models.py status | true"
    ran = subprocess.run(["bash", "-c", line], cwd=pair.folder, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_terminal_is_not_told_to_obey(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the Hub says is printed, and left for Kubernetes, without escape sequences and without lines of its own."""
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr("modelcache.cli.main._TERMINATION_LOG", log)
    words = "no \x1b[2J\x9b31m way ##vso[x]"

    def broken(path: object) -> None:
        raise ValueError(words)

    def told(exit_code: int) -> None:
        ran = pair("sync")
        assert ran.exit_code == exit_code
        assert all(char.isprintable() or char == "\n" for char in ran.err)
        assert ran.err.endswith(f"{log.read_text()}\n")
        assert "way \\u0023#vso[x]" in log.read_text()

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", broken)
        told(70)
    hub.fail(Status(403, {"X-Error-Message": words}), on="hub /api", times=-1)
    told(3)


def test_a_name_on_disk_makes_no_row(pair: Tool) -> None:
    """Whoever writes to the volume may call a directory or a file as he likes."""
    odd = "x\n  ready    all\x1b[2J"
    home = pair.home(EMBEDDING)
    home.mkdir(parents=True)
    (home / odd).touch()
    ran = pair("sync")
    assert ran.exit_code == 4
    assert "(x\\n \\x20ready" in ran.err
    (home.parent / odd).mkdir()
    (home / odd).unlink()
    pair("sync")
    told = [row for row in pair("prune").err.split("\n") if "ready" in row]
    assert len(told) == 1
    assert told[0].startswith(f"  leave    {home.parent}/x\\n  ready    all\\x1b[2J has no receipt")


def test_a_missing_package_is_told(pair: Tool) -> None:
    """Without its requirements the tool says what to install."""
    ran = pair.run(
        "sync", env={"PYTHONPATH": str(library(pair, "urllib3", "raise ModuleNotFoundError(name='urllib3')"))}
    )
    assert ran.exit_code == 2
    assert ran.err.startswith("error: the package urllib3 is missing\nhint: ")
    assert "`pip install .`" in ran.err


def test_a_bug_ends_with_70_and_a_traceback(pair: Tool) -> None:
    """What nobody thought of is shown as it is."""
    ran = pair.run("lock", env={"PYTHONPATH": str(library(pair, "urllib3", "1 / 0"))})
    assert ran.exit_code == 70
    assert "Traceback" in ran.err
    assert re.search("^error: .*ZeroDivisionError", ran.err, re.MULTILINE)


def library(tool: Tool, name: str, text: str) -> Path:
    """A package that fails in a way that no network and no disk does."""
    folder = tool.folder.parent / "library"
    folder.mkdir()
    (folder / f"{name}.py").write_text(text)
    return folder


_INTERRUPTED_IMPORT = """
import sys

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "modelcache.cli.commands.report":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from cache_models import main
sys.exit(main(["report"]))
"""


def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback(tool: Tool) -> None:
    """A tenth of a second passes before a command listens to signals."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT],
        cwd=tool.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; run it again to go on where it stopped\n")
