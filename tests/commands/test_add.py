"""`add`: models.toml and models.lock after it, what it says, and that nothing is written where one model fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.types import LockedModel, WantedModel
from modelcache.formats.lockfile import parse_lock
from modelcache.formats.manifest import parse_manifest
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Ran, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.hub.wire import Delivery

PICKLED, CODED, BARE, MASKED, UNNAMED, CODELESS = (
    f"tinyorg/{name}" for name in ("pickled", "coded", "bare", "masked", "unnamed", "codeless")
)
SPARSE, SPLADE, COLBERT, NAMELESS = (f"tinyorg/{name}" for name in ("sparse", "splade", "colbert", "nameless"))
SAVED = "config_sentence_transformers.json"


@pytest.fixture
def several(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool in an empty directory, and a Hub with a model of every way to be added."""
    files = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add(EMBEDDING, files, licence="mit")
    hub.add(RERANKER, files_below(tiny.tiny_reranker(tmp_path / "reranker")))
    pickle = tiny.write_pickle(tmp_path / "weights", 100_000).read_bytes()
    weights = {path: content for path, content in files.items() if path != "model.safetensors"}
    hub.add(PICKLED, {**weights, "pytorch_model.bin": pickle})
    coded = config(files, auto_map={"AutoModel": "modeling_x.X"})
    hub.add(CODED, {**coded, "modeling_x.py": b"import torch\n\n\nclass X:\n    pass\n"})
    hub.add(CODELESS, coded)
    bare = {path: content for path, content in files.items() if "/" not in path and path not in ("modules.json", SAVED)}
    hub.add(BARE, bare)
    hub.add(MASKED, config(bare, architectures=["BertForMaskedLM"]))
    hub.add(UNNAMED, config(bare, architectures=None))
    hub.add(SPARSE, {**files, SAVED: b'{"model_type": "SparseEncoder"}'})
    masked = config(bare, architectures=["BertForMaskedLM"])
    hub.add(SPLADE, {**masked, "README.md": b"---\ntags:\n- splade\n---\n"})
    hub.add(COLBERT, {**config(bare, architectures=["HF_ColBERT"]), "artifact.metadata": b"{}"})
    hub.add(NAMELESS, {**bare, "artifact.metadata": b"{}"})
    hub.forget()
    return tool


def config(files: Mapping[str, bytes], **keys: object) -> dict[str, bytes]:
    """Return files with other keys in config.json."""
    return {**files, "config.json": json.dumps({**json.loads(files["config.json"]), **keys}).encode()}


def embedding(folder: Path) -> dict[str, bytes]:
    """Return the files of the embedding model again, for another commit."""
    return files_below(folder / "embedding")


def manifest(tool: Tool, name: str = "models.toml") -> str:
    """Return models.toml, with every line end as it is."""
    return (tool.folder / name).read_bytes().decode()


def wanted(tool: Tool) -> dict[str, WantedModel]:
    """Return the models of models.toml."""
    return {model.id: model for model in parse_manifest((tool.folder / "models.toml").read_bytes(), Path("m"))}


def pins(tool: Tool) -> dict[str, LockedModel]:
    """Return the models of models.lock."""
    return {model.id: model for model in parse_lock((tool.folder / "models.lock").read_bytes(), "models.lock")}


def state(tool: Tool) -> dict[str, bytes]:
    """Return every file of the directory."""
    return files_below(tool.folder)


def events(ran: Ran) -> list[dict[str, Any]]:
    """Return the events of a run with --log-format json."""
    return [json.loads(line) for line in ran.err.splitlines()]


# from nothing ----------------------------------------------------------------------------------------------------


def test_from_an_empty_directory_two_commands_cache_a_model(several: Tool, hub: StandInHub) -> None:
    """The kind is read from the repository, and what `add` pinned is what `sync` fetches."""
    ran = several("add", EMBEDDING, RERANKER)
    assert ran.exit_code == 0, ran.err
    assert manifest(several) == f'[[embedding]]\nid = "{EMBEDDING}"\n\n[[reranker]]\nid = "{RERANKER}"\n'
    assert list(pins(several)) == [EMBEDDING, RERANKER]
    assert set(state(several)) == {"models.toml", "models.lock"}
    assert ran.out == ""
    rows = ran.err.splitlines()
    assert re.fullmatch(rf"  add      {EMBEDDING} +123 of 123 kB  \[\[embedding\]\]", rows[0])
    assert re.fullmatch(rf"  add      {RERANKER} +123 of 123 kB  \[\[reranker\]\]", rows[1])
    assert rows[2] == "models.toml has 2 new models, pinned in models.lock; `cache-models` will fetch 245 kB."
    lock = (several.folder / "models.lock").read_bytes()
    assert several().exit_code == 0
    assert several("sync", "--locked").exit_code == 0
    assert (several.folder / "models.lock").read_bytes() == lock
    assert several.home(RERANKER, "reranker").is_dir()


def test_the_lock_is_the_one_that_lock_writes(several: Tool, hub: StandInHub) -> None:
    """Whichever command pins, the bytes are the same; the kind costs no request."""
    several("add", RERANKER, EMBEDDING)
    asked, added = len(hub.requests), (several.folder / "models.lock").read_bytes()
    (several.folder / "models.lock").unlink()
    hub.forget()
    assert several("lock").exit_code == 0
    assert ((several.folder / "models.lock").read_bytes(), len(hub.requests)) == (added, asked)


def test_what_was_fetched_in_a_root_is_kept_for_sync(several: Tool, hub: StandInHub) -> None:
    """As by `lock`, below the collection of the kind that was found; every small file is asked for once."""
    several.use_root()
    several("add", RERANKER)
    assert list((several.folder / "cached_reranker_models/.cache-models").glob("tinyorg__reranker~*"))
    assert not list((several.folder / "cached_embedding_models").iterdir())
    several("sync")
    files = [request.file for request in hub.requests if request.file and request.file != "model.safetensors"]
    assert sorted(files) == sorted(set(files))


@pytest.mark.parametrize("text", ["https://huggingface.co/tinyorg/embedding/tree/v1", f"{EMBEDDING}@v1"])
def test_a_revision_is_written_and_pinned(several: Tool, hub: StandInHub, tmp_path: Path, text: str) -> None:
    """That of a pasted page address, too."""
    hub.add(EMBEDDING, {**embedding(tmp_path), "note.txt": b"v1"}, branch="v1")
    assert several("add", text).exit_code == 0
    assert manifest(several) == f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1"\n'
    assert pins(several)[EMBEDDING].revision == "v1"
    assert several("sync", "--locked").exit_code == 0


def test_the_address_of_a_mirror_is_read_whatever_its_path(several: Tool, hub: StandInHub) -> None:
    """HF_ENDPOINT says where the path of a repository begins."""
    assert several("add", f"{hub.url}/{EMBEDDING}").exit_code == 0
    assert list(pins(several)) == [EMBEDDING]


def test_a_name_whose_owner_is_known_is_taken_and_told(several: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """The Hub has moved it there; any other bare name is refused with what may be meant."""
    hub.add("google-bert/bert-base-uncased", embedding(tmp_path))
    ran = several("add", "bert-base-uncased")
    assert ran.exit_code == 0, ran.err
    assert "google-bert/bert-base-uncased is meant by bert-base-uncased" in ran.err
    assert list(wanted(several)) == ["google-bert/bert-base-uncased"]
    before = state(several)
    ran = several("add", "all-MiniLM-L6-v2")
    assert (ran.exit_code, state(several)) == (2, before)
    assert '"sentence-transformers/all-MiniLM-L6-v2" or "cross-encoder/all-MiniLM-L6-v2" is probably meant' in ran.err


def test_several_ids_in_one_argument(several: Tool) -> None:
    """`RUN cache-models add "$MODEL_IDS"`."""
    assert several("add", f" {EMBEDDING}\n {RERANKER} ").exit_code == 0
    assert list(wanted(several)) == [EMBEDDING, RERANKER]


@pytest.mark.parametrize("words", [("",), ("  ",), ()], ids=["empty", "blank", "none"])
def test_no_id(several: Tool, hub: StandInHub, words: tuple[str, ...]) -> None:
    """An empty build argument is exit 2, and the message asks for it."""
    ran = several("add", *words)
    assert (ran.exit_code, hub.requests, state(several)) == (2, [], {})
    assert not words or "is the build argument set?" in ran.err


# what a manifest has ---------------------------------------------------------------------------------------------

MINE = f'# Mine.\r\n\r\n[[reranker]]   # scores\r\nid = "{RERANKER}"\r\n# the end'


def test_all_that_a_manifest_has_stays(several: Tool) -> None:
    """Comments, order, white space, Windows line ends; the new table is at the end."""
    (several.folder / "models.toml").write_bytes(MINE.encode())
    assert several("add", EMBEDDING).exit_code == 0
    assert manifest(several) == f'{MINE}\r\n\r\n[[embedding]]\r\nid = "{EMBEDDING}"\r\n'


def test_an_inline_array_gets_another_entry(several: Tool) -> None:
    """TOML allows no table of that name below it."""
    (several.folder / "models.toml").write_text(f'embedding = [{{id = "{EMBEDDING}"}}] # mine\n')
    assert several("add", PICKLED, RERANKER, "--allow-pickle").exit_code == 0
    first = f'embedding = [{{id = "{EMBEDDING}"}}, {{id = "{PICKLED}", allow_pickle = true}}] # mine\n'
    assert manifest(several) == f'{first}\n[[reranker]]\nid = "{RERANKER}"\n'


def test_pins_stay_byte_for_byte_and_other_models_are_left_for_lock(
    several: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """Also the pin of a model that is listed no more; a model that has no pin gets none, and is named."""
    several("add", EMBEDDING)
    old = (several.folder / "models.lock").read_text()
    hub.add(EMBEDDING, {**embedding(tmp_path), "moved.txt": b"on"})
    several.want(BARE, extra='pooling = "mean"\nnormalize = true\n')
    ran = several("add", RERANKER)
    assert ran.exit_code == 0, ran.err
    assert f"models.lock does not pin {BARE}; `cache-models lock` does" in ran.err
    new = (several.folder / "models.lock").read_text()
    assert new.startswith(old)
    assert list(pins(several)) == [EMBEDDING, RERANKER]
    assert {request.repo for request in hub.requests if request.repo} == {EMBEDDING, RERANKER}
    assert several("sync").exit_code == 0
    assert set(pins(several)) == {BARE, RERANKER}


def test_a_model_that_is_listed_already(several: Tool, hub: StandInHub) -> None:
    """Exit 0 without a request where it is pinned; else it is pinned as it is listed."""
    several.want(EMBEDDING, rerankers=(RERANKER,))
    before = manifest(several)
    ran = several("add", RERANKER)
    assert (ran.exit_code, manifest(several), list(pins(several))) == (0, before, [RERANKER])
    assert re.search(rf"^  lock     {RERANKER} .* already in models.toml, line 4$", ran.err, re.MULTILINE)
    assert "models.lock pins 1 model more;" in ran.err
    hub.close()
    lock = (several.folder / "models.lock").read_bytes()
    for words in ((RERANKER,), (f"{RERANKER}@main",), (RERANKER, "--kind", "reranker"), (RERANKER, "--locked")):
        ran = several("add", *words)
        assert (ran.exit_code, (several.folder / "models.lock").read_bytes()) == (0, lock), ran.err
        assert f"  keep     {RERANKER}  already in models.toml, line 4" in ran.err
        assert "models.toml and models.lock are unchanged" in ran.err


def test_a_model_that_is_listed_otherwise(several: Tool, hub: StandInHub) -> None:
    """Every difference with its line, exit 2, and nothing is asked or written; what is not named is no difference."""
    tables = (
        f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1"\ntrust_remote_code = false\n',
        f'[[reranker]]\nid = "{RERANKER}"\n',
    )
    (several.folder / "models.toml").write_text("\n".join(tables))
    before = state(several)
    ran = several("add", f"{EMBEDDING}@v2", RERANKER, PICKLED, "--kind=embedding", "--trust-remote-code", "true")
    assert (ran.exit_code, state(several), hub.requests) == (2, before, [])
    assert (
        f"models.toml:1: {EMBEDDING} is listed with revision v1 instead of v2,"
        " trust_remote_code false instead of true" in ran.err
    )
    assert f"models.toml:6: {RERANKER} is listed with kind reranker instead of embedding" in ran.err
    ran = several("add", EMBEDDING, "--pooling", "cls", "--normalize", "true")
    assert "pooling unset instead of cls, normalize false instead of true" in ran.err
    ran = several("add", EMBEDDING.upper(), PICKLED)
    assert (ran.exit_code, state(several), hub.requests) == (2, before, [])
    assert f"{EMBEDDING.upper()} would share one directory with {EMBEDDING}" in ran.err


def test_a_model_from_a_directory_is_pinned_as_it_is_listed(several: Tool, tmp_path: Path) -> None:
    """Its id is not shown to the Hub; with a revision it is listed otherwise."""
    (several.folder / "models.toml").write_text('[[embedding]]\nid = "me/house"\npath = "../embedding"\n')
    assert several("add", "me/house").exit_code == 0
    assert pins(several)["me/house"].from_directory
    ran = several("add", "me/house@v1")
    assert (ran.exit_code, "path ../embedding instead of unset" in ran.err) == (2, True)


def test_a_pin_without_a_table_gets_its_table_back(several: Tool, hub: StandInHub) -> None:
    """The pin that fits is kept, and no request is made; one that needs a permission needs it again."""
    several("add", RERANKER, PICKLED, "--allow-pickle")
    (several.folder / "models.toml").unlink()
    lock = (several.folder / "models.lock").read_bytes()
    hub.forget()
    ran = several("add", RERANKER)
    assert (ran.exit_code, hub.requests) == (0, [])
    assert "[[reranker]], as models.lock pins it already" in ran.err
    assert several("add", PICKLED).exit_code == 5
    assert several("add", PICKLED, "--allow-pickle").exit_code == 0
    assert (several.folder / "models.lock").read_bytes() == lock


# the kind --------------------------------------------------------------------------------------------------------


def test_a_kind_that_is_not_certain_is_asked_for(several: Tool) -> None:
    """Exit 2 with the reason and the options of each kind; nothing is written; with them the model is added."""
    ran = several("add", MASKED, UNNAMED)
    assert (ran.exit_code, state(several)) == (2, {})
    assert (
        f"error: {MASKED}: its files do not say whether it is an embedding model or a sparse encoder (config.json names"
        " BertForMaskedLM)\nhint: Read its card, then run this again with --kind embedding --pooling mean"
        " --normalize true, or with --kind sparse." in ran.err
    )
    assert (
        f"error: {UNNAMED}: its files do not say whether it is an embedding model or a cross-encoder"
        " (config.json names no architecture)\nhint: Read its card, then run this again with"
        " --kind embedding --pooling mean --normalize true, or with --kind reranker." in ran.err
    )
    assert several("add", UNNAMED, "--kind", "reranker").exit_code == 0
    assert several("add", MASKED, "--kind=embedding", "--pooling=mean", "--normalize=true").exit_code == 0
    assert {model.id: model.kind for model in wanted(several).values()} == {UNNAMED: "reranker", MASKED: "embedding"}


def test_pooling_says_that_a_model_is_an_embedding_model(several: Tool) -> None:
    """`--kind` need not say it again; a model with a head is refused all the same."""
    assert several("add", UNNAMED, MASKED, "--pooling=cls", "--normalize=false").exit_code == 0
    assert {(model.pooling, model.normalize) for model in wanted(several).values()} == {("cls", False)}
    ran = several("add", RERANKER, "--pooling=cls", "--normalize=false")
    assert (ran.exit_code, "it is a cross-encoder" in ran.err) == (5, True)
    assert "hint: Run this again without --pooling and --normalize." in ran.err


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (RERANKER, "embedding", "it is a cross-encoder (config.json names BertForSequenceClassification)"),
        (EMBEDDING, "reranker", "it is an embedding model (saved as a SentenceTransformer)"),
        (BARE, "reranker", "nothing in it scores pairs"),
    ],
)
def test_a_wrong_kind_is_refused_as_lock_refuses_it(several: Tool, model: str, kind: str, message: str) -> None:
    """The same message, and the hint that it need not be said."""
    several.want(*[model] * (kind == "embedding"), rerankers=(model,) * (kind == "reranker"))
    refusal = several("lock").err.splitlines()[:2]
    (several.folder / "models.toml").unlink()
    ran = several("add", model, "--kind", kind)
    assert (ran.exit_code, state(several)) == (5, {})
    assert ran.err.splitlines()[:2] == refusal
    assert message in ran.err
    assert "hint: Run this again without --kind: it is read from the repository." in ran.err


def test_a_model_that_no_loader_takes_as_it_is_is_refused_with_the_message_of_lock(several: Tool) -> None:
    """No option is named but the one for a model that is never loaded, since none helps."""
    ran = several("add", NAMELESS)
    assert (ran.exit_code, state(several)) == (5, {})
    assert "it is a multi-vector model (it has artifact.metadata), and config.json does not name HF_ColBERT" in ran.err
    assert "--" not in ran.err.replace("`cache-models add --kind other ID`", "")


@pytest.mark.parametrize(("model", "kind"), [(SPARSE, "sparse"), (SPLADE, "sparse"), (COLBERT, "multi_vector")])
def test_each_kind_is_read_from_the_repository(several: Tool, model: str, kind: str) -> None:
    """It is written into the table of its kind, without a question, and locked as that kind."""
    assert several("add", model).exit_code == 0
    assert tomllib.loads(manifest(several)) == {kind: [{"id": model}]}
    assert [(one.id, one.kind) for one in wanted(several).values()] == [(model, kind)]
    assert several("sync", "--locked").exit_code == 0


# what a model needs ----------------------------------------------------------------------------------------------

NEEDS = {
    CODED: ("it asks to run code of its own", "Read its code", "--trust-remote-code true"),
    CODELESS: ("has no modeling_x.py", "Run this again", "--trust-remote-code false"),
    PICKLED: ("its weights are only in pytorch_model.bin", "Run this again", "--allow-pickle"),
    BARE: ("it has no modules.json", "Read its card", "--pooling mean --normalize true"),
}


@pytest.mark.parametrize("model", NEEDS)
def test_a_model_that_needs_a_decision_names_the_option(several: Tool, model: str) -> None:
    """With that option the same command adds it, and the key is in its table; `sync` fetches it."""
    reason, first, options = NEEDS[model]
    ran = several("add", model)
    assert (ran.exit_code, state(several)) == (5, {})
    assert reason in ran.err
    hint = ran.err.splitlines()[-1]
    assert hint.startswith(f"hint: {first}")
    assert f"this again with {options}." in hint
    assert several("add", model, *options.split()).exit_code == 0
    assert several("sync", "--locked").exit_code == 0
    (table,) = tomllib.loads(manifest(several))["embedding"]
    keys = {"--trust-remote-code true": {"trust_remote_code": True}, "--allow-pickle": {"allow_pickle": True}}
    keys |= {"--trust-remote-code false": {"trust_remote_code": False}}
    assert table == {"id": model, **keys.get(options, {"pooling": "mean", "normalize": True})}


def test_a_permission_is_written_only_for_a_model_that_needs_it(several: Tool) -> None:
    """The others stay as strict as they were; the same command again changes nothing."""
    words = ("add", EMBEDDING, PICKLED, CODED, "--trust-remote-code=true", "--allow-pickle")
    assert several(*words).exit_code == 0
    found = wanted(several)
    assert [(one.trust_remote_code, one.allow_pickle) for one in found.values()] == [
        (None, False),
        (None, True),
        (True, False),
    ]
    before = state(several)
    assert (several(*words).exit_code, state(several)) == (0, before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pooling", "mean"), "--pooling needs --normalize beside it"),
        (("--normalize", "true"), "--normalize needs --pooling beside it"),
        (("--pooling=mean", "--normalize=true", "--kind=reranker"), "a cross-encoder has no pooling"),
        (("--pooling", "avg"), "'avg'"),
        (("--kind", "static"), "'static'"),
        (("--revision", "v1"), "write owner/name@REVISION"),
    ],
)
def test_options_that_do_not_go_together(several: Tool, hub: StandInHub, words: tuple[str, ...], message: str) -> None:
    """Exit 2 before anything is asked."""
    ran = several("add", EMBEDDING, *words)
    assert (ran.exit_code, message in ran.err, hub.requests, state(several)) == (2, True, [], {})


# all or nothing --------------------------------------------------------------------------------------------------


def test_where_one_model_fails_nothing_is_written(several: Tool, hub: StandInHub) -> None:
    """All problems together: not there, gated, refused, not certain; the lowest exit code of design counts."""
    several.want(RERANKER)
    (several.folder / "models.toml").write_text(MINE)
    several("lock")
    hub.add("tinyorg/gated", {}, gated=True)
    before = state(several)
    ran = several("add", EMBEDDING, "no/such", "tinyorg/gated", CODED, UNNAMED)
    assert (ran.exit_code, state(several)) == (2, before)
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert [model for model in ("no/such", "tinyorg/gated", CODED, UNNAMED) for line in errors if model in line] == [
        "no/such",
        "tinyorg/gated",
        CODED,
        UNNAMED,
    ]
    assert EMBEDDING not in ran.err


def test_without_network_it_is_told_once(several: Tool, hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3, and nothing is written."""
    hub.close()
    ran = several("add", EMBEDDING, RERANKER)
    assert (ran.exit_code, state(several), ran.err.count("error: ")) == (3, {}, 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = several.run("add", EMBEDDING, RERANKER)
    assert (ran.exit_code, state(several)) == (3, {})
    assert "HF_HUB_OFFLINE is set" in ran.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[embeddin", "models.toml is not TOML"),
        (b"\xff\xfe#\x00", "UTF-16"),
        (b"# caf\xe9\n", "line 1 has a byte that is not UTF-8"),
        (b'[[embedding]]\nid = "x"\n', "models.toml:2:"),
    ],
)
def test_a_manifest_that_is_wrong_is_left_as_it_is(
    several: Tool, hub: StandInHub, content: bytes, message: str
) -> None:
    """Exit 2 before anything is asked."""
    (several.folder / "models.toml").write_bytes(content)
    ran = several("add", EMBEDDING)
    assert (ran.exit_code, message in ran.err, hub.requests) == (2, True, [])
    assert state(several) == {"models.toml": content}


def test_a_wrong_lock_is_left_as_it_is(several: Tool, hub: StandInHub) -> None:
    """As everywhere: exit 2, and version control has it."""
    (several.folder / "models.lock").write_text("<<<<<<< merge")
    ran = several("add", EMBEDDING)
    assert (ran.exit_code, hub.requests, set(state(several))) == (2, [], {"models.lock"})


def test_a_dry_run_shows_the_tables_and_writes_nothing(several: Tool) -> None:
    """What would stand in models.toml can be copied from it."""
    ran = several("add", EMBEDDING, PICKLED, "--allow-pickle", "--dry-run")
    assert (ran.exit_code, state(several)) == (0, {})
    shown = ran.err.partition("[[embedding]]\nid")
    tables = (shown[1] + shown[2]).rpartition("\n\n")[0]
    assert tomllib.loads(tables) == {"embedding": [{"id": EMBEDDING}, {"id": PICKLED, "allow_pickle": True}]}
    assert "models.toml would have 2 new models, pinned in models.lock; " in ran.err.splitlines()[-1]
    ran = several("add", EMBEDDING, "--dry-run", "--log-format=json")
    assert [event["event"] for event in events(ran)] == ["add", "table", "ready"]
    assert tomllib.loads(events(ran)[1]["text"]) == {"embedding": [{"id": EMBEDDING}]}


def test_programs_get_events(several: Tool) -> None:
    """Each model with its kind, commit and bytes; the last one counts."""
    several.want(BARE, extra='pooling = "mean"\nnormalize = true\n')
    found = events(several("add", EMBEDDING, "--log-format", "json"))
    pin = pins(several)[EMBEDDING]
    assert [event["event"] for event in found] == ["add", "unpinned", "ready"]
    assert {**found[0], "text": ""} == {
        "event": "add",
        "model": EMBEDDING,
        "kind": "embedding",
        "commit": pin.commit,
        "bytes": pin.size,
        "repository_bytes": found[0]["repository_bytes"],
        "text": "",
    }
    assert found[1]["models"] == [BARE]
    last = {key: found[2][key] for key in ("models", "added", "pinned", "to_fetch")}
    assert last == {"models": 1, "added": 1, "pinned": 1, "to_fetch": pin.size}
    assert several("add", RERANKER, "--quiet").err == ""


def test_locked_adds_nothing(several: Tool, hub: StandInHub) -> None:
    """An image that is built with CACHE_MODELS_LOCKED says so instead of pinning."""
    ran = several("add", EMBEDDING, "--locked")
    assert (ran.exit_code, hub.requests, state(several)) == (2, [], {})
    assert "CACHE_MODELS_LOCKED" in ran.err


# the two files ---------------------------------------------------------------------------------------------------


def test_a_manifest_behind_a_link_is_written_where_it_is(several: Tool, tmp_path: Path) -> None:
    """The link stays one."""
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "m.toml"
    target.write_text("# mine\n")
    (several.folder / "models.toml").symlink_to(target)
    assert several("add", EMBEDDING).exit_code == 0
    assert (several.folder / "models.toml").is_symlink()
    assert target.read_text() == f'# mine\n\n[[embedding]]\nid = "{EMBEDDING}"\n'


def test_a_manifest_that_is_named(several: Tool) -> None:
    """Its lock is beside it; a variable names it, too."""
    (several.folder / "conf").mkdir()
    assert several("add", EMBEDDING, "--manifest", "conf/m.toml").exit_code == 0
    assert set(state(several)) == {"conf/m.toml", "conf/m.lock"}
    ran = several.run("add", RERANKER, env={"CACHE_MODELS_MANIFEST": "conf/m.toml"})
    assert ran.exit_code == 0, ran.err
    assert "CACHE_MODELS_MANIFEST names it" in ran.err
    assert manifest(several, "conf/m.toml").count("[[") == 2


def test_a_volume_that_is_read_only(several: Tool, small_volume: Path) -> None:
    """Exit 4 with the option that names another place, and nothing is written."""
    subprocess.run(["mount", "-o", "remount,ro", small_volume], check=True)
    ran = several("add", EMBEDDING, "--manifest", str(small_volume / "models.toml"))
    assert (ran.exit_code, list(small_volume.iterdir())) == (4, [])
    assert re.search("cannot write .*models.lock: Read-only file system", ran.err)
    assert "choose another --manifest" in ran.err


@pytest.mark.parametrize("locked", [True, False], ids=["a lock", "no lock"])
def test_where_the_manifest_cannot_be_written_the_lock_is_as_it_was(several: Tool, locked: bool) -> None:
    """Both or neither."""
    if locked:
        several("add", RERANKER)
    before = state(several)
    ran = several("add", EMBEDDING, "--manifest", "gone/m.toml", "--lockfile", "models.lock")
    assert (ran.exit_code, state(several)) == (4, before)
    assert re.search("cannot write .*gone/m.toml", ran.err)
    assert "--manifest" in ran.err


@dataclass
class Meanwhile:
    """Let something happen while the Hub is asked; its answer is true."""

    happens: Callable[[], object]

    def bend(self, delivery: Delivery) -> Delivery:
        """Do it."""
        self.happens()
        return delivery


def test_a_manifest_that_is_edited_meanwhile_loses_nothing(several: Tool, hub: StandInHub) -> None:
    """Both files are read again before they are written."""
    path = several.folder / "models.toml"
    path.write_text("# mine\n")
    hub.fail(Meanwhile(lambda: path.write_text(f'# ours\n[[reranker]]\nid = "{RERANKER}"\n')), on="/tree/")
    assert several("add", EMBEDDING).exit_code == 0
    assert manifest(several) == f'# ours\n[[reranker]]\nid = "{RERANKER}"\n\n[[embedding]]\nid = "{EMBEDDING}"\n'


@pytest.mark.parametrize(
    ("edited", "exit_code", "message"),
    [
        (f'[[embedding]]\nid = "{EMBEDDING}"\n', 0, "add "),
        (f'[[embedding]]\nid = "{EMBEDDING}"\nrevision = "v1"\n', 2, "has changed meanwhile, and is left as it is"),
        ("[[embeddin", 2, "is not TOML"),
    ],
    ids=["the same model", "the same model otherwise", "no TOML"],
)
def test_a_manifest_that_lists_the_model_meanwhile(
    several: Tool, hub: StandInHub, edited: str, exit_code: int, message: str
) -> None:
    """What somebody has written stays, whatever it is."""
    path = several.folder / "models.toml"
    hub.fail(Meanwhile(lambda: path.write_text(edited)), on="/tree/")
    ran = several("add", EMBEDDING)
    assert (ran.exit_code, manifest(several), message in ran.err) == (exit_code, edited, True), ran.err
    assert (several.folder / "models.lock").exists() is (exit_code == 0)


def test_two_at_the_same_time_lose_nothing(several: Tool) -> None:
    """Each adds to what the other has written, in both files."""
    models = [EMBEDDING, RERANKER]
    for _ in range(3):
        for name in ("models.toml", "models.lock"):
            (several.folder / name).unlink(missing_ok=True)
        running = [several.process("add", model) for model in models]
        ended = [process.communicate(timeout=60) for process in running]
        assert [process.returncode for process in running] == [0, 0], ended
        assert (set(wanted(several)), set(pins(several))) == (set(models), set(models))


# where it writes -------------------------------------------------------------------------------------------------


def test_the_script_of_a_checkout_writes_here_and_not_beside_itself(several: Tool, tmp_path: Path) -> None:
    """Its own manifest is for commands that read; afterwards the new one is that of the directory."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "modelcache").symlink_to(PROJECT / "modelcache")
    script = checkout / "cache_models.py"
    script.write_text((PROJECT / "cache_models.py").read_text())
    (checkout / "models.toml").write_text(f'[[reranker]]\nid = "{RERANKER}"\n')

    def run(*words: str) -> str:
        command = [sys.executable, str(script), *words]
        ran = subprocess.run(command, cwd=several.folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    assert str(checkout) not in run("add", EMBEDDING)
    assert list(wanted(several)) == [EMBEDDING]
    assert "embedding" not in (checkout / "models.toml").read_text()
    assert not (checkout / "models.lock").exists()
    assert "1 model ready" in run()


@pytest.mark.parametrize("words", [(), ("lock",), ("status",), ("sync", EMBEDDING)], ids=" ".join)
def test_a_missing_manifest_names_add_as_the_way_out(several: Tool, words: tuple[str, ...]) -> None:
    """Exit 2, in every command that reads one."""
    ran = several(*words)
    assert (ran.exit_code, "`cache-models add ID`" in ran.err) == (2, True), ran.err


def test_an_id_that_the_manifest_does_not_list_names_add(several: Tool) -> None:
    """`sync ID` and `lock --upgrade ID` change no manifest."""
    several("add", EMBEDDING)
    for words in (("sync", "other/model"), ("lock", "--upgrade", "other/model")):
        ran = several(*words)
        assert (ran.exit_code, "`cache-models add ID`" in ran.err) == (2, True), ran.err
