"""Compare a model directory with its pin: by stat (`inspect`), or every byte (`verify`); mark one that differs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from modelcache.core.errors import IntegrityError, OccupiedError
from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.core.text import escape
from modelcache.core.types import Changed, LockedFile, LockedModel, Verification
from modelcache.formats.receipt import format_receipt, parse_receipt
from modelcache.stamp import Facts, facts_in, facts_in_stamp, has_changed, invalidate_stamp
from modelcache.store.layout import read_receipt, receipt_bytes
from modelcache.system.files import sha256_of, walk

OTHER_VERSION = "another version is there"


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of one walk through a model directory and one reading of its receipt."""

    difference: str | None
    """Why it does not hold the pinned version; None when it does, empty when nothing is there."""
    verification: Verification
    """Of names and sizes, and, under the receipt of the pinned version, of the bytes that neither stamp nor mtime
    vouches for."""
    reusable: frozenset[str]
    """SHA-256 of the files that the next version can be made from."""
    facts: Facts
    """Of the directory and of everything in it, by path within the root, as they were before any byte was read."""


def inspect(home: Path, model: LockedModel, stamped: Facts | None = None) -> Inspection:
    """Compare a directory with its pin, and read only the files that look touched.

    A file is believed without being read when the stamp's facts still fit it (`stamped`, by path within the
    model) or, for a file that the stamp does not know, when its mtime is the one all files are published with.
    Any other file is hashed: a copied volume or a file system without times costs one reading, no fetching.
    """
    tree = _Tree.at(home)
    published, found = parse_receipt(tree.receipt), _compare(tree, model)
    altered: list[Changed] = []
    difference: str | None = ""
    if tree.entries and published is None:
        difference = "it has no receipt"
    elif published is not None and format_receipt(published) != format_receipt(model):
        difference = OTHER_VERSION
    elif published is not None:
        altered = _with_other_bytes(tree, _touched(tree, model, stamped or {}))
        found = _add_changed(found, altered)
        difference = _summary(found)
    wrong = {changed.path for changed in altered}
    files = [file for file in published.files if file.path not in wrong and tree.has(file)] if published else []
    facts = {_in_root(home, path): facts_in(entry) for path, entry in tree.entries.items()}
    return Inspection(difference, found, frozenset(file.sha256 for file in files), facts)


def verify(
    home: Path, model: LockedModel, pool: Executor | None = None, advance: Callable[[int], object] | None = None
) -> Verification:
    """Compare a directory with its pin, every byte; `pool` hashes several files at a time, `advance` counts bytes.

    Symlinks, unknown files and unknown directories count as extra: a model directory holds the pinned files
    and the receipt, and nothing else.
    """
    tree = _Tree.at(home)
    return _add_changed(_compare(tree, model), _with_other_bytes(tree, filter(tree.has, model.files), pool, advance))


def compare_with_receipt(home: Path) -> tuple[LockedModel | None, Verification]:
    """Return the version that the receipt of a directory names, and how names and sizes differ from it."""
    tree = _Tree.at(home)
    published = parse_receipt(tree.receipt)
    return published, _compare(tree, published) if published else Verification(missing=("its receipt",))


def refuse_incomplete(tree: Path, model: LockedModel) -> None:
    """Refuse to publish a tree that is anything but the model's plain files and its receipt.

    Names and sizes are compared; the bytes were hashed as they were written.
    """
    found = _compare(_Tree.at(tree), model)
    if not found.ok:
        raise IntegrityError(f"{model.id} was not put together as pinned", verification=found, hint="Run it again.")


def refuse_foreign(home: Path, model: LockedModel) -> None:
    """Refuse to replace another model, or files that this tool did not write: their owner may have no other copy.

    A directory without a receipt may hold only files of this model.
    """
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise OccupiedError(f"{home} is not a directory", hint="Move it away or delete it, then run this again.")
    published = read_receipt(home)
    if published is not None and published.id != model.id:
        raise OccupiedError(
            f"{home} holds {published.id}, not {model.id}",
            hint="Cache them under different roots (--root), or move it away.",
        )
    if published is None and (foreign := foreign_files(verify(home, model))):
        raise OccupiedError(
            f"{home} was not written by this tool and holds other files ({', '.join(map(escape, foreign[:3]))})",
            hint="Move it away or delete it, then run this again.",
        )


def foreign_files(found: Verification) -> list[str]:
    """Return the paths in a directory without a receipt that are not pinned: this tool did not write them."""
    return [path for path in (*found.extra, *(changed.path for changed in found.changed)) if path != RECEIPT_NAME]


def mark_damaged(home: Path, changed_files: Sequence[str] = ()) -> bool:
    """Make the next `sync` inspect a model that differs; `changed_files` have the pinned sizes and other bytes.

    `inspect` would believe them for their facts in the stamp, or for their mtime; so both reasons are taken away: the
    stamp forgets the model, and the files get another mtime. The mtime belongs to the file itself: it holds with any
    stamp and with none, for a run with ids, for a program, and in a copy of the root. Only the owner of a file may
    touch it; another user of a group that may write to the root notes in the stamp that the file has to be read.
    Bytes, names and sizes stay as they are, and a server that has the file mapped notices nothing.

    False where this user may write neither to the files nor beside the stamp.
    """
    untouched = [path for path in changed_files if not _touch(home / path)]
    if invalidate_stamp(str(home.parent.parent), f"{home.parent.name}/{home.name}", untouched):
        return True
    return not untouched and _touch(home)


def mark_damaged_with_hint(home: Path, changed_files: Sequence[str] = ()) -> str:
    """Make the next `sync` inspect a model that differs, and return the hint for its repair."""
    if not os.path.lexists(home):
        return "Run `cache-models sync` to fetch it, or check --root (CACHE_MODELS_ROOT)."
    if mark_damaged(home, changed_files):
        return "Run `cache-models sync` to replace it."
    return (
        f"{home} cannot be changed here. As its owner, and where it can be written,"
        " run `cache-models verify`, then `cache-models sync`."
    )


def stamped_in(root: Path) -> Callable[[Path], Facts]:
    """Return a function from a model's directory to the facts that the stamp, read once, has of it."""
    return partial(facts_within, facts_in_stamp(str(root)))


def facts_within(facts: Facts, home: Path) -> Facts:
    """Return the facts of one model out of those of a root, by path within the model."""
    prefix = _in_root(home, "") + "/"
    return {path.removeprefix(prefix): fact for path, fact in facts.items() if path.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class _Tree:
    """A directory as one walk found it; `receipt` is read after the walk, so that no fact is newer than it."""

    home: Path
    entries: Mapping[str, os.stat_result]
    """By path; the directory itself has the empty path. None where no directory is."""
    receipt: bytes

    @classmethod
    def at(cls, home: Path) -> _Tree:
        if not home.is_dir():
            return cls(home, {}, b"")
        entries = {"": home.lstat(), **dict(walk(home))}
        receipt = entries.get(RECEIPT_NAME)
        return cls(home, entries, receipt_bytes(home) if receipt and stat.S_ISREG(receipt.st_mode) else b"")

    def size_of(self, file: LockedFile) -> int | None:
        """Return the size of a plain file; None where there is none under this name."""
        found = self.entries.get(file.path)
        return found.st_size if found and stat.S_ISREG(found.st_mode) else None

    def has(self, file: LockedFile) -> bool:
        """Whether a plain file of this name and size is there."""
        return self.size_of(file) == file.size


def _compare(tree: _Tree, model: LockedModel) -> Verification:
    """Compare names, sizes and the receipt."""
    sizes = {file: tree.size_of(file) for file in model.files}
    missing = {file.path for file, size in sizes.items() if size is None}
    changed = [
        Changed(file.path, file.size, size) for file, size in sizes.items() if size is not None and size != file.size
    ]
    if RECEIPT_NAME not in tree.entries:
        missing.add(RECEIPT_NAME)
    elif tree.receipt != format_receipt(model):
        changed.append(Changed(RECEIPT_NAME, "the receipt of this version", "another"))
    expected = {"", RECEIPT_NAME, *(file.path for file in model.files)} - missing
    folders = {str(parent) for file in model.files for parent in PurePosixPath(file.path).parents}
    extra = [
        path
        for path, found in tree.entries.items()
        if path not in expected and not (path in folders and stat.S_ISDIR(found.st_mode))
    ]
    return _add_changed(Verification(tuple(sorted(missing)), tuple(sorted(extra))), changed)


def _touched(tree: _Tree, model: LockedModel, stamped: Facts) -> Iterator[LockedFile]:
    """Yield the files for which neither the stamp nor, where it does not know them, their mtime vouches."""
    # Facts were noted of one version; under another receipt neither they nor the mtime say anything.
    noted = stamped.get(RECEIPT_NAME)
    other_receipt = noted is not None and has_changed(noted, facts_in(tree.entries[RECEIPT_NAME]))
    for file in filter(tree.has, model.files):
        facts, known = facts_in(tree.entries[file.path]), stamped.get(file.path)
        believed = not has_changed(known, facts) if known else facts[1] == PUBLISHED_MTIME * 10**9
        if other_receipt or not believed:
            yield file


def _with_other_bytes(
    tree: _Tree,
    files: Iterable[LockedFile],
    pool: Executor | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Changed]:
    """Return which of the files have other bytes than their pins."""
    files = list(files)
    digests = (pool.map if pool else map)(lambda file: sha256_of(tree.home / file.path, advance), files)
    return [
        Changed(file.path, file.sha256, found)
        for file, found in zip(files, digests, strict=True)
        if found != file.sha256
    ]


def _add_changed(found: Verification, more: Iterable[Changed]) -> Verification:
    return replace(found, changed=tuple(sorted((*found.changed, *more), key=lambda changed: changed.path)))


def _summary(found: Verification) -> str | None:
    wrong = [*found.missing, *found.extra, *(changed.path for changed in found.changed)]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{escape(wrong[0])} differs{more}" if wrong else None


def _in_root(home: Path, path: str) -> str:
    return f"{home.parent.name}/{home.name}/{path}".rstrip("/")


def _touch(path: Path) -> bool:
    """Take the mtime of published files away; True where the file no longer has it."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)
    try:
        return path.lstat().st_mtime_ns != PUBLISHED_MTIME * 10**9
    except OSError:
        return False
