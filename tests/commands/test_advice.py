"""A refusal that says how to set the manifest is followed to the letter: it leads on, and never round in a circle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Tool
from tests.support import tiny
from tests.support.hub import StandInHub

MODEL = "org/model"
Settings = tuple[str, tuple[tuple[str, str], ...]]
"""The table that a model stands in, and what is set there."""

ADVICE = re.compile(r"\b(trust_remote_code|allow_pickle|normalize|pooling) = (true|false|\"\w+\")")
TABLE = re.compile(r"list it under \[\[(\w+)\]\]")


def advised(told: str, now: Settings) -> Iterator[Settings]:
    """Yield the settings that a refusal sends people to."""
    table, keys = now
    found = ADVICE.findall(told)
    together = {key: value for key, value in found if key in ("pooling", "normalize")}
    each = [{key: value} for key, value in found if key not in together]
    for change in [*([together] if together else []), *each]:
        yield table, tuple(sorted({**dict(keys), **change}.items()))
    if "take out pooling" in told:
        yield table, tuple((key, value) for key, value in keys if key not in ("pooling", "normalize"))
    if other := TABLE.search(told):
        yield other[1], keys


def modules(folder: Path, named: str, **code: str) -> None:
    """Name another module in modules.json, with files of code."""
    found = json.loads((folder / "modules.json").read_text())
    tiny.write_json(folder / "modules.json", [*found, {"idx": 9, "name": "9", "path": "9_X", "type": named}])
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)


def auto_map(folder: Path, named: str, **code: str) -> None:
    """Name a class in config.json, with files of code."""
    config = json.loads((folder / "config.json").read_text())
    tiny.write_json(folder / "config.json", {**config, "auto_map": {"AutoModel": named}})
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text)


def pickled(folder: Path) -> None:
    """Leave only weights in a file that is named as a pickle and is none."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def bare(folder: Path) -> None:
    """Take away what says how it pools."""
    (folder / "modules.json").unlink()
    shutil.rmtree(folder / "1_Pooling")


def saved_as(folder: Path, kind: str) -> None:
    tiny.write_json(folder / "config_sentence_transformers.json", {"model_type": kind})


def pylate(folder: Path) -> None:
    tiny.write_json(folder / "config_sentence_transformers.json", {"query_length": 32})


def bare_with_code(folder: Path) -> None:
    bare(folder)
    auto_map(folder, "m.M", m="x = 1")


def pickled_with_code(folder: Path) -> None:
    pickled(folder)
    auto_map(folder, "m.M", m="x = 1; from .a import y", a="y = 1")


UNSEEN = {"m": "x = 1; from .a import y", "a": "y = 1"}
SHAPES: dict[str, tuple[Callable[[Path], None], bool]] = {
    "plain": (lambda folder: None, True),
    "code": (lambda folder: auto_map(folder, "m.M", m="x = 1"), True),
    "code that is not there": (lambda folder: auto_map(folder, "m.M"), True),
    "code of a notebook": (lambda folder: auto_map(folder, "__main__.M"), True),
    "code of a project": (lambda folder: auto_map(folder, "my_project.models.M"), True),
    "code elsewhere": (lambda folder: auto_map(folder, "org/code--m.M"), True),
    "code elsewhere that is gone": (lambda folder: auto_map(folder, "gone/code--m.M"), True),
    "code with an import that is not seen": (lambda folder: auto_map(folder, "m.M", **UNSEEN), True),
    "a module": (lambda folder: modules(folder, "m.M", m="x = 1"), True),
    "a module that is not there": (lambda folder: modules(folder, "m.M"), False),
    "a module of a notebook": (lambda folder: modules(folder, "__main__"), False),
    "a class of a notebook": (lambda folder: modules(folder, "__main__.M"), False),
    "a module of Python": (lambda folder: modules(folder, "builtins.object"), False),
    "a module of a project": (lambda folder: modules(folder, "my_project.models.M"), False),
    "a module with a library's name": (lambda folder: modules(folder, "org/code--sentence_transformers.M"), False),
    "a module elsewhere": (lambda folder: modules(folder, "org/code--m.M"), True),
    "a module elsewhere that is not there": (lambda folder: modules(folder, "org/code--n.N"), False),
    "a module elsewhere that is gone": (lambda folder: modules(folder, "gone/code--m.M"), False),
    "a module with an import that is not seen": (lambda folder: modules(folder, "m.M", **UNSEEN), False),
    "a pickle that is none": (pickled, False),
    "a pickle, and code": (pickled_with_code, False),
    "no modules.json": (bare, True),
    "no modules.json, and code": (bare_with_code, True),
    "a cross-encoder": (lambda folder: saved_as(folder, "CrossEncoder"), True),
    "a sparse encoder": (lambda folder: saved_as(folder, "SparseEncoder"), True),
    "a multi-vector model": (lambda folder: saved_as(folder, "ColBERT"), True),
    "a multi-vector model by its settings alone": (pylate, False),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_advice_leads_on(shape: str, hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Every setting that is advised is tried: none was tried before on the way there, and some way ends well if any."""
    make, can_be_shipped = SHAPES[shape]
    make(tiny.tiny_embedding(tmp_path / "model"))
    hub.add(MODEL, tmp_path / "model")
    hub.add("org/code", {"m.py": b"x = 1"})
    shipped: set[Settings] = set()
    ways: list[list[Settings]] = [[("embedding", ())]]
    while ways:
        way = ways.pop()
        table, keys = way[-1]
        lines = [f"[[{table}]]", f'id = "{MODEL}"', *(f"{key} = {value}" for key, value in keys)]
        (tool.folder / "models.toml").write_text("\n".join(lines))
        ran = tool("lock", "--dry-run")
        if not ran.exit_code:
            shipped.add(way[-1])
            continue
        assert ran.exit_code in (3, 5), ran.err
        for settings in advised(ran.err, way[-1]):
            assert settings not in way, f"{shape}: {way} leads back to {settings}:\n{ran.err}"
            ways.append([*way, settings])
    assert bool({table for table, _ in shipped} - {"other"}) is can_be_shipped


def test_a_circle_would_be_seen() -> None:
    """What refusals have said, of a module that lies in a notebook."""
    first = list(advised("then set trust_remote_code = true to have it pinned", ("embedding", ())))
    assert first == [("embedding", (("trust_remote_code", "true"),))]
    second = list(advised("trust_remote_code = false ships the model without it", first[0]))
    assert list(advised("then set trust_remote_code = true", second[0])) == first
