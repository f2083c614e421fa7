"""Ways to spoil the directory of a published model, and to have its receipt and its recorded numbers agree to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelcache.core.types import LockedFile, set_digest
from modelcache.formats.receipt import format_receipt
from modelcache.sources.directory import DirectoryRepository
from modelcache.store.layout import read_receipt
from tests.support import tiny


def seal(home: Path, *, recorded: bool = True) -> None:
    """Let the receipt say what lies there, as if it had been published so.

    With `recorded` the recorded numbers follow: they stand for what this model gave when it was pinned.
    """
    before = read_receipt(home)
    assert before is not None
    files = []
    for listed in DirectoryRepository(before.id, home).files.values():
        pin = DirectoryRepository(before.id, home).pin(listed)
        files.append(LockedFile(pin.path, pin.size, pin.sha256))
    after = replace(before, files=tuple(sorted(files, key=lambda file: file.path)))
    (home / ".cache-models.json").write_bytes(format_receipt(after))
    if recorded:
        golden = home.parent.parent / "models.golden.json"
        golden.write_text(golden.read_text().replace(set_digest(before.files), set_digest(after.files)))


def drop(part: str, path: str = "model.safetensors") -> Callable[[Path], None]:
    """Take the tensors away whose names have this part."""

    def spoil(home: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = {name: value for name, value in load_file(home / path).items() if part not in name}
        save_file(tensors, home / path, metadata={"format": "pt"})

    return spoil


def edit(path: str, **values: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file."""

    def spoil(home: Path) -> None:
        tiny.write_json(home / path, {**json.loads((home / path).read_text()), **values})

    return spoil


def append(path: str, text: str) -> Callable[[Path], None]:
    """Add lines to a file."""

    def spoil(home: Path) -> None:
        (home / path).write_text((home / path).read_text() + text)

    return spoil


def no_pooling(home: Path) -> None:
    shutil.rmtree(home / "1_Pooling")


def no_modules(home: Path) -> None:
    (home / "modules.json").unlink()


def no_normalize(home: Path) -> None:
    """The same directions, other lengths: every dot product is another one."""
    modules = json.loads((home / "modules.json").read_text())
    tiny.write_json(home / "modules.json", [module for module in modules if not module["type"].endswith("Normalize")])


def not_a_number(home: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(home / "model.safetensors")
    for value in tensors.values():
        value[:] = float("nan")
    save_file(tensors, home / "model.safetensors", metadata={"format": "pt"})


def other_tokenizer(home: Path) -> None:
    """The same words under other numbers: it loads, and every text is another one."""
    path = home / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    tokenizer["model"]["vocab"] |= dict(zip(words, [vocabulary[word] for word in reversed(words)], strict=True))
    tiny.write_json(path, tokenizer)


def no_vocabulary(home: Path) -> None:
    """Every word is an unknown one: all texts of a length are one text."""
    path = home / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: number for word, number in vocabulary.items() if word.startswith("[")}
    tiny.write_json(path, tokenizer)


def all_the_same(home: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(
        {name: value * 0 + 1 for name, value in load_file(home / "model.safetensors").items()},
        home / "model.safetensors",
    )


def other_routes(home: Path) -> None:
    """A Router whose ways have names of its own, one of which gives nothing that is a number."""
    path = home / "router_config.json"
    routes = json.loads(path.read_text())
    structure = routes["structure"]
    renamed = {"ask": structure["query"], "answer": structure["document"]}
    parameters = {**routes["parameters"], "default_route": "answer"}
    tiny.write_json(path, {**routes, "structure": renamed, "parameters": parameters})
    not_a_number(home / structure["query"][0])


def more_tokens(home: Path) -> None:
    """A token was added, and the table was not made larger for it."""
    path = home / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["rarely"] = 5000
    tiny.write_json(path, tokenizer)
