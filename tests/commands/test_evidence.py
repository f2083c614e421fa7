"""Five questions about what is shipped, answered from `report` and `lock --diff` alone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

CODED, CODE = "acme/coded", "acme/code"
IMPLEMENTATION = b"import einops\n\n\nclass TinyModel:\n    pass\n"
LATER = IMPLEMENTATION + b"# changed\n"


@dataclass(frozen=True)
class Shipped:
    """The source of the truth: the files of each model and of its code, and the commits."""

    tool: Tool
    files: dict[str, dict[str, bytes]]
    code_commits: tuple[str, str]
    old_ids: dict[str, str | None]
    """The index id of each model before the upgrade."""


@pytest.fixture
def shipped(pair: Tool, hub: StandInHub, tmp_path: Path) -> Shipped:
    """A root after an upgrade: other weights, another licence, other code; a reranker of which the card has changed."""
    plain = files_below(tiny.tiny_embedding(tmp_path / "plain"))
    reranker = files_below(tiny.tiny_reranker(tmp_path / "other"))
    config = {**json.loads(plain["config.json"]), "auto_map": {"AutoModel": f"{CODE}--modeling_tiny.TinyModel"}}
    coded = {**plain, "config.json": json.dumps(config).encode()}
    hub.add(CODED, coded, licence="mit")
    first = hub.add(CODE, {"modeling_tiny.py": IMPLEMENTATION})
    pair.want(EMBEDDING, rerankers=(RERANKER,), extra=f'\n[[embedding]]\nid = "{CODED}"\ntrust_remote_code = true\n')
    assert pair("sync").exit_code == 0
    old_ids = {model_id: model["index_id"] for model_id, model in reported(pair).items()}
    shutil.copy(pair.folder / "models.lock", pair.folder / "old.lock")
    card = plain["README.md"].replace(b"license: mit", b"license: cc-by-nc-4.0")
    new = {**plain, "README.md": card, "model.safetensors": reranker["model.safetensors"]}
    hub.add(EMBEDDING, new)
    hub.add(RERANKER, {**reranker, "README.md": reranker["README.md"] + b"more"}, licence="apache-2.0")
    second = hub.add(CODE, {"modeling_tiny.py": LATER})
    assert pair("lock", "--upgrade").exit_code == 0
    assert pair("sync", "--locked").exit_code == 0
    reranker_now = {**reranker, "README.md": reranker["README.md"] + b"more"}
    return Shipped(pair, {EMBEDDING: new, RERANKER: reranker_now, CODED: coded}, (first, second), old_ids)


def reported(tool: Tool) -> dict[str, Any]:
    """The report, by id."""
    ran = tool("report", "--format", "json")
    assert ran.exit_code == 0, ran.err
    return {model["id"]: model for model in json.loads(ran.out)["models"]}


def compared(tool: Tool) -> dict[str, Any]:
    """The difference of the two locks, by id."""
    ran = tool("lock", "--diff", "old.lock", "--format", "json")
    assert ran.exit_code == 0, ran.err
    return {model["id"]: model for model in json.loads(ran.out)}


def test_which_bytes(shipped: Shipped) -> None:
    """Every file that a report names has the bytes of the repository, but for the one that the tool has rewritten."""
    for model_id, model in reported(shipped.tool).items():
        source = shipped.files[model_id] | {"modeling_tiny.py": LATER}
        for file in model["files"]:
            content = source[file["path"]]
            found = file["from"] if file.get("made") == "rewritten" else file
            assert (found["size"], found["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert model["size"] == sum(file["size"] for file in model["files"])
    page = shipped.tool("report").out
    digest = hashlib.sha256(shipped.files[EMBEDDING]["model.safetensors"]).hexdigest()
    assert f"{digest}  model.safetensors" in page


def test_whose_licence(shipped: Shipped) -> None:
    """Its name, who names it, and the file with its text; and that it is not the licence of before."""
    licence = reported(shipped.tool)[EMBEDDING]["licence"]
    assert licence["names"] == ["cc-by-nc-4.0"]
    assert [file["path"] for file in licence["files"]] == ["LICENSE"]
    changes = [change for change in compared(shipped.tool)[EMBEDDING]["changes"] if change["part"] == "licence"]
    assert [(change["old"], change["new"]) for change in changes] == [("mit", "cc-by-nc-4.0")]
    text = shipped.tool("lock", "--diff", "old.lock").out
    assert re.search(r"licence +mit → cc-by-nc-4.0", text)


def test_what_code(shipped: Shipped) -> None:
    """Which file, of which repository at which commit, and what it imports; and that it has changed."""
    found = reported(shipped.tool)
    assert found[CODED]["code"] == [{"path": "modeling_tiny.py", "repository": CODE, "commit": shipped.code_commits[1]}]
    assert found[CODED]["packages"] == ["einops"]
    assert not found[EMBEDDING]["code"]
    (change,) = compared(shipped.tool)[CODED]["changes"]
    assert (change["part"], change["path"]) == ("code", "modeling_tiny.py")
    assert change["new"] == hashlib.sha256(LATER).hexdigest()
    assert change["old"] == hashlib.sha256(IMPLEMENTATION).hexdigest()


def test_what_changed(shipped: Shipped) -> None:
    """Each part, and nothing else."""
    found = compared(shipped.tool)
    parts = {model_id: sorted({change["part"] for change in model["changes"]}) for model_id, model in found.items()}
    assert parts == {EMBEDDING: ["documents", "licence", "weights"], RERANKER: ["documents"], CODED: ["code"]}
    markdown = shipped.tool("lock", "--diff", "old.lock", "--format", "md").out
    assert all(f"`{model_id}`" in markdown for model_id in found)


def test_re_index_or_not(shipped: Shipped) -> None:
    """One sentence a model, the same in text, Markdown and JSON; the ids of the indexes agree with it."""
    sentences = {
        EMBEDDING: "vectors will differ: re-index",
        RERANKER: "scores stay as they are",
        CODED: "vectors may differ: compare with `check`, or re-index",
    }
    assert {model_id: model["meaning"] for model_id, model in compared(shipped.tool).items()} == sentences
    for form in ("text", "md"):
        out = shipped.tool("lock", "--diff", "old.lock", "--format", form).out
        assert all(sentence in out for sentence in sentences.values())
    now = {model_id: model["index_id"] for model_id, model in reported(shipped.tool).items()}
    assert now[RERANKER] is None
    assert {model_id for model_id in now if now[model_id] != shipped.old_ids[model_id]} == {EMBEDDING, CODED}
