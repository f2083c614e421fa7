"""Pins of models made of files that a test writes down, and the reading of these files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from modelcache.resolver.inputs import Read


def pin(
    files: Mapping[str, bytes], converted: Collection[str] = (), kind: Kind = Kind.EMBEDDING, **more: Any
) -> LockedModel:
    """Return the pin of a model with these files; those in `converted` were made from a pickle."""
    made = []
    for path, content in sorted(files.items()):
        sha256 = hashlib.sha256(content).hexdigest()
        pickle = Original("pytorch_model.bin", 9, "9" * 64) if path in converted else None
        made.append(LockedFile(path, len(content), sha256, Made.CONVERTED if pickle else None, pickle))
    return LockedModel(kind, "owner/name", "main", "c" * 40, tuple(made), **more)


def reader(files: Mapping[str, bytes]) -> Read:
    """Return the function that reads them."""
    return lambda file: files.get(file.path)


def unread(file: LockedFile) -> None:
    """Read nothing: the file is not at hand."""
