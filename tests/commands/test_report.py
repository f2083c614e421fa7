"""`report`: what is shipped, from lock, receipts and bytes on disk, with no request and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from modelcache.check.golden import Golden, format_golden
from modelcache.check.probes import Answer, Probe
from modelcache.core.errors import IntegrityError
from modelcache.core.kinds import Kind
from modelcache.core.names import PUBLISHED_MTIME
from modelcache.core.types import LARGEST_TEXT, set_digest
from modelcache.formats.manifest import parse_manifest
from modelcache.pipeline.pins import Project, read_lock
from modelcache.pipeline.report import ShippedModel
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

CODE, CODED, HOUSE, OTHER, PICKLED = "acme/code", "acme/coded", "acme/house", "acme/other", "acme/pickled"
CARD = "---\nlicense: {licence}\nbase_model: {base}\n---\n# Words\n"


def reported(tool: Tool, *words: str) -> dict[str, Any]:
    """The models of a report in JSON, by id."""
    ran = tool("report", "--format", "json", *words)
    assert ran.exit_code == 0, ran.err
    return {model["id"]: model for model in json.loads(ran.out)["models"]}


def licensed(tool: Tool, hub: StandInHub, files: Mapping[str, bytes], licence: str | None = None) -> dict[str, Any]:
    """The report of a small model with these papers, whose licence the Hub calls so."""
    model = {"config.json": b"{}", "weights.onnx": b"x", **files}
    hub.add(OTHER, model, licence=licence)
    tool.want(extra=f'[[other]]\nid = "{OTHER}"\n')
    assert tool("sync").exit_code == 0
    found = reported(tool)[OTHER]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def shapes(pair: Tool, hub: StandInHub, tmp_path: Path) -> Tool:
    """A root with a model of each shape: with code of another repository, converted, of a directory, never loaded."""
    plain = files_below(tiny.tiny_embedding(tmp_path / "plain"))
    config = {**json.loads(plain["config.json"]), "auto_map": {"AutoModel": f"{CODE}--modeling_tiny.TinyModel"}}
    hub.add(CODED, {**plain, "config.json": json.dumps(config).encode()})
    hub.add(
        CODE, {"modeling_tiny.py": b"import einops\nimport torch\n\n\nclass TinyModel(torch.nn.Module):\n    x = 1\n"}
    )
    weights = tiny.write_pickle(tmp_path / "pytorch_model.bin", 4000).read_bytes()
    old = {path: content for path, content in plain.items() if path != "model.safetensors"}
    hub.add(PICKLED, {**old, "pytorch_model.bin": weights, "heads.pt": weights})
    hub.add(OTHER, {"LICENSE": b"\n  Licence of acme  \n", "x.onnx": b"x", "run.py": b"x = 1\n"})
    tiny.tiny_embedding(pair.folder / "house")
    pair.want(
        EMBEDDING,
        rerankers=(RERANKER,),
        extra=f"""
[[embedding]]
id = "{CODED}"
trust_remote_code = true
[[embedding]]
id = "{HOUSE}"
path = "house"
[[embedding]]
id = "{PICKLED}"
allow_pickle = true
include = ["heads.pt"]
[[other]]
id = "{OTHER}"
trust_remote_code = true
""",
    )
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    hub.forget()
    return pair


def test_a_report_says_of_each_model_what_is_shipped(shapes: Tool, hub: StandInHub) -> None:
    """Its pin, its licence, its code with its origin, its made files with their originals, its pickles."""
    found = reported(shapes)
    assert found.keys() == {EMBEDDING, RERANKER, CODED, HOUSE, PICKLED, OTHER}
    pins = {pin.id: pin for pin in read_lock(shapes.folder / "models.lock") or ()}
    for model_id, pin in pins.items():
        model = found[model_id]
        assert (model["kind"], model["commit"] or "") == (pin.kind, pin.commit)
        assert (model["set_digest"], model["size"], model["on_disk"]) == (set_digest(pin.files), pin.size, True)
        assert {file["path"]: file["sha256"] for file in model["files"]} == {f.path: f.sha256 for f in pin.files}
    assert found[EMBEDDING]["licence"] == {
        "names": ["mit"],
        "source": "card",
        "locked": "mit",
        "link": None,
        "files": [{"path": "LICENSE", "first_line": "MIT License"}],
    }
    (code,) = found[CODED]["code"]
    (origin,) = {file.original.commit for file in pins[CODED].files if file.original and not file.made}
    assert code == {"path": "modeling_tiny.py", "repository": CODE, "commit": origin}
    assert (found[CODED]["remote_code"], found[CODED]["packages"]) == ("vendored", ["einops"])
    assert {f["path"]: f["made"] for f in found[CODED]["files"] if "made" in f} == {"config.json": "rewritten"}
    (weights,) = [file for file in found[PICKLED]["files"] if file.get("made") == "converted"]
    assert weights["from"]["path"] == "pytorch_model.bin"
    assert found[PICKLED]["pickles"] == ["heads.pt"]
    assert (found[HOUSE]["commit"], found[HOUSE]["revision"]) == (None, None)
    assert found[OTHER]["licence"]["names"] == []
    assert found[OTHER]["licence"]["files"] == [{"path": "LICENSE", "first_line": "Licence of acme"}]
    assert [code["path"] for code in found[OTHER]["code"]] == ["run.py"]
    assert found[OTHER]["check"]["verdict"] == "never loaded"
    assert not hub.requests


def test_ids_choose_the_models(shapes: Tool) -> None:
    """As for `verify`; an unknown one is an error."""
    assert reported(shapes, RERANKER, HOUSE).keys() == {RERANKER, HOUSE}
    ran = shapes("report", "acme/houze")
    assert (ran.exit_code, ran.out) == (2, "")
    assert f"did you mean '{HOUSE}'" in ran.err


@pytest.mark.parametrize("output", ["md", "json", "cyclonedx"])
def test_a_report_is_the_same_each_time(shapes: Tool, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CI keeps it beside the lock, and a difference is news."""
    first = shapes("report", "--format", output)
    again = shapes.run("report", "--format", output, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert (first.exit_code, first.err) == (0, "")
    assert again.out == first.out
    assert str(shapes.folder) not in first.out
    monkeypatch.setenv("CACHE_MODELS_FORMAT", output)
    assert shapes("report").out == first.out


def test_the_bill_of_materials_is_valid_and_has_the_date_of_the_build(
    shapes: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SOURCE_DATE_EPOCH is the date of builds that can be repeated; without it there is none."""
    text = shapes("report", "--format", "cyclonedx").out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert "timestamp" not in text
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = shapes("report", "--format", "cyclonedx").out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(dated) is None
    assert json.loads(dated)["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    for wrong in ("yesterday", "9" * 30, "9" * 5000, "1.5", "-1", "1_0", "\u0663"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        ran = shapes("report", "--format", "cyclonedx")
        assert (ran.exit_code, ran.out) == (2, "")
        assert "SOURCE_DATE_EPOCH" in ran.err


@pytest.mark.parametrize(
    ("files", "hub_says", "names", "source"),
    [
        ({"README.md": CARD.format(licence="mit", base="a/b").encode()}, "apache-2.0", ["mit"], "card"),
        ({"README.md": CARD.format(licence="[mit, gpl-3.0]", base="").encode()}, None, ["mit", "gpl-3.0"], "card"),
        ({"README.md": b"---\nlicense: other\nlicense_name: acme\n---\n"}, "other", ["acme"], "card"),
        ({"README.md": b"# licensed under MIT"}, "apache-2.0", ["apache-2.0"], "lock"),
        ({}, "apache-2.0", ["apache-2.0"], "lock"),
        ({"LICENSE": b"MIT License"}, None, [], None),
        ({"README.md": b"---\nlicense: [[[\n---\n"}, None, [], None),
        ({"README.md": b"---\nlicense: mit\n---\n" + bytes(LARGEST_TEXT)}, None, ["mit"], "lock"),
    ],
)
def test_a_licence_is_named_by_card_or_lock_and_never_guessed(
    tool: Tool, hub: StandInHub, files: Mapping[str, bytes], hub_says: str | None, names: list[str], source: str | None
) -> None:
    """The front matter of the card on disk, else the lock; a text proves nothing."""
    licence = licensed(tool, hub, files, hub_says)["licence"]
    assert (licence["names"], licence["source"]) == (names, source)
    page = tool("report").out
    assert ("- licence: unknown\n" in page) is (not names)


def test_base_models_and_terms_are_those_of_the_card(tool: Tool, hub: StandInHub) -> None:
    """A string or a list; the keys with which an owner asks for consent."""
    card = b"---\nbase_model:\n- a/b\n- c/d\nextra_gated_prompt: do you\n---\n"
    found = licensed(tool, hub, {"README.md": card})
    assert found["base_models"] == ["a/b", "c/d"]
    assert found["gated"] == {"is_gated": True, "sources": ["card"], "terms": ["extra_gated_prompt"]}


def test_a_gated_model_is_reported_as_gated(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub said so when it was pinned."""
    hub.token = "hf_ours"
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    hub.add(EMBEDDING, files_below(tmp_path / "embedding"), gated=True)
    assert pair("sync").exit_code == 0
    found = reported(pair)
    assert found[EMBEDDING]["gated"] == {"is_gated": True, "sources": ["lock"], "terms": []}
    assert found[RERANKER]["gated"]["is_gated"] is False
    for output in ("md", "json", "cyclonedx"):
        ran = pair("report", "--format", output)
        assert "hf_ours" not in ran.out + ran.err


def test_a_model_that_is_not_on_disk_is_reported_from_the_lock(pair: Tool) -> None:
    """A review needs no gigabytes; what only the files say is unknown."""
    assert pair("lock").exit_code == 0
    found = reported(pair)
    assert {model["on_disk"] for model in found.values()} == {False}
    assert (found[EMBEDDING]["licence"]["names"], found[EMBEDDING]["licence"]["source"]) == (["mit"], "lock")
    assert found[EMBEDDING]["licence"]["files"] == [{"path": "LICENSE", "first_line": None}]
    assert found[EMBEDDING]["base_models"] is None
    page = pair("report").out
    assert "- not on disk, so from the lock alone: all 2\n" in page
    assert "as pinned" not in page
    assert pair("sync").exit_code == 0
    assert {model["on_disk"] for model in reported(pair).values()} == {True}


@pytest.mark.parametrize("output", ["md", "json", "cyclonedx"])
@pytest.mark.parametrize("file", ["model.safetensors", "README.md"])
def test_of_a_damaged_model_there_is_no_report(pair: Tool, output: str, file: str) -> None:
    """Any byte that is not as pinned: exit 1 as for `verify`, every damaged model at once, and nothing on stdout."""
    assert pair("sync").exit_code == 0
    for home in (pair.home(EMBEDDING), pair.home(RERANKER, "reranker")):
        content = (home / file).read_bytes()
        (home / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(home / file, (PUBLISHED_MTIME, PUBLISHED_MTIME))  # so that only its bytes say it
    assert pair("verify", "--quick").exit_code == 0
    ran = pair("report", "--format", output)
    assert (ran.exit_code, ran.out) == (1, "")
    assert all(f"{model} does not match its pin" in ran.err for model in (EMBEDDING, RERANKER))
    assert pair("sync").exit_code == 0
    assert pair("report", "--format", output).exit_code == 0


def test_a_file_that_changes_after_it_was_compared_is_not_quoted(pair: Tool) -> None:
    """A card of other bytes says nothing about the model that was compared."""
    assert pair("sync").exit_code == 0
    project = Project(pair.folder / "models.toml", pair.folder / "models.lock", pair.folder)
    (pin,) = [pin for pin in read_lock(project.lockfile) or () if pin.id == EMBEDDING]
    shipped = ShippedModel(project, pin, on_disk=True)
    content = shipped.read("README.md")
    assert content is not None
    assert (shipped.read("nothing"), ShippedModel(project, pin, on_disk=False).read("README.md")) == (None, None)
    (pair.home(EMBEDDING) / "README.md").write_bytes(content.replace(b"mit", b"gpl"))
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        shipped.read("README.md")


def test_without_a_lock_the_receipts_are_reported_and_without_a_manifest_the_lock(pair: Tool) -> None:
    """As `verify` does; a wanted model that has neither is missing."""
    assert pair("sync").exit_code == 0
    with_lock = pair("report").out
    lock = pair.folder / "models.lock"
    text = lock.read_bytes()
    lock.unlink()
    assert sorted(pair("report").out) == sorted(with_lock)
    assert pair("report", "--locked").exit_code == 2
    pair.want(EMBEDDING, "acme/other", rerankers=(RERANKER,))
    ran = pair("report")
    assert (ran.exit_code, ran.out) == (1, "")
    assert "acme/other is not there" in ran.err
    (pair.folder / "models.toml").unlink()
    assert pair("report").exit_code == 2
    lock.write_bytes(text)
    assert pair("report").out == with_lock


def test_a_model_is_proven_where_numbers_of_exactly_these_files_are_recorded(pair: Tool) -> None:
    """Of another version's files they prove nothing; a damaged file of numbers is an error."""
    assert pair("sync").exit_code == 0
    digest = reported(pair)[EMBEDDING]["set_digest"]
    answers = (Answer(Probe("one"), array("f", [1, 0])),)
    golden = Golden(EMBEDDING, Kind.EMBEDDING, answers, versions={"torch": "2.13.0", "a|b": "`"})
    numbers = pair.folder / "models.golden.json"
    numbers.write_text(format_golden({digest: golden, "0" * 64: golden}))
    found = reported(pair)
    assert found[EMBEDDING]["check"] == {"verdict": "proven", "versions": {"a|b": "`", "torch": "2.13.0"}}
    assert found[RERANKER]["check"] == {"verdict": "unproven", "versions": {}}
    assert f"- unproven: {RERANKER}\n" in pair("report").out
    numbers.write_text(format_golden({"0" * 64: golden}))
    assert reported(pair)[EMBEDDING]["check"]["verdict"] == "unproven"
    numbers.write_text("{")
    ran = pair("report")
    assert (ran.exit_code, ran.out) == (2, "")
    assert "models.golden.json" in ran.err


def test_hostile_words_neither_break_a_report_nor_reach_the_terminal(tool: Tool, hub: StandInHub) -> None:
    """Escapes of a terminal, commands of a CI server, Markdown and HTML, in a card and in a licence."""
    words = "\x1b]0;x\x07 <script> | `x` ##[error]x [a](https://evil.example/?key=secret)"
    card = f"---\nlicense: {json.dumps(words)}\nbase_model: [{json.dumps(words)}]\n---\n"
    files = {"README.md": card.encode(), "LICENSE": f"::error::{words}\n".encode()}
    found = licensed(tool, hub, files)
    assert found["base_models"] == [words.replace("key=secret)", "[hidden]")]
    for output in ("md", "json", "cyclonedx"):
        text = tool("report", "--format", output).out
        assert text.replace("\n", "").isprintable()
        assert "##[" not in text
        assert "secret" not in text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_five_models_of_the_default_manifest_fit_one_screen(tool: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """The table and the points come before the first heading of a model."""
    manifest = PROJECT / "models.toml"
    (tool.folder / "models.toml").write_bytes(manifest.read_bytes())
    makers = {Kind.EMBEDDING: tiny.tiny_embedding, Kind.RERANKER: tiny.tiny_reranker}
    models = parse_manifest(manifest.read_bytes(), manifest)
    for number, model in enumerate(models):
        hub.add(model.id, makers[model.kind](tmp_path / str(number)), licence="mit")
    assert tool("sync").exit_code == 0
    lines = tool("report").out.partition("\n## ")[0].splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert all(any(line.startswith(f"| {model.id} ") for line in lines) for model in models)


def test_a_report_needs_neither_torch_nor_a_client_of_the_hub_nor_a_socket(shapes: Tool) -> None:
    """It runs in the init image, and where there is no network."""
    code = """
import sys
sys.addaudithook(lambda event, arguments: event.startswith("socket.") and sys.exit(f"it opens a {event}"))
import cache_models
for output in ("md", "json", "cyclonedx"):
    assert cache_models.main(["report", "--format", output]) == 0
heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub", "numpy", "urllib3"} & set(sys.modules)
sys.exit(f"it imports {heavy}" if heavy else 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shapes.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_missing_extra_is_said_with_its_way_out(pair: Tool) -> None:
    """Before any byte is read; the other formats need no extra."""
    assert pair("sync").exit_code == 0
    (pair.home(EMBEDDING) / "model.safetensors").write_bytes(b"")
    without = (
        "import sys; sys.modules['cyclonedx'] = None; import cache_models; sys.exit(cache_models.main(sys.argv[1:]))"
    )
    ran = [
        subprocess.run(
            [sys.executable, "-c", without, "report", "--format", output],
            cwd=pair.folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
        )
        for output in ("cyclonedx", "json")
    ]
    assert [(one.returncode, one.stdout) for one in ran] == [(2, ""), (1, "")]
    assert "pip install 'cache-models[report]'" in ran[0].stderr
    assert "Traceback" not in ran[0].stderr
