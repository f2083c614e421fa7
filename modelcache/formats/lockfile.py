"""models.lock: the pins of the models in models.toml. TOML, one table a model, one line a file, sorted."""

from __future__ import annotations

from collections.abc import Iterable

from modelcache.core.errors import LockfileError
from modelcache.core.types import LockedModel
from modelcache.formats.pin_table import from_table, to_table
from modelcache.formats.toml import decode_text, parse_toml, toml_value

_VERSION = 1
_HEAD = "Written by `cache-models lock`. Commit this file; do not edit it."
_HINT = "Take it from version control, or delete it and write it anew with `cache-models lock`."


def parse_lock(content: bytes, name: str, *, hint: str = _HINT) -> tuple[LockedModel, ...]:
    """Turn the bytes of a lock into models; LockfileError has every problem on a line of its own."""
    try:
        document = parse_toml(decode_text(content))
    except ValueError as error:
        raise LockfileError(f"{name} is not TOML: {error}", hint=hint) from error
    if not document:
        raise LockfileError(f"{name} is empty", hint=hint)
    version = document.get("lock_version", "none")
    if type(version) is not int or version != _VERSION:
        if type(version) is int and version > _VERSION:
            hint = "A newer version of cache-models wrote it: use that version, or pin anew with `cache-models lock`."
        raise LockfileError(f"{name} has lock_version {version}, this tool reads {_VERSION}", hint=hint)
    if unknown := sorted(set(document) - {"lock_version", "model"}):
        raise LockfileError(f"{name}: unknown key {unknown[0]!r}", hint=hint)
    tables = document.get("model", [])
    if not isinstance(tables, list):
        raise LockfileError(f"{name}: [[model]] tables are expected", hint=hint)

    models, problems = [], []
    for number, table in enumerate(tables, 1):
        try:
            models.append(from_table(table))
        except ValueError as error:
            problems.append(f"{name}: model {number}: {error}")
    if len({(model.kind, model.id) for model in models}) < len(models):
        problems.append(f"{name}: a model is listed twice")
    if problems:
        raise LockfileError("\n".join(problems), hint=hint)
    return tuple(models)


def format_lock(models: Iterable[LockedModel]) -> str:
    """Return the text of models.lock; equal models give equal bytes.

    Written by hand: a library that keeps the style of a document takes 4 ms a model, this takes 0.1.
    """
    lines = [f"# {_HEAD}", f"lock_version = {_VERSION}"]
    for model in sorted(models, key=lambda model: (model.kind, model.id)):
        table = to_table(model)
        files = table.pop("files")
        lines += ["", "[[model]]", *(f"{key} = {toml_value(value)}" for key, value in table.items())]
        lines += ["files = [", *(f"    {toml_value(file)}," for file in files), "]"]
    return "\n".join([*lines, ""])
