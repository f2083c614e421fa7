"""New tables for models.toml: written at its end, so that every byte that its user has written stays.

Where a kind is an array (`embedding = [{id = "owner/name"}]`), TOML allows no table of that name below it. Then the
array gets another entry, from tomlkit, which knows where its comments and line ends are.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelcache.core.errors import ManifestError
from modelcache.core.file_patterns import PATTERN_KEYS
from modelcache.core.types import WantedModel
from modelcache.formats.manifest import parse_manifest
from modelcache.formats.toml import decode_text, parse_toml, toml_value


def table_text(model: WantedModel, newline: str = "\n") -> str:
    """Return the table of a model, as it is written at the end of models.toml."""
    lines = [f"[[{model.kind}]]", *(f"{key} = {toml_value(value)}" for key, value in _values(model).items()), ""]
    return newline.join(lines)


def with_tables(content: bytes | None, path: Path, models: Sequence[WantedModel]) -> str:
    """Return the text of a manifest with more models; None stands for a file that is not there.

    Raises:
        ManifestError: the manifest is wrong, or would be with these models; with every problem.

    """
    before = () if content is None else parse_manifest(content, path)
    text = decode_text(content or b"")
    for model in models:
        text = _with_model(text, model, path)
    after = parse_manifest(text.encode(), path)
    if Counter(map(_without_line, after)) != Counter(map(_without_line, (*before, *models))):
        raise _by_hand(path, models)
    mark = BOM_UTF8 if content and content.startswith(BOM_UTF8) else b""
    return mark.decode() + text


def _with_model(text: str, model: WantedModel, path: Path) -> str:
    """Return the text with one more model."""
    longer = _with_table(text, model)
    try:
        parse_toml(longer)
    except ValueError:  # a table cannot follow an array of its name
        from tomlkit.exceptions import TOMLKitError

        try:
            return _with_entry(text, model)
        except TOMLKitError as error:
            raise _by_hand(path, [model]) from error
    return longer


def _with_table(text: str, model: WantedModel) -> str:
    """Return the text with a table at its end, behind an empty line."""
    newline = "\r\n" if text.rpartition("\n")[0].endswith("\r") else "\n"
    if text and not text.endswith("\n"):
        text += newline
    empty = newline if text and not text.endswith(("\n\n", "\n\r\n")) else ""
    return f"{text}{empty}{table_text(model, newline)}"


def _with_entry(text: str, model: WantedModel) -> str:
    """Return the text with another entry in the array of a kind."""
    from tomlkit import dumps, inline_table, parse
    from tomlkit.items import Array

    document, entry = parse(text), inline_table()
    entry.update(_values(model))
    array = document[str(model.kind)]
    assert isinstance(array, Array)
    array.append(entry)
    return dumps(document)


def _values(model: WantedModel) -> dict[str, object]:
    """Return the keys of a model that are not as they are without being named."""
    values: dict[str, object] = {"id": model.id}
    if model.revision != "main":
        values["revision"] = model.revision
    if model.trust_remote_code is not None:
        values["trust_remote_code"] = model.trust_remote_code
    if model.allow_pickle:
        values["allow_pickle"] = True
    if model.pooling:
        values |= {"pooling": str(model.pooling), "normalize": model.normalize}
    values |= {key: list(patterns) for key in PATTERN_KEYS if (patterns := getattr(model, key))}
    return values


def _without_line(model: WantedModel) -> WantedModel:
    return replace(model, line=0)


def _by_hand(path: Path, models: Sequence[WantedModel]) -> ManifestError:
    tables = "; ".join(table_text(model, " ").strip() for model in models)
    return ManifestError(f"{path.name} is written in a way that this tool cannot add to", hint=f"Add by hand: {tables}")
