"""Ids behind `verify`, `check` and `path`: only these models, and for an unknown one the id that is meant."""

from __future__ import annotations

import json
import re
from array import array
from pathlib import Path

import pytest

from modelcache.check.golden import Golden, format_golden
from modelcache.check.probes import Answer, Probe
from modelcache.core.kinds import Kind
from modelcache.core.types import set_digest
from modelcache.formats.lockfile import parse_lock
from tests.conftest import EMBEDDING, RERANKER, Tool
from tests.support.hub import StandInHub

UNKNOWN = ("embedding", "TinyOrg/Reranker", "tinyorg/embeddin", "no/such")


def spoil(tool: Tool, model_id: str, kind: str = "embedding") -> None:
    """Let a model differ from its pin in a byte."""
    path = tool.home(model_id, kind) / "vocab.txt"
    path.write_bytes(b"X" + path.read_bytes()[1:])


@pytest.mark.parametrize("locked", [True, False], ids=["by the lock", "by the receipts"])
@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["every byte", "quick"])
def test_verify_of_ids_compares_only_these(pair: Tool, hub: StandInHub, locked: bool, quick: list[str]) -> None:
    """Another model may be damaged, and is neither read nor told."""
    pair("sync")
    if not locked:
        (pair.folder / "models.lock").unlink()
    hub.close()
    spoil(pair, RERANKER, "reranker")
    ran = pair("verify", EMBEDDING, *quick)
    assert (ran.exit_code, RERANKER in ran.err) == (0, False), ran.err
    assert ran.err.splitlines()[-1].startswith("1 model in ")
    ran = pair("verify", RERANKER, EMBEDDING, *quick)
    assert (ran.exit_code, f"  ok       {EMBEDDING}" in ran.err) == (1, True), ran.err


@pytest.mark.parametrize("command", ["verify", "check", "check --record", "status", "sync", "lock --upgrade"])
@pytest.mark.parametrize("locked", [True, False], ids=["with a lock", "without"])
def test_all_unknown_ids_are_told_at_once_with_those_that_are_meant(
    pair: Tool, hub: StandInHub, command: str, locked: bool
) -> None:
    """Exit 2, before anything is done; a name alone or another spelling names one id, a misspelt one the nearest."""
    pair("sync")
    if not locked:
        (pair.folder / "models.lock").unlink()
    hub.forget()
    ran = pair(*command.split(), *UNKNOWN, EMBEDDING)
    assert (ran.exit_code, ran.out, hub.requests) == (2, "", [])
    (told,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert f'embedding ("{EMBEDDING}" is meant)' in told
    assert f'TinyOrg/Reranker ("{RERANKER}" is meant)' in told
    assert f"tinyorg/embeddin (did you mean '{EMBEDDING}'?)" in told
    assert told.endswith(", no/such")
    assert "hint: `cache-models status` lists the models." in ran.err
    assert not (pair.folder / "models.golden.json").exists()


def test_an_id_that_the_manifest_lists_and_the_lock_does_not_pin_is_told_as_such(pair: Tool) -> None:
    """It is known, so nothing else is suggested; `lock` pins it."""
    pair("sync")
    pair.want(EMBEDDING, "tinyorg/new", rerankers=(RERANKER,))
    ran = pair("verify", "tinyorg/new", EMBEDDING)
    assert ran.exit_code == 2
    assert re.search(r"^error: models\.lock .*\btinyorg/new$", ran.err, re.MULTILINE), ran.err
    assert "cache-models lock" in ran.err


def test_verify_of_ids_needs_the_lock_alone(pair: Tool) -> None:
    """As without ids; an unknown one has those of the lock suggested."""
    pair("sync")
    (pair.folder / "models.toml").unlink()
    alone = ("--manifest", "gone.toml", "--lockfile", "models.lock")
    assert pair("verify", EMBEDDING, *alone).exit_code == 0
    ran = pair("verify", "reranker", *alone)
    assert (ran.exit_code, f'"{RERANKER}" is meant' in ran.err) == (2, True)


def test_check_of_ids_looks_at_only_these(pair: Tool) -> None:
    """A model that is not named may be damaged; of one that is named the bytes are compared first, as ever."""
    pair("sync")
    spoil(pair, RERANKER, "reranker")
    spoil(pair, EMBEDDING)
    ran = pair("check", EMBEDDING)
    assert (ran.exit_code, EMBEDDING in ran.err, RERANKER in ran.err) == (1, True, False)


def record(tool: Tool, *models: tuple[str, str, Kind]) -> Path:
    """Write numbers of models as if a check had recorded them: digest, id and kind."""
    path = tool.folder / "models.golden.json"
    answers = (Answer(Probe("one"), array("f", [1.0])),)
    path.write_text(format_golden({digest: Golden(model_id, kind, answers) for digest, model_id, kind in models}))
    return path


def test_recording_ids_keeps_the_numbers_of_everything_else(pair: Tool) -> None:
    """Also of versions and models that nothing pins any more; a model that fails keeps its own."""
    pair("sync")
    pins = parse_lock((pair.folder / "models.lock").read_bytes(), "models.lock")
    golden = record(
        pair,
        *((set_digest(pin.files), pin.id, pin.kind) for pin in pins),
        ("1" * 64, RERANKER, Kind.RERANKER),
        ("2" * 64, "gone/model", Kind.EMBEDDING),
    )
    before = golden.read_bytes()
    spoil(pair, EMBEDDING)
    assert pair("check", "--record", EMBEDDING).exit_code == 1
    assert golden.read_bytes() == before


@pytest.mark.slow
def test_check_of_ids_loads_and_records_only_these(pair: Tool) -> None:
    """The numbers of the other model, which is damaged, stay as they were recorded; then the one is proven."""
    pair("sync")
    embedding, reranker = parse_lock((pair.folder / "models.lock").read_bytes(), "models.lock")
    golden = record(
        pair, (set_digest(reranker.files), RERANKER, Kind.RERANKER), ("2" * 64, "gone/model", Kind.EMBEDDING)
    )
    before = json.loads(golden.read_text())["models"]
    spoil(pair, RERANKER, "reranker")
    ran = pair.run("check", EMBEDDING, "--record")
    assert (ran.exit_code, RERANKER in ran.err) == (0, False), ran.err
    after = json.loads(golden.read_text())["models"]
    assert after.keys() == before.keys() | {set_digest(embedding.files)}
    assert {digest: after[digest] for digest in before} == before
    ran = pair.run("check", EMBEDDING)
    assert (ran.exit_code, re.findall(r"^  proven +(\S+)", ran.err, re.MULTILINE)) == (0, [EMBEDDING])


def test_recording_ids_does_not_replace_a_file_that_cannot_be_read(pair: Tool) -> None:
    """It may hold the numbers of the others; without ids all are recorded anew."""
    pair("sync")
    golden = pair.folder / "models.golden.json"
    golden.write_text("<<<<<<< merge")
    spoil(pair, EMBEDDING)
    assert pair("check", "--record", EMBEDDING).exit_code == 2
    assert golden.read_text() == "<<<<<<< merge"
    assert pair("check", "--record", "--dry-run").exit_code == 2


# path ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False], ids=["fetched", "not fetched"])
@pytest.mark.parametrize("name", ["embedding", "Embedding", "TINYORG/embedding", "models--tinyorg--embedding"])
def test_path_of_another_spelling_names_the_id_that_is_meant(pair: Tool, name: str, there: bool) -> None:
    """Of the manifest or of the root; nothing that only the Hub may have is suggested."""
    if there:
        pair("sync")
        (pair.folder / "models.toml").write_text("")
    ran = pair("path", name)
    assert (ran.exit_code, ran.out) == (2, "")
    assert f'"{EMBEDDING}" is meant' in ran.err
    assert "sentence-transformers/" not in ran.err


def test_path_of_a_misspelt_id_names_the_nearest(pair: Tool) -> None:
    """Whole ids too, which could be anything."""
    ran = pair("path", "tinyorg/rerankr")
    assert (ran.exit_code, f"did you mean '{RERANKER}'?" in ran.err) == (2, True)


def test_path_of_a_model_that_is_not_fetched_says_sync(pair: Tool) -> None:
    """The id is right, so none is suggested."""
    ran = pair("path", EMBEDDING)
    assert (ran.exit_code, "cache-models sync" in ran.err, "mean" in ran.err) == (2, True, False)


def test_path_does_not_suggest_the_id_that_was_asked_for(pair: Tool) -> None:
    """Though another directory holds a copy of that model."""
    pair("sync")
    pair.want(EMBEDDING)
    pair("sync", "--lockfile=one.lock")
    pair("prune", "--lockfile=one.lock")
    pair.home(EMBEDDING).rename(pair.home("old/copy"))
    (pair.folder / "models.toml").unlink()
    ran = pair("path", EMBEDDING)
    assert (ran.exit_code, "mean" in ran.err) == (2, False)


def test_path_needs_no_manifest(pair: Tool) -> None:
    """A broken one, or one that names nothing like it, ends nothing; a bare name nobody knows gets the Hub's own."""
    pair("sync")
    (pair.folder / "models.toml").write_text("[[embeddin")
    assert pair("path", EMBEDDING).out == f"{pair.home(EMBEDDING)}\n"
    ran = pair("path", "bert-base-uncased")
    assert (ran.exit_code, "google-bert/bert-base-uncased" in ran.err) == (2, True)
