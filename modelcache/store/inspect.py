"""The fast look at a model directory: receipt, names, sizes, times. Only what looks touched is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_TEXT, Changed, LockedFile, LockedModel, Verification
from modelcache.formats.receipt import format_receipt
from modelcache.stamp import Facts, facts_in, facts_in_stamp, facts_of, has_changed
from modelcache.store.receipts import read_receipt
from modelcache.system.files import read_own, sha256_of, walk


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a directory does not hold a version; `wrong` are its files that cannot be used again."""

    reason: str
    wrong: frozenset[str] = frozenset()


def difference_of(home: Path, model: LockedModel, stamped: Facts | None = None) -> Difference | None:
    """Return how `home` differs from this version, or None; the reason is empty when nothing is there.

    A file is believed without being read when the stamp's facts still fit it (`stamped`, by path within the
    model) or, for a file that the stamp does not know, when its mtime is the one all files are published with.
    Any other file is hashed: a copied volume or a file system without times costs one reading, no fetching.
    """
    if not home.is_dir():
        return Difference("")
    if (there := read_receipt(home)) is None:
        return Difference("it has no receipt")
    if format_receipt(there) != format_receipt(model):
        return Difference("another version is there")
    found = verify(home, model, quick=True)
    wrong = [*found.missing, *found.extra, *(changed.path for changed in found.changed)]
    expected = {file.path: file.sha256 for file in model.files if file.path not in wrong}
    # Facts were noted of one version; under another receipt neither they nor the mtime say anything.
    noted = stamped.get(RECEIPT_NAME) if stamped else None
    other = noted is not None and has_changed(noted, facts_of(str(home / RECEIPT_NAME)))
    for path, sha256 in expected.items():
        facts = facts_of(str(home / path))
        known = stamped.get(path) if stamped else None
        believed = not has_changed(known, facts) if known else facts[1] == PUBLISHED_MTIME * 10**9
        if (other or not believed) and sha256_of(home / path) != sha256:
            wrong.append(path)
    if not wrong:
        return None
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Difference(f"{escape(wrong[0])} differs{more}", frozenset(wrong))


def compare(home: Path, model: LockedModel, stamped: Facts, *, quick: bool, pool: Executor) -> Verification:
    """Compare a directory with its pin: every byte, or with `quick` names, sizes and what looks touched."""
    if not quick:
        return verify(home, model, pool=pool)
    found, difference = verify(home, model, quick=True), difference_of(home, model, stamped)
    told = {*found.missing, *found.extra, *(changed.path for changed in found.changed)}
    touched = sorted(difference.wrong - told) if difference else []
    return replace(found, changed=(*found.changed, *(Changed(path, "its pinned bytes", "others") for path in touched)))


def facts_below(home: Path) -> Facts:
    """Return the facts of a model directory and of everything in it, by path within the root."""
    whole = {_in_root(home, ""): facts_of(str(home))}
    return whole | {_in_root(home, path): facts_in(found) for path, found in walk(home)}


def facts_within(facts: Facts, home: Path) -> Facts:
    """Return the facts of one model out of those of a root, by path within the model."""
    prefix = _in_root(home, "") + "/"
    return {path.removeprefix(prefix): fact for path, fact in facts.items() if path.startswith(prefix)}


def _in_root(home: Path, path: str) -> str:
    return f"{home.parent.name}/{home.name}/{path}".rstrip("/")


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


def stamped_in(root: Path) -> Callable[[Path], Facts]:
    """Return what the stamp, read once, knows of a model's directory, by path within it."""
    return partial(facts_within, facts_in_stamp(str(root)))
