"""A refusal is a few lines, whatever a repository is called, holds or names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelcache.core.errors import PolicyError
from modelcache.resolver.files import choose
from modelcache.resolver.reasons import Reasons
from modelcache.resolver.remote_code import vendor_code
from tests.commands.test_lock_shapes import (
    EMBEDDING,
    NEW,
    POOLED,
    SCORE,
    W,
    bare,
    dense,
    listed,
    parts,
    without_weights,
)

ODD = "\x1b[31m\n  a line of its own"
BARE = without_weights(dense("BertModel"))
INDEX = "model.safetensors.index.json"


def shards(names: list[str]) -> dict[str, Any]:
    return {**BARE, INDEX: {"weight_map": {str(number): name for number, name in enumerate(names)}}}


REPOSITORIES: dict[str, dict[str, Any]] = {
    "shards by odd names": shards([ODD]),
    "many shards": shards([f"{number}.safetensors" for number in range(50_000)]),
    "weights by an odd name": dense("BertModel", transformers_weights=ODD),
    "another format by an odd name": {**BARE, f"{ODD}.onnx": W},
    "modules without weights": {**dense("BertModel"), "modules.json": parts(*(f"{n}=Dense" for n in range(250)))},
    "folders that lead outside": {**dense("BertModel"), "modules.json": parts(*(f"../{n}=Dense" for n in range(250)))},
    "an odd folder": {**dense("BertModel"), "modules.json": parts(f"../{ODD}=Dense")},
    "odd names": {**dense("BertModel"), **{f"{number}{ODD}.json": W for number in range(5_000)}},
    "references to code": dense("BertModel", auto_map={str(n): f"{ODD}.m{n}" for n in range(5_000)}),
}


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as caught:
        ask()
    return caught.value.message


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_refusal_is_short(name: str) -> None:
    """Every line but the first begins as ours do, and there are not many."""
    listing, contents = listed(REPOSITORIES[name])
    told = refusal(lambda: choose(EMBEDDING, listing, lambda file: contents[file.path]))
    assert_short(told)


@pytest.mark.parametrize("imported", ["from .a{}.b import c", "from .a{} import c", "from ..a{} import c"])
def test_a_refusal_of_code_is_short(imported: str) -> None:
    """Also where code imports more than anybody reads, and in the time that reading it takes."""
    code = "\n".join(imported.format(number) for number in range(20_000)).encode()
    configs = {"config.json": b'{"auto_map": {"AutoModel": "m.Model"}}'}
    assert_short(refusal(lambda: vendor_code("owner/name", configs, lambda _, path: code if path == "m.py" else None)))


@pytest.mark.parametrize("lines", ["\n" * (4 << 20), "- " + " " * (2 << 20) + "!", "- a" + " " * (2 << 20) + "!"])
def test_a_card_is_looked_through_once(lines: str) -> None:
    """A card of no sense takes the time of reading it; to look at each part again and again would take hours."""
    files = {**bare("BertForMaskedLM"), "README.md": b"---\n" + lines.encode()[: (4 << 20) - 4]}
    listing, contents = listed(files)
    (note,) = choose(POOLED, listing, lambda file: contents[file.path]).notes
    assert "make sure that its card" in note


def test_empty_lines_of_code_are_looked_through_once() -> None:
    """Of a file of the largest size."""
    code = b"import torch\n" + b"\n" * 1_000_000
    configs = {"config.json": b'{"auto_map": {"AutoModel": "m.Model"}}'}
    assert vendor_code("owner/name", configs, lambda _, path: code if path == "m.py" else None).files


def test_a_long_name_of_a_repository_is_looked_through_once() -> None:
    """Also where it looks like addresses with passwords."""
    files = dense("BertModel", auto_map={"AutoModel": "/a:b" * 500_000 + "--m.Model"})
    listing, contents = listed(files)
    assert_short(refusal(lambda: choose(EMBEDDING, listing, lambda file: contents[file.path])))


def test_a_note_is_short() -> None:
    """A note names some of the files that it is about."""
    pooled = [f"{number}={SCORE}sentence_transformer.modules.pooling.Pooling" for number in range(200)]
    files = {**dense("BertModel"), "modules.json": parts(f"={NEW}transformer.Transformer", *pooled)}
    files |= {f"{number}/config.json": {"pooling_mode": "mean"} for number in range(200)}
    listing, contents = listed(files)
    (note,) = choose(EMBEDDING, listing, lambda file: contents[file.path]).notes
    assert len(note) < 500
    assert "and 196 more" in note


def test_each_reason_is_told_once() -> None:
    """In the order in which they were found; none of the way out is lost behind a long reason."""
    reasons = Reasons()
    assert not reasons
    for reason in ("b", "a", "b"):
        reasons.add(reason, "mend it")
    reasons.add("x" * 5_000, "mend that")
    *first, last = reasons.message("it is not shipped").split("\n")
    assert first == ["it is not shipped:", "  b: mend it", "  a: mend it"]
    assert last.endswith("…: mend that")
    assert len(last) < 700


def assert_short(told: str) -> None:
    lines = told.split("\n")
    assert 1 < len(lines) <= 32
    assert max(map(len, lines)) <= 1100
    assert "  a line of its own" not in lines
    assert all(line.startswith("  ") and line[2] != " " for line in lines[1:])
