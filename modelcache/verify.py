"""A model directory against its pin: every byte, or sizes alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import read_own, walk
from modelcache.layout import RECEIPT_NAME
from modelcache.receipt import format_receipt
from modelcache.records import LARGEST_TEXT, Changed, LockedFile, LockedModel, Verification


def verify(directory: Path, model: LockedModel, *, quick: bool = False, pool: Executor | None = None) -> Verification:
    """Compare a directory with its pin; `quick` looks at names and sizes only. `pool` hashes for several at a time.

    Symlinks, unknown files and unknown directories count as extra: a model directory holds what the pin names
    and the receipt, and nothing else.
    """
    there = dict(walk(directory)) if directory.is_dir() else {}
    receipt = there.pop(RECEIPT_NAME, None)
    expected = {file.path: file for file in model.files}
    folders = {parent for path in expected for parent in _above(path)}
    present = [file for path, file in expected.items() if path in there and stat.S_ISREG(there[path].st_mode)]
    spread = pool.map if pool else map
    compared = spread(lambda file: _compare(directory, file, there[file.path].st_size, quick), present)
    changed = [difference for difference in compared if difference]
    if receipt is not None and _content(directory / RECEIPT_NAME, receipt) != format_receipt(model):
        changed.append(Changed(RECEIPT_NAME, "the receipt of this version", "another"))
    missing = set(expected) - {file.path for file in present}
    if receipt is None:
        missing.add(RECEIPT_NAME)
    extra = set(there) - {file.path for file in present} - {f for f in folders & set(there) if _is_directory(there[f])}
    return Verification(tuple(sorted(missing)), tuple(sorted(extra)), tuple(sorted(changed, key=lambda c: c.path)))


def foreign_files(found: Verification) -> list[str]:
    """Return what lies in a directory without a receipt and is no file of the pin: somebody else's, perhaps."""
    return [path for path in (*found.extra, *(one.path for one in found.changed)) if path != RECEIPT_NAME]


def _is_directory(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode)


def _compare(directory: Path, file: LockedFile, size: int, quick: bool) -> Changed | None:
    if size != file.size:
        return Changed(file.path, f"{file.size} bytes", f"{size} bytes")
    found = file.sha256 if quick else sha256_of(directory / file.path)
    return None if found == file.sha256 else Changed(file.path, f"{file.sha256[:12]}…", f"{found[:12]}…")


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _content(path: Path, found: os.stat_result) -> bytes:
    """Return what a plain file says; nothing where it is none, is too large for a receipt, or has gone meanwhile."""
    with suppress(FileNotFoundError):
        return read_own(path) if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST_TEXT else b""
    return b""
