"""models.lock: what models.toml means today. TOML, one table a model, one line a file, sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcache.disk import read_bytes
from modelcache.errors import LockfileError
from modelcache.pinned import from_table, to_table
from modelcache.records import LockedModel
from modelcache.toml import parse_toml

if TYPE_CHECKING:
    from tomlkit.items import InlineTable

_VERSION = 1
_HEAD = "Written by `python cache_models.py lock`. Commit this file; do not edit it."
_HINT = "Take it from version control, or delete it and write it anew with `python cache_models.py lock`."


def read_lock(path: Path) -> tuple[LockedModel, ...] | None:
    """Read models.lock; None where there is none.

    Raises:
        UsageError: it cannot be read.
        LockfileError: with everything that is wrong in it.

    """
    content = read_bytes(path)
    return None if content is None else parse_lock(content, path.name)


def parse_lock(content: bytes, name: str) -> tuple[LockedModel, ...]:
    """Turn the bytes of a lock into models.

    Raises:
        LockfileError: with every problem on a line of its own.

    """
    try:
        document = parse_toml(content.decode())
    except ValueError as error:
        raise LockfileError(f"{name} is not TOML: {error}", hint=_HINT) from error
    version = document.get("lock_version", "none")
    if type(version) is not int or version != _VERSION:
        raise LockfileError(f"{name} has lock_version {version}, this tool reads {_VERSION}", hint=_HINT)
    if unknown := sorted(set(document) - {"lock_version", "model"}):
        raise LockfileError(f"{name}: unknown key {unknown[0]!r}", hint=_HINT)
    tables = document.get("model", [])
    if not isinstance(tables, list):
        raise LockfileError(f"{name}: [[model]] tables are expected", hint=_HINT)

    models, problems = [], []
    for number, table in enumerate(tables, 1):
        try:
            models.append(from_table(table))
        except ValueError as error:
            problems.append(f"{name}: model {number}: {error}")
    if len({(model.kind, model.id) for model in models}) < len(models):
        problems.append(f"{name}: a model is listed twice")
    if problems:
        raise LockfileError("\n".join(problems), hint=_HINT)
    return tuple(models)


def format_lock(models: Iterable[LockedModel]) -> str:
    """Return the text of models.lock; equal models give equal bytes."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment(_HEAD))
    document["lock_version"] = _VERSION
    tables = tomlkit.aot()
    for model in sorted(models, key=lambda model: (model.kind, model.id)):
        table = tomlkit.table()
        for key, value in to_table(model).items():
            table[key] = value if key != "files" else tomlkit.array().multiline(True)
            if key == "files":
                for file in value:
                    table["files"].append(_one_line(file))
        tables.append(table)
    if len(tables):
        document["model"] = tables
    return tomlkit.dumps(document)


def _one_line(entry: Mapping[str, Any]) -> InlineTable:
    """Return a table that takes one line, with what it holds."""
    import tomlkit

    line = tomlkit.inline_table()
    for key, value in entry.items():
        line[key] = _one_line(value) if isinstance(value, Mapping) else value
    return line
