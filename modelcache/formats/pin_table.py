"""A pinned model as a plain table, the form that models.lock and the receipts share.

A key here is a part of the receipt: a model whose receipt changes is published anew, and its image layer changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from modelcache.core.errors import CacheModelsError
from modelcache.core.file_patterns import PATTERN_KEYS, matches, problem_with_pattern
from modelcache.core.file_types import OTHER_WEIGHTS, ending_of, is_code, is_named_as_pickle
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import is_id
from modelcache.core.names import (
    plain_licence,
    problem_with_id,
    problem_with_path,
    problem_with_revision,
    refuse_unsafe_paths,
)
from modelcache.core.types import LockedFile, LockedModel, Made, Original, Pooling, RemoteCode, set_digest

E = TypeVar("E", bound=StrEnum)

_path = attrgetter("path")

_HEX40 = re.compile(r"[0-9a-f]{40}")
_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_KEYS = {"set_digest", *(field.name for field in fields(LockedModel))}


def to_table(model: LockedModel) -> dict[str, Any]:
    """Return the table of a model: sorted, without dates, and with nothing that depends on this machine."""
    table: dict[str, Any] = {"kind": str(model.kind), "id": model.id}
    if not model.from_directory:
        table |= {"revision": model.revision, "commit": model.commit}
    if model.licence:
        table["licence"] = model.licence
    if model.gated:
        table["gated"] = True
    if model.remote_code is not RemoteCode.NONE:
        table["remote_code"] = str(model.remote_code)
    if model.packages:
        table["packages"] = list(model.packages)
    if model.pooling:
        table |= {"pooling": str(model.pooling), "normalize": model.normalize}
    table |= {key: list(names) for key in (*PATTERN_KEYS, "pickles") if (names := getattr(model, key))}
    table["set_digest"] = set_digest(model.files)
    table["files"] = [_file_entry(file) for file in sorted(model.files, key=_path)]
    return table


def from_table(table: Mapping[str, Any]) -> LockedModel:
    """Turn a table into a model; every value of it is checked, and ValueError names the problem in one line."""
    if not isinstance(table, Mapping):
        raise ValueError("a model is not a table")
    if unknown := sorted(set(table) - _KEYS):
        raise ValueError(f"unknown key {unknown[0]!r} (written by a newer version?)")
    try:
        kind = _enum_value(Kind, table, "kind")
        model = LockedModel(
            kind=kind,
            id=_string(table, "id"),
            revision=_string(table, "revision", "main"),
            commit=_string(table, "commit", ""),
            licence=_string(table, "licence", ""),
            gated=_boolean(table, "gated"),
            remote_code=_enum_value(RemoteCode, table, "remote_code", RemoteCode.NONE),
            packages=_packages(table.get("packages", [])),
            pooling=_enum_value(Pooling, table, "pooling") if "pooling" in table else None,
            normalize=_boolean(table, "normalize"),
            include=_patterns(table, "include"),
            exclude=_patterns(table, "exclude"),
            pickles=tuple(sorted(_strings(table, "pickles"))),
            files=tuple(sorted((_locked_file(entry) for entry in table["files"]), key=_path)),
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from None
    except TypeError:
        raise ValueError("a value has the wrong type") from None
    if problem := problem_with_id(model.id, kind) or problem_with_revision(model.revision):
        raise ValueError(problem)
    if model.commit and not _HEX40.fullmatch(model.commit):
        raise ValueError(f"{model.id}: commit {model.commit!r} is not 40 hex digits")
    if model.licence != plain_licence(model.licence):
        raise ValueError(f"{model.id}: licence is not a short name")
    if model.normalize and not model.pooling:
        raise ValueError(f"{model.id}: normalize is not true or false beside pooling")
    if not model.files:
        raise ValueError(f"{model.id}: no files")
    try:
        refuse_unsafe_paths(model.id, (file.path for file in model.files))
    except CacheModelsError as error:
        raise ValueError(error.message) from None
    if problem := _without_permission(model):
        raise ValueError(f"{model.id}: {problem}")
    if table.get("set_digest") != set_digest(model.files):
        raise ValueError(f"{model.id}: set_digest does not fit its files; it was edited or merged by hand")
    return model


def _without_permission(model: LockedModel) -> str | None:
    """Say which file the table of a model does not allow: code, a pickle, or weights that no loader opens."""
    paths = [file.path for file in model.files]
    if lost := set(model.pickles).difference(paths):
        return f"{min(lost)} is listed as a pickle, and is not among its files"
    for path in paths:
        named = model.kind is Kind.OTHER or matches(path, model.include)
        if is_code(path) and model.remote_code is not RemoteCode.VENDORED and not named:
            return f"{path} is code, and remote_code does not say that it is vendored"
        if ending_of(path) in OTHER_WEIGHTS and not named:
            return f"{path} is never published unless include names it: weights are safetensors"
        if is_named_as_pickle(path) and path not in model.pickles:
            return f"{path} is a pickle, and is not listed as one that was read"
    return None


def _file_entry(file: LockedFile) -> dict[str, Any]:
    """Return the entry of a file; `from` only for one that is derived, or from another repository."""
    entry: dict[str, Any] = {"path": file.path, "size": file.size, "sha256": file.sha256}
    if file.made:
        entry["made"] = str(file.made)
    if (original := file.original) and file.made:
        entry["from"] = {"path": original.path, "size": original.size, "sha256": original.sha256}
    elif original:
        entry["from"] = {"repository": original.repository, "commit": original.commit}
    return entry


def _locked_file(entry: Mapping[str, Any]) -> LockedFile:
    if not isinstance(entry, Mapping):
        raise TypeError
    if not {"path", "size", "sha256"} <= set(entry) <= {"path", "size", "sha256", "made", "from"}:
        raise ValueError(f"a file has {', '.join(sorted(entry))} instead of path, size and sha256")
    path, size, sha256 = _string(entry, "path"), entry["size"], _string(entry, "sha256")
    made = _enum_value(Made, entry, "made") if "made" in entry else None
    original = None
    match made, entry.get("from"):
        case None | Made.WRITTEN, None:
            pass
        case None, {"repository": str(repository), "commit": str(commit), **rest} if not rest:
            if not is_id(repository):
                raise ValueError(f"{path}: {repository!r} is not a repository id")
            if not _HEX40.fullmatch(commit):
                raise ValueError(f"{path}: commit {commit!r} is not 40 hex digits")
            original = Original(path, size, sha256, repository, commit)
        case Made.REWRITTEN | Made.CONVERTED, {"path": str(source), "size": length, "sha256": str(digest), **rest} if (
            not rest
        ):
            if problem := problem_with_path(source):
                raise ValueError(f"{path}: its original {source!r} {problem}")
            original = Original(source, length, digest)
        case _:
            raise ValueError(f"{path}: `from` does not say what it is {made or 'copied'} from")
    return LockedFile(path, size, sha256, made, original)


def _packages(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and _PACKAGE.fullmatch(name) for name in names):
        raise ValueError("packages are not names that Python imports")
    return tuple(sorted(names))


def _patterns(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    patterns = _strings(table, key)
    if problems := [problem for pattern in patterns if (problem := problem_with_pattern(pattern))]:
        raise ValueError(f"a pattern of {key} {problems[0]}")
    return tuple(patterns)


def _strings(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key} is not a list of strings")
    return value


def _boolean(table: Mapping[str, Any], key: str) -> bool:
    if type(value := table.get(key, False)) is not bool:
        raise ValueError(f"{key} must be true or false, not {value!r}")
    return value


def _enum_value(kind: type[E], table: Mapping[str, Any], key: str, default: E | None = None) -> E:
    value = _string(table, key, default)
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{key} must be one of {', '.join(kind)}, not {value!r}") from None


def _string(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table[key] if default is None else table.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, not {value!r}")
    return value
