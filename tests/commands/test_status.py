"""`status`: the state of each model in words and for programs, and how it differs from what is wanted."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.status import State
from modelcache.core.types import Pooling
from modelcache.formats.lockfile import format_lock, parse_lock
from tests.conftest import EMBEDDING, RERANKER, Tool
from tests.support import tiny
from tests.support.hub import Slow, StandInHub

WEIGHTS = "model.safetensors"


def rows(tool: Tool, *words: str) -> dict[str, dict[str, Any]]:
    """The rows for programs, by id."""
    ran = tool("status", "--json", *words)
    assert ran.exit_code == 0, ran.err
    return {row["id"]: row for row in json.loads(ran.out)}


def states(tool: Tool, *words: str) -> dict[str, str]:
    """The state of each model."""
    return {model_id: row["state"] for model_id, row in rows(tool, *words).items()}


def commit_of(tool: Tool, model_id: str = EMBEDDING) -> str:
    """The commit that the lock pins."""
    lock = (tool.folder / "models.lock").read_bytes()
    return next(model.commit for model in parse_lock(lock, "models.lock") if model.id == model_id)


def test_another_version_names_both_commits(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """The one that is there and the one that is wanted."""
    pair("sync")
    old = commit_of(pair)
    (tmp_path / "embedding" / "vocab.txt").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade")
    new = commit_of(pair)
    row = rows(pair)[EMBEDDING]
    assert row["state"] == f"other version: commit {old[:12]} instead of {new[:12]}"
    assert (row["commit"], row["found_commit"]) == (new, old)
    assert states(pair)[RERANKER] == "ready"


def test_the_same_commit_with_other_settings_or_files_says_which(pair: Tool) -> None:
    """The commit alone would not tell why `sync` replaces it."""
    pair("sync")
    path = pair.folder / "models.lock"
    embedding, reranker = parse_lock(path.read_bytes(), path.name)
    rewritten = [replace(file, sha256="0" * 64) if file.path == "vocab.txt" else file for file in reranker.files]
    pins = [
        replace(embedding, pooling=Pooling.CLS, normalize=True),
        replace(reranker, files=tuple(rewritten)),
    ]
    path.write_text(format_lock(pins))
    pair.want(EMBEDDING, rerankers=(RERANKER,))
    manifest = (pair.folder / "models.toml").read_text()
    keys = f'id = "{EMBEDDING}"\npooling = "cls"\nnormalize = true'
    (pair.folder / "models.toml").write_text(manifest.replace(f'id = "{EMBEDDING}"', keys))
    assert states(pair) == {
        EMBEDDING: "other version: pooling unset instead of cls; normalize false instead of true",
        RERANKER: "other version: other files (vocab.txt)",
    }


@pytest.mark.parametrize(
    ("key", "difference"),
    [
        ('revision = "v1"', "revision main instead of v1"),
        ('path = "models/x"', "path unset instead of models/x"),
        ('pooling = "mean"\nnormalize = true', "pooling unset instead of mean, normalize false instead of true"),
    ],
)
def test_a_pin_that_does_not_fit_the_manifest_says_which_key_differs(pair: Tool, key: str, difference: str) -> None:
    """Whether the model is there or not."""
    pair("lock")
    (pair.folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n{key}\n')
    assert states(pair)[EMBEDDING] == f"absent: models.lock has {difference}"
    pair.want(EMBEDDING)
    pair("sync")
    (pair.folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n{key}\n')
    assert states(pair)[EMBEDDING] == f"other version: models.lock has {difference}"


def test_without_a_lock_the_receipt_says_which_key_differs(pair: Tool) -> None:
    """The receipt is the pin then."""
    pair("sync")
    (pair.folder / "models.lock").unlink()
    (pair.folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1"\n')
    assert states(pair)[EMBEDDING] == "other version: revision main instead of v1"


def test_damaged_names_the_files(pair: Tool) -> None:
    """The first three, and how many more there are; programs get all."""
    pair("sync")
    home = pair.home(EMBEDDING)
    for name in ("README.md", "vocab.txt"):
        (home / name).unlink()
    (home / "LICENSE").write_text("All rights reserved")
    (home / "planted").touch()
    row = rows(pair)[EMBEDDING]
    assert row["state"] == "damaged: missing README.md; missing vocab.txt; extra planted; 1 more"
    assert row["differences"] == ["missing README.md", "missing vocab.txt", "extra planted", "changed LICENSE"]


def test_what_neither_manifest_nor_lock_wants_is_a_row(pair: Tool) -> None:
    """Models that `prune` would remove, and directories and files that this tool did not write."""
    pair("sync")
    commit = commit_of(pair, RERANKER)
    pair.want(EMBEDDING)
    pair("lock")
    pair.home("not/ours").mkdir()
    (pair.home("x").parent / "notes.txt").touch()
    found = json.loads(pair("status", "--json").out)
    home = str(pair.home(RERANKER, "reranker"))
    assert [(row["id"], row["state"], row["path"]) for row in found] == [
        (EMBEDDING, "ready", str(pair.home(EMBEDDING))),
        (RERANKER, "not wanted", home),
        ("", "foreign: not written by this tool", str(pair.home("not/ours"))),
        ("", "foreign: not written by this tool", str(pair.home("x").parent / "notes.txt")),
    ]
    assert (found[1]["kind"], found[1]["commit"], found[1]["size"] > 100_000) == ("reranker", commit, True)
    table = pair("status").out
    assert re.search(r"^embedding  not__ours +- +-  foreign: not written by this tool$", table, re.MULTILINE)
    pair("prune")
    assert [row["id"] for row in json.loads(pair("status", "--json").out)] == [EMBEDDING, "", ""]


@pytest.mark.parametrize("what", ["a directory", "a file", "a link to nothing", "another model"])
def test_a_place_of_a_model_that_is_taken_is_foreign(pair: Tool, what: str) -> None:
    """`sync` would refuse to replace it, so it is neither absent nor damaged."""
    pair("lock")
    home = pair.home(EMBEDDING)
    home.parent.mkdir(exist_ok=True)
    if what == "a directory":
        home.mkdir()
        (home / "notes.txt").touch()
    elif what == "a file":
        home.touch()
    elif what == "a link to nothing":
        home.symlink_to("nowhere")
    else:
        pair("sync")
        receipt = home / ".cache-models.json"
        receipt.write_bytes(receipt.read_bytes().replace(b"tinyorg/embedding", b"tinyorg/embeddinh"))
    assert states(pair)[EMBEDDING].partition(":")[0] == "foreign"
    assert pair("sync").exit_code == 4


def test_a_directory_without_a_receipt_that_holds_files_of_the_model_is_damaged(pair: Tool) -> None:
    """`sync` replaces it."""
    pair("sync")
    (pair.home(EMBEDDING) / ".cache-models.json").unlink()
    assert states(pair)[EMBEDDING] == "damaged: it has no receipt"
    assert pair("sync").exit_code == 0


def test_a_model_that_only_the_lock_names_is_told_as_such(pair: Tool) -> None:
    """`prune` keeps it and `verify` compares it, so it is not called unwanted."""
    pair("sync")
    pair.want(EMBEDDING)
    assert states(pair) == {EMBEDDING: "ready", RERANKER: "ready: models.toml does not list it"}


def test_status_works_from_the_lock_alone(pair: Tool, hub: StandInHub) -> None:
    """As `verify` does, where an image has no manifest."""
    pair("sync")
    hub.close()
    (pair.folder / "models.toml").unlink()
    alone = ("--manifest", "gone.toml", "--lockfile", "models.lock")
    assert states(pair, *alone) == {EMBEDDING: "ready", RERANKER: "ready"}
    assert states(pair, RERANKER, *alone) == {RERANKER: "ready"}
    (pair.folder / "models.lock").unlink()
    assert pair("status", *alone).exit_code == 2


def test_status_of_ids_shows_only_these(pair: Tool) -> None:
    """Of the manifest, the lock or the root; each id that none of them has is told, with the one that is meant."""
    pair("sync")
    pair.home("not/ours").mkdir()
    assert states(pair, RERANKER) == {RERANKER: "ready"}
    ran = pair("status", "embedding", "tinyorg/rerankr", "no/such", EMBEDDING)
    assert (ran.exit_code, ran.out) == (2, "")
    assert f'embedding ("{EMBEDDING}" is meant)' in ran.err
    assert f"tinyorg/rerankr (did you mean '{RERANKER}'?)" in ran.err
    assert "no/such" in ran.err
    pair.want(EMBEDDING)
    assert states(pair, RERANKER) == {RERANKER: "ready: models.toml does not list it"}
    pair("lock")
    assert states(pair, RERANKER) == {RERANKER: "not wanted"}


def test_status_json_is_an_interface(pair: Tool) -> None:
    """These fields, and a state that begins with one of these words."""
    pair("sync")
    (pair.home(EMBEDDING) / "vocab.txt").unlink()
    fields = {"kind", "id", "commit", "size", "state", "path"}
    more = {"found_commit", "differences", "fetched", "to_fetch", "fetching", "hub_view", "index_id"}
    for row in rows(pair).values():
        assert row.keys() == fields | more
        assert row["state"].partition(":")[0] in set(State)
    assert set(State) == {"ready", "absent", "partly fetched", "other version", "damaged", "not wanted", "foreign"}


def test_the_table_has_a_header_and_fits_its_longest_id(pair: Tool) -> None:
    """Each column begins where its name stands, and a line of a ready model fits a terminal of 80 columns."""
    pair("sync")
    header, *lines = pair("status").out.splitlines()
    assert header.split() == ["KIND", "ID", "COMMIT", "SIZE", "STATE"]
    for line, model_id in zip(lines, (EMBEDDING, RERANKER), strict=True):
        assert line[header.index("ID") :].startswith(model_id)
        assert line[header.index("COMMIT") :].startswith(commit_of(pair, model_id)[:12])
        assert line[header.index("STATE") :] == "ready"
        assert len(line) <= 80


# unfinished ------------------------------------------------------------------------------------------------------


def stage(tool: Tool, sizes: dict[str, tuple[int, str]], name: str = "0123456789ab") -> Path:
    """Leave what a killed run leaves: by SHA-256 so many bytes, and the journal that says so."""
    folder = tool.home(EMBEDDING).parent / ".cache-models" / f"{tool.home(EMBEDDING).name}~{name}"
    folder.mkdir(parents=True)
    for sha256, (size, journal) in sizes.items():
        with (folder / sha256).open("wb") as file:
            file.truncate(size)
        if journal:
            (folder / f"{sha256}.ranges").write_text(journal)
    return folder


def weights_of(tool: Tool) -> tuple[str, int]:
    """The SHA-256 and the size of the pinned weights."""
    lock = (tool.folder / "models.lock").read_bytes()
    model = next(model for model in parse_lock(lock, "models.lock") if model.id == EMBEDDING)
    return next((file.sha256, file.size) for file in model.files if file.path == WEIGHTS)


def test_what_a_killed_run_has_fetched_is_counted(pair: Tool) -> None:
    """Bytes that the journal names, and files that have their name already; those of other contents do not count."""
    pair("lock")
    sha256, size = weights_of(pair)
    folder = stage(pair, {sha256: (size, "0 10000\n40000 60000\n"), "1" * 64: (5_000, "")})
    (folder / "tree").mkdir()
    vocabulary = tiny.tiny_embedding(pair.folder / "again") / "vocab.txt"
    shutil.copy(vocabulary, folder / "tree" / "vocab.txt")
    row = rows(pair)[EMBEDDING]
    assert row["fetched"] == 30_000 + vocabulary.stat().st_size
    assert row["to_fetch"] == row["size"]
    assert re.fullmatch(r"partly fetched: 30\.\d of 12\d kB", row["state"]), row
    assert row["fetching"] is False
    assert states(pair)[RERANKER] == "absent"


def test_without_a_pin_only_the_bytes_that_are_there_are_told(pair: Tool) -> None:
    """A first run without a lock that was killed has left no word of how many there were to be."""
    stage(pair, {"1" * 64: (90_000, "0 40000\n"), "2" * 64: (2_000, "")})
    row = rows(pair)[EMBEDDING]
    assert (row["state"], row["fetched"], row["to_fetch"]) == ("partly fetched: 42.0 kB", 42_000, 0)


def test_what_lock_keeps_is_no_fetch(pair: Tool) -> None:
    """After `lock` alone a model is absent; once a run has begun to fetch it, the kept files count."""
    pair.use_root()
    pair("lock")
    assert states(pair)[EMBEDDING] == "absent"
    sha256, size = weights_of(pair)
    stage(pair, {sha256: (size, "0 10000\n")})
    assert rows(pair)[EMBEDDING]["fetched"] > 11_000


def test_an_upgrade_that_was_killed_says_how_much_of_it_is_there(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """The old version stays whole meanwhile."""
    pair("sync")
    (tmp_path / "embedding" / "vocab.txt").write_text("moved on")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade")
    sha256, size = weights_of(pair)
    stage(pair, {sha256: (size, "0 50000\n")})
    assert re.fullmatch(
        r"other version: commit \w{12} instead of \w{12}; 50\.\d of 12\d kB fetched", states(pair)[EMBEDDING]
    )


@pytest.mark.parametrize("what", ["a link", "a file", "no permission"])
def test_staging_that_is_not_ours_is_not_counted(pair: Tool, what: str) -> None:
    """It is neither read nor removed, and ends nothing with an error."""
    pair("lock")
    state = pair.home(EMBEDDING).parent / ".cache-models"
    state.mkdir(parents=True)
    staging = state / f"{pair.home(EMBEDDING).name}~0123456789ab"
    if what == "a link":
        (pair.folder / "elsewhere").mkdir()
        (pair.folder / "elsewhere" / "file").write_text("mine")
        staging.symlink_to(pair.folder / "elsewhere")
    elif what == "a file":
        staging.touch()
    else:
        staging.mkdir(mode=0)
    assert states(pair)[EMBEDDING] == "absent"
    assert staging.is_symlink() or staging.exists()


@pytest.mark.slow
def test_a_model_that_is_being_fetched_says_so(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """While another process holds its lease, and no longer once that is dead; then the next run goes on."""
    hub.add(EMBEDDING, tiny.big_embedding(tmp_path / "big", 8))
    tool.want(EMBEDDING)
    tool("lock")
    hub.fail(Slow(2_000_000), on=rf"GET cdn .*{WEIGHTS}", times=-1)
    process = tool.process("sync")
    try:
        row = rows(tool)[EMBEDDING]
        while row["fetched"] < 200_000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
            row = rows(tool)[EMBEDDING]
    finally:
        process.kill()
        process.communicate()
    assert re.fullmatch(r"partly fetched: .* of 8\.\d MB; being fetched", row["state"]), row
    assert row["fetching"] is True
    later = rows(tool)[EMBEDDING]
    assert later["fetched"] >= row["fetched"]
    assert re.fullmatch(r"partly fetched: .* of 8\.\d MB", later["state"]), later
    hub.fail(Slow(10**12), on=rf"GET cdn .*{WEIGHTS}", times=-1)
    assert tool("sync").exit_code == 0
    assert states(tool) == {EMBEDDING: "ready"}
