"""The quiet path's note: what to look at to know, in milliseconds, that nothing is to be done.

One file in the root, keyed by what manifest and lock say. It holds each file's size, mtime and ctime, and each
directory's mtime: whoever writes, replaces, adds or removes a file moves one of them. Standard library only, and
little of that: this module is all that a second start imports.
"""

from __future__ import annotations

import hashlib
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STAMP_NAME = ".cache-models.stamp"
_UNFINISHED = f"{STAMP_NAME}.new"
_FORMAT = 1
_LARGEST = 8 << 20

Facts = dict[str, list[int]]


def key_of(manifest: bytes, lock: bytes | None, *, locked: bool) -> str:
    """Return the key of a run: what is wanted, what is pinned, and whether the pin was demanded."""
    state = b"unlocked" if lock is None else b"locked " + lock
    return hashlib.sha256(b"%d %d %d %b%b" % (_FORMAT, locked, len(manifest), manifest, state)).hexdigest()


def models_in_place(root: str, key: str) -> int | None:
    """Return how many models are there when everything is as the stamp says, else None."""
    note = read_stamp(root)
    if note is None or note["key"] != key:
        return None
    try:
        if os.path.lexists(os.path.join(root, _UNFINISHED)):
            return None  # of a run that is still writing, or was killed at it: then the long way clears it away
        for collection in {path.partition("/")[0] for path in note["facts"]}:
            if os.path.lexists(os.path.join(root, collection, ".cache-models")):
                return None  # somebody is at work, or died at it and left something to clear away
        for path, fact in note["facts"].items():
            if facts_of(os.path.join(root, path)) != fact:
                return None
        return int(note["models"])
    except (OSError, ValueError, TypeError, AttributeError):  # any doubt takes the long way
        return None


def facts_of(path: str) -> list[int]:
    """Return what changes when a file or a directory does."""
    found = os.stat(path, follow_symlinks=False)
    if found.st_mode & 0o170000 == 0o040000:
        return [found.st_mtime_ns]  # a directory's ctime and size change for reasons of their own
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def read_stamp(root: str) -> dict[str, Any] | None:
    """Read the stamp of a root; None where there is none that can be understood."""
    try:
        # Others may write where it lies: no link is followed, no pipe waited for, no end read.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(os.path.join(root, STAMP_NAME), flags), "rb") as file:
            note = json.loads(file.read(_LARGEST) or b"")
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) and {"key", "models", "facts"} <= note.keys() else None


def write_stamp(root: str, key: str, models: int, facts: Facts) -> None:
    """Note what is there; a root that cannot be written goes without, and is looked at more closely next time."""
    from contextlib import suppress  # not for the quiet path

    path = os.path.join(root, STAMP_NAME)
    # One name for all runs: the file may change hands, but what is cut short is no stamp, and is looked for above.
    beside = os.path.join(root, _UNFINISHED)
    try:
        for name in os.listdir(root):
            if name.startswith(f"{STAMP_NAME}."):  # of a run that was killed here
                os.unlink(os.path.join(root, name))
        with open(beside, "x") as file:
            json.dump({"key": key, "models": models, "facts": facts}, file)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
