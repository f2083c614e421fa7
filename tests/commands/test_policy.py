"""`[policy]` of models.toml: every command that pins, fetches or ships refuses what it forbids, and does nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import cache_models
from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import WantedModel
from modelcache.pipeline.add import write_additions
from modelcache.pipeline.pins import Project, read_lock
from tests.conftest import EMBEDDING, RERANKER, Ran, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.registry import StandInRegistry

PICKLED, CODED, BARE, CLOSED = "tinyorg/pickled", "tinyorg/coded", "tinyorg/bare", "tinyorg/closed"
CODE = b"import torch\n\n\nclass X:\n    pass\n"
LICENCES = '\n[policy]\nlicences = ["mit"]\n'
"""The reranker of the pair has another one."""
NO_CODE, NO_PICKLE = "\n[policy]\nremote_code = false\n", "\n[policy]\npickle = false\n"
STRICT = f"{LICENCES}remote_code = false\npickle = false\n"
LOOSE = '\n[policy]\nlicences = ["MIT", "Apache-2.0"]\nremote_code = true\npickle = true\n'
KEYS = {PICKLED: "allow_pickle = true", CODED: "trust_remote_code = true"}
REFUSAL = r"^error: \[policy\] refuses (\d+) models?:$"


@pytest.fixture
def several(pair: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """The tool with a Hub that also has a model with code, one of pickles, and two whose licences are no good."""
    files = files_below(tiny.tiny_embedding(tmp_path / "coded"))
    config = {**json.loads(files["config.json"]), "auto_map": {"AutoModel": "modeling_x.X"}}
    hub.add(CODED, {**files, "config.json": json.dumps(config).encode(), "modeling_x.py": CODE}, licence="mit")
    folder = tiny.tiny_embedding(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    tiny.write_pickle(folder / "pytorch_model.bin", 100_000)
    hub.add(PICKLED, folder, licence="mit")
    card = tiny.tiny_embedding(tmp_path / "bare") / "README.md"
    card.write_text(card.read_text().replace("license: mit\n", ""))
    hub.add(BARE, tmp_path / "bare")
    hub.add(CLOSED, tmp_path / "bare", licence="cc-by-nc-4.0")
    return pair


def want(tool: Tool, *models: str, policy: str = "", keys: Mapping[str, str] = KEYS, rerankers: bool = False) -> None:
    """Write models.toml, with the permissions that the models need and a policy at its end."""
    tables = [f'[[embedding]]\nid = "{model}"\n{keys.get(model, "")}\n' for model in models]
    tool.want(rerankers=(RERANKER,) if rerankers else (), extra="\n".join(["", *tables]) + policy)


def refused(ran: Ran, *reasons: str) -> None:
    """It was refused with these reasons and no other, in one error with a hint."""
    assert ran.exit_code == 5, ran.err
    assert len(re.findall("^error: ", ran.err, re.MULTILINE)) == 1
    heading = re.search(REFUSAL, ran.err, re.MULTILINE)
    assert heading
    rows = ran.err[heading.end() :].partition("\nhint: ")[0].strip("\n").split("\n  ")
    assert int(heading[1]) == len(reasons)
    for row, reason in zip(rows, reasons, strict=True):
        assert reason in row
    assert re.search("^hint: [A-Z].*[policy]", ran.err, re.MULTILINE)


def tighten(tool: Tool, policy: str) -> None:
    """Add a policy to models.toml."""
    with (tool.folder / "models.toml").open("a") as manifest:
        manifest.write(policy)


def below(folder: Path) -> dict[str, bytes]:
    """Every file, but for the notes of what was looked at."""
    return {path: content for path, content in files_below(folder).items() if "stamp" not in path}


# Pinned before


@pytest.mark.parametrize(
    "words",
    [
        "lock",
        "lock --dry-run",
        "lock --check",
        "lock --locked",
        "lock --upgrade tinyorg/embedding --dry-run",
        "sync",
        "sync --locked",
        "sync --dry-run",
        "sync --no-stamp",
        "sync tinyorg/reranker",
        "sync --root elsewhere",
        "sync --locked --root elsewhere",
        "add tinyorg/reranker",
        "export models.tar",
    ],
)
def test_a_pin_that_is_against_a_new_rule_is_refused(pair: Tool, hub: StandInHub, words: str) -> None:
    """Whatever the command, with no file changed; the Hub is asked only about a model that is to move."""
    assert pair("sync").exit_code == 0
    tighten(pair, LICENCES)
    before = below(pair.folder)
    hub.forget()
    refused(pair(*words.split()), f"{RERANKER}: the licence apache-2.0 is not among mit")
    assert below(pair.folder) == before
    assert hub.requests == [] or "--upgrade" in words


@pytest.mark.parametrize(
    "words", ["verify", "status", f"path {RERANKER}", "prune", pytest.param("check", marks=pytest.mark.slow)]
)
def test_other_commands_look_at_a_root_under_any_policy(pair: Tool, words: str) -> None:
    """They ship nothing; without `prune` a forbidden model could not be removed."""
    assert pair("sync").exit_code == 0
    tighten(pair, STRICT)
    assert pair(*words.split()).exit_code == 0


def test_a_key_that_the_policy_forbids_is_no_way_out(several: Tool) -> None:
    """The refusal of a model names the key that would permit it, and the rule that no model may have it."""
    want(several, CODED, PICKLED, policy=f"{NO_CODE}pickle = false\n", keys={})
    ran = several("lock")
    assert ran.exit_code == 5
    assert "[policy] has remote_code = false, so no key permits that here." in ran.err
    assert "[policy] has pickle = false, so no key permits that here." in ran.err
    want(several, CODED, policy=NO_PICKLE, keys={})
    assert "no key permits" not in several("lock").err


def test_code_that_was_pinned_before_is_not_run(several: Tool) -> None:
    """`check` would load the model; a licence is nothing to it."""
    want(several, CODED, rerankers=True)
    assert several("sync").exit_code == 0
    tighten(several, f"{LICENCES}remote_code = false\n")
    refused(several("check"), f"{CODED}: it has code (modeling_x.py), but remote_code is false")


def test_outdated_says_that_the_newest_commit_is_against_a_rule(pair: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """As `lock --upgrade` would; a pin that is current is not judged."""
    assert pair("lock").exit_code == 0
    tighten(pair, LICENCES)
    hub.add(EMBEDDING, {**files_below(tiny.tiny_embedding(tmp_path / "new")), "more.txt": b""}, licence="gpl-3.0")
    reason = f"{EMBEDDING}: the licence gpl-3.0 is not among mit"
    refused(pair("lock", "--upgrade", EMBEDDING), f"{RERANKER}: the licence apache-2.0 is not among mit", reason)
    done = pair("outdated", "--json")
    assert done.exit_code == 0
    found = {one["id"]: (one["state"], one["reason"]) for one in json.loads(done.out)}
    refusal = f"[policy] refuses 1 model: {reason}"
    assert found == {EMBEDDING: ("refused", refusal), RERANKER: ("current", "")}


def test_a_rule_that_nothing_breaks_changes_nothing(several: Tool, hub: StandInHub) -> None:
    """The case of a licence does not count, and `true` is no rule."""
    want(several, EMBEDDING, PICKLED, CODED, policy=LOOSE, rerankers=True)
    assert several("lock").exit_code == 0
    lock = (several.folder / "models.lock").read_bytes()
    want(several, EMBEDDING, PICKLED, CODED, rerankers=True)
    assert several("lock").exit_code == 0
    assert (several.folder / "models.lock").read_bytes() == lock
    want(several, EMBEDDING, PICKLED, CODED, policy=LOOSE, rerankers=True)
    assert several("sync", "--locked").exit_code == 0
    hub.forget()
    assert several("lock", "--check").exit_code == 0
    assert hub.requests == []


def test_a_start_is_not_quiet_after_the_policy_was_tightened(pair: Tool, hub: StandInHub) -> None:
    """The stamp is that of another manifest; with the old one it is quiet again."""
    assert pair.run("sync").exit_code == 0
    quiet = pair.run("sync")
    assert quiet.err.endswith("unchanged.\n")
    manifest = (pair.folder / "models.toml").read_text()
    tighten(pair, LICENCES)
    hub.forget()
    refused(pair.run("sync"), RERANKER)
    refused(pair.run("sync", "--locked"), RERANKER)
    (pair.folder / "models.toml").write_text(manifest)
    assert pair.run("sync").err == quiet.err
    assert hub.requests == []


def test_a_stale_lock_and_what_it_pins_are_reported_together(pair: Tool, hub: StandInHub) -> None:
    """The exit code is that of the lock: it has to be written anew in any case."""
    assert pair("lock").exit_code == 0
    hub.forget()
    pair.want(rerankers=(RERANKER,), extra=LICENCES)
    for words in (["lock", "--check"], ["sync", "--locked"]):
        ran = pair(*words)
        assert ran.exit_code == 2
        assert f"{EMBEDDING} (embedding) is pinned and no longer wanted" in ran.err
        assert f"{RERANKER}: the licence apache-2.0 is not among mit" in ran.err
    assert hub.requests == []


def test_a_model_that_is_not_asked_for_is_not_judged(pair: Tool) -> None:
    """With ids, the others may wait for a decision."""
    assert pair("lock").exit_code == 0
    tighten(pair, LICENCES)
    assert pair("sync", EMBEDDING).exit_code == 0
    assert pair.home(EMBEDDING).is_dir()
    assert not pair.home(RERANKER, "reranker").exists()


# Pinned anew


@pytest.mark.parametrize("words", ["lock", "lock --dry-run", "sync", "sync --dry-run"])
def test_a_licence_is_judged_before_a_lock_is_written_or_weights_are_fetched(
    several: Tool, hub: StandInHub, tmp_path: Path, words: str
) -> None:
    """All models have to be pinned to know their licences: of the weights only headers are read."""
    want(several, EMBEDDING, BARE, CLOSED, policy=LICENCES, rerankers=True)
    weights = (tmp_path / "bare" / "model.safetensors").stat().st_size
    ran = several(*words.split())
    reasons = ["apache-2.0 is not among mit", f"{BARE}: no licence is named", f"{CLOSED}: the licence cc-by-nc-4.0"]
    refused(ran, *reasons)
    assert "cache-models report" in ran.err
    assert not (several.folder / "models.lock").exists()
    assert not any("model.safetensors" in path for path in files_below(several.folder))
    assert 0 < max(request.sent for request in hub.requests if request.file == "model.safetensors") < weights / 2


@pytest.mark.parametrize("words", ["lock", "sync"])
def test_no_file_of_a_model_is_asked_for_whose_licence_is_not_allowed(
    several: Tool, hub: StandInHub, tmp_path: Path, words: str
) -> None:
    """A pickle would be fetched whole, to know what is made from it."""
    hub.add(PICKLED, tmp_path / "pickled", licence="cc-by-nc-4.0")
    want(several, PICKLED, policy=LICENCES)
    refused(several(words), f"{PICKLED}: the licence cc-by-nc-4.0")
    assert {request.file for request in hub.requests} == {None}


@pytest.mark.parametrize("words", ["lock", "lock --dry-run", "sync"])
def test_a_permission_that_no_model_may_have_is_refused_without_a_request(
    several: Tool, hub: StandInHub, words: str
) -> None:
    """It is the table that is wrong, in a line that is named; a pickle would be fetched to be pinned."""
    want(several, PICKLED, CODED, policy=STRICT)
    lines = (several.folder / "models.toml").read_text().splitlines()
    refused(
        several(*words.split()),
        f"{PICKLED}: its table in line {lines.index('[[embedding]]') + 1} has allow_pickle = true",
        f"{CODED}: its table in line {len(lines) - lines[::-1].index('[[embedding]]')} has trust_remote_code = true",
    )
    assert hub.requests == []
    assert set(files_below(several.folder)) == {"models.toml"}


def test_every_reason_of_every_model_stands_in_one_message(several: Tool, hub: StandInHub) -> None:
    """Kept and new pins, tables and licences, and a model that the Hub does not have."""
    want(several, EMBEDDING, rerankers=True)
    assert several("lock").exit_code == 0
    hub.forget()
    want(several, EMBEDDING, BARE, PICKLED, CODED, CLOSED, policy=STRICT, rerankers=True)
    refused(several("lock"), RERANKER, BARE, PICKLED, CODED, CLOSED)
    asked = {request.repo for request in hub.requests}
    assert asked == {BARE, CLOSED}
    want(several, EMBEDDING, BARE, PICKLED, "tinyorg/gone", policy=STRICT, rerankers=True)
    ran = several("lock")
    assert ran.exit_code == 5
    assert "[policy] refuses 3 models" in ran.err
    assert re.search("^error: .*tinyorg/gone", ran.err, re.MULTILINE)
    assert {pin.id for pin in read_lock(several.folder / "models.lock") or ()} == {EMBEDDING, RERANKER}


def test_a_model_without_its_code_is_allowed(several: Tool) -> None:
    """The hint of a refusal says so."""
    want(several, CODED, policy=NO_CODE)
    ran = several("lock")
    refused(ran, "remote_code is false")
    assert "trust_remote_code = false" in ran.err
    want(several, CODED, policy=NO_CODE, keys={CODED: "trust_remote_code = false"})
    assert several("sync").exit_code == 0
    assert not list(several.home(CODED).rglob("*.py"))


# From elsewhere


@pytest.mark.parametrize("locked", [True, False], ids=["with a lock", "by receipts"])
def test_a_receipt_pins_nothing_that_the_policy_forbids(pair: Tool, hub: StandInHub, *, locked: bool) -> None:
    """Of this root and of another one: nothing is copied, nothing is asked for."""
    assert pair("sync", "--root", "baked").exit_code == 0
    assert pair("sync", "--root", "here").exit_code == 0
    if not locked:
        (pair.folder / "models.lock").unlink()
    tighten(pair, LICENCES)
    hub.forget()
    for words in (["--root", "here"], ["--from", "baked", "--root", "new"], ["--from", "baked", "--dry-run"]):
        refused(pair("sync", *words), f"{RERANKER}: the licence apache-2.0 is not among mit")
    assert hub.requests == []
    assert not (pair.folder / "new").exists()
    assert (pair.folder / "models.lock").exists() is locked


def test_a_receipt_of_an_image_is_judged(pair: Tool, hub: StandInHub) -> None:
    """As that of another root."""
    assert pair("sync").exit_code == 0
    assert pair("export", "models.tar").exit_code == 0
    (pair.folder / "models.lock").unlink()
    tighten(pair, LICENCES)
    hub.forget()
    refused(pair("sync", "--from", "oci-archive:models.tar", "--root", "new"), RERANKER)
    assert hub.requests == []
    assert not (pair.folder / "new").exists()


# Added


@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["", "dry run"])
def test_add_writes_neither_file_for_a_model_that_the_policy_forbids(several: Tool, words: list[str]) -> None:
    """Nor for one that is allowed and was named with it."""
    want(several, EMBEDDING, policy=LICENCES)
    assert several("lock").exit_code == 0
    before = files_below(several.folder)
    refused(several("add", RERANKER, BARE, CLOSED, *words), RERANKER, BARE, CLOSED)
    assert files_below(several.folder) == before


def test_add_refuses_an_option_that_permits_what_no_model_may_have(several: Tool, hub: StandInHub) -> None:
    """Before anything is asked."""
    want(several, EMBEDDING, policy=STRICT)
    ran = several("add", PICKLED, "--allow-pickle", "--trust-remote-code", "true")
    assert ran.exit_code == 5
    assert "--trust-remote-code true: remote_code is false, --allow-pickle: pickle is false" in ran.err
    assert hub.requests == []
    assert set(files_below(several.folder)) == {"models.toml"}
    assert several("add", CODED, "--trust-remote-code", "false").exit_code == 0


def test_add_keeps_the_policy_at_the_end_of_the_file(several: Tool) -> None:
    """The table of the new model follows it, and it holds for that model, too."""
    want(several, EMBEDDING, policy=LICENCES)
    before = (several.folder / "models.toml").read_text()
    hint = several("add", CODED, "--trust-remote-code", "true")
    assert hint.exit_code == 0, hint.err
    after = (several.folder / "models.toml").read_text()
    assert after == f'{before}\n[[embedding]]\nid = "{CODED}"\ntrust_remote_code = true\n'
    refused(several("add", CLOSED), "cc-by-nc-4.0 is not among mit")
    assert several("sync").exit_code == 0  # it pins the first model


def test_a_policy_that_was_written_while_the_hub_was_asked_is_obeyed(several: Tool) -> None:
    """Both files are read anew before they are written."""
    want(several, EMBEDDING, CLOSED)
    assert several("lock").exit_code == 0
    pins = [pin for pin in read_lock(several.folder / "models.lock") or () if pin.id == CLOSED]
    want(several, EMBEDDING, policy=LICENCES)
    before = files_below(several.folder)
    project = Project(several.folder / "models.toml", several.folder / "models.lock", several.folder)
    with pytest.raises(PolicyError, match="cc-by-nc"):
        write_additions(project, [WantedModel(Kind.EMBEDDING, CLOSED)], pins)
    assert files_below(several.folder) == before


# From Python


def test_the_functions_refuse_what_the_policy_forbids(several: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """With the lock and without one, and nothing is written; the permission of the caller is none of the manifest."""
    want(several, EMBEDDING, PICKLED, policy=STRICT)
    with pytest.raises(PolicyError, match=r"its table in line \d+ has allow_pickle = true"):
        cache_models.cache_sentence_transformers([PICKLED], tmp_path / "e")
    assert hub.requests == []
    for kind, model, reason in (
        ("sentence_transformers", CODED, r"it has code \(modeling_x\.py\)"),
        ("sentence_transformers", BARE, "no licence is named"),
        ("cross_encoders", RERANKER, "the licence apache-2.0"),
    ):
        with pytest.raises(PolicyError, match=reason) as caught:
            getattr(cache_models, f"cache_{kind}")([model], tmp_path / "e")
        assert caught.value.exit_code == 5
    assert not list((tmp_path / "e").glob("[!.]*"))
    cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "e")
    assert [path.name for path in (tmp_path / "e").glob("[!.]*")] == ["tinyorg__embedding"]


def test_the_functions_judge_the_pins_of_the_lock(several: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """A lock gives the permissions that its pins need, not those that the policy takes back."""
    want(several, EMBEDDING, PICKLED, CODED)
    assert several("lock").exit_code == 0
    hub.forget()
    for policy, model, reason in (
        (NO_PICKLE, PICKLED, r"a pickle \(pytorch_model\.bin\)"),
        (NO_CODE, CODED, r"code \(modeling_x\.py\)"),
    ):
        want(several, EMBEDDING, policy=policy)
        with pytest.raises(PolicyError, match=reason):
            cache_models.cache_sentence_transformers([EMBEDDING, model], tmp_path / "e")
    assert hub.requests == []
    assert not list((tmp_path / "e").glob("[!.]*"))
    cache_models.cache_sentence_transformers([EMBEDDING], tmp_path / "e")


# Shipped


def test_push_refuses_what_the_policy_forbids(pair: Tool, registry: StandInRegistry) -> None:
    """Before the registry is asked."""
    assert pair("sync").exit_code == 0
    tighten(pair, LICENCES)
    refused(pair("push", f"{registry.address}/team/models:1"), RERANKER)
    assert registry.requests == []
    assert pair("push", f"{registry.address}/team/models:1", "--only", EMBEDDING).exit_code == 0


def test_code_that_no_configuration_names_is_code(hub: StandInHub, tool: Tool) -> None:
    """A repository that is never loaded here has it for its own engine."""
    hub.add(CODED, {"config.json": b"{}", "run.py": CODE}, licence="mit")
    tool.want(extra=f'[[other]]\nid = "{CODED}"\ntrust_remote_code = true\n')
    assert tool("sync").exit_code == 0
    tighten(tool, NO_CODE)
    refused(tool("export", "models.tar"), f"{CODED}: it has code (run.py)")
    assert not (tool.folder / "models.tar").exists()


def test_a_lock_without_a_manifest_has_no_policy(pair: Tool) -> None:
    """In an image the lock may stand alone; there it is shipped as it is."""
    assert pair("sync").exit_code == 0
    (pair.folder / "models.toml").unlink()
    assert pair("export", "models.tar").exit_code == 0
