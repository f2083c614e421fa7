"""Ways to change a model directory, each of which returns a function that does it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import tiny

Change = Callable[[Path], object]
CONFIG, POOLING, MODULES = "config.json", "1_Pooling/config.json", "modules.json"
MODEL, SENTENCE = "config_sentence_transformers.json", "sentence_bert_config.json"


def setting(path: str, **values: object) -> Change:
    """Set keys of a JSON file, which may be new; `...` takes a key out."""

    def change(folder: Path) -> None:
        document = read(folder / path) if (folder / path).exists() else {}
        kept = {key: value for key, value in (document | values).items() if value is not ...}
        tiny.write_json(folder / path, kept)

    return change


def inner(path: str, key: str, **values: object) -> Change:
    """Set keys of an object within a JSON file."""

    def change(folder: Path) -> None:
        document = read(folder / path)
        tiny.write_json(folder / path, {**document, key: {**document[key], **values}})

    return change


def types(old: str, new: str, path: str = MODULES) -> Change:
    """Replace a part of a file, such as the class of a module."""

    def change(folder: Path) -> None:
        text = (folder / path).read_text("utf-8")
        assert old in text, (path, old)
        (folder / path).write_text(text.replace(old, new), "utf-8")

    return change


def file(path: str, content: str | bytes) -> Change:
    """Write a file."""

    def change(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def without(path: str) -> Change:
    """Take a file out."""
    return lambda folder: (folder / path).unlink()


def all_of(*changes: Change) -> Change:
    """Make several changes."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def order(*numbers: int) -> Change:
    """Keep these modules of modules.json, in this order."""

    def change(folder: Path) -> None:
        entries = read(folder / MODULES)
        kept = [{**entries[old], "idx": new, "name": str(new)} for new, old in enumerate(numbers)]
        tiny.write_json(folder / MODULES, kept)

    return change


def appended(path: str, module_type: str) -> Change:
    """Add a module after all others."""

    def change(folder: Path) -> None:
        entries = read(folder / MODULES)
        number = len(entries)
        tiny.write_json(
            folder / MODULES, [*entries, {"idx": number, "name": str(number), "path": path, "type": module_type}]
        )
        (folder / path).mkdir(exist_ok=True)

    return change


def other_weights(path: str = "model.safetensors") -> Change:
    """Draw other numbers for the tensors of a file; its header stays as it is."""

    def change(folder: Path) -> None:
        content = (folder / path).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        draw = random.Random(99).random
        numbers = tiny.floats(draw() - 0.5 for _ in range((len(content) - start) // 4))
        (folder / path).write_bytes(content[:start] + numbers)

    return change


def other_words(path: str = "tokenizer.json", one: str = "cat", other: str = "contract") -> Change:
    """Exchange the numbers of two words of a tokenizer."""

    def change(folder: Path) -> None:
        tokenizer = read(folder / path)
        words = tokenizer["model"]["vocab"]
        words[one], words[other] = words[other], words[one]
        tokenizer["model"]["vocab"] = dict(sorted(words.items(), key=lambda item: int(item[1])))
        tiny.write_json(folder / path, tokenizer)

    return change


def case_kept(folder: Path) -> None:
    """Let a tokenizer tell capitals from small letters."""
    tokenizer = read(folder / "tokenizer.json")
    tokenizer["normalizer"]["lowercase"] = False
    tiny.write_json(folder / "tokenizer.json", tokenizer)
    setting("tokenizer_config.json", do_lower_case=False)(folder)


def turned_around(folder: Path) -> None:
    """Write every configuration with its keys in the opposite order, and without white space."""
    for path in folder.rglob("*.json"):
        if path.name != "tokenizer.json":
            path.write_text(json.dumps(_turned(read(path)), separators=(",", ":")), "utf-8")


def _turned(value: Any) -> Any:
    if isinstance(value, list):
        return [_turned(one) for one in value]
    return {key: _turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def read(path: Path) -> Any:
    """Return a JSON file."""
    return json.loads(path.read_text("utf-8"))
