"""Damage that was found is not believed again: the next `sync` reads what a stamp, or its own mtime, would vouch for.

`sync` believes a file whose facts are in the stamp, and one that has the mtime of all published files. So it would call
a model unchanged in which `verify` has just found other bytes. Every command that finds a difference therefore takes
both reasons away: the stamp forgets the model, and a file with other bytes gets another mtime. The second is a fact of
the file itself: it holds for every stamp and for none, for a run with ids, for a program, and in a copy of the root.
Only the owner of a file may touch it; another user of a group that may write to the root notes in the stamp that the
file has to be read. Bytes, names and sizes stay as they are, and a server that has the file mapped notices nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.names import PUBLISHED_MTIME
from modelcache.stamp import void_stamp


def distrust(home: Path, other_bytes: Sequence[str] = ()) -> bool:
    """Make the next `sync` look at a model; `other_bytes` are its files whose bytes, and nothing else, are wrong.

    False where this user may write neither to the files nor beside the stamp.
    """
    distrusted = [path for path in other_bytes if not _touch(home / path)]
    if void_stamp(str(home.parent.parent), f"{home.parent.name}/{home.name}", distrusted):
        return True
    return not distrusted and _touch(home)


def distrust_with_hint(home: Path, other_bytes: Sequence[str] = ()) -> str:
    """Make the next `sync` look at a model that differs, and say what mends it."""
    if not os.path.lexists(home) or distrust(home, other_bytes):
        return "Run `python cache_models.py sync` to fetch it again."
    return (
        f"{home} cannot be changed here. As its owner, and where it can be written,"
        " run `python cache_models.py verify`, then `python cache_models.py sync`."
    )


def _touch(path: Path) -> bool:
    """Take away the mtime of published files; where a file system keeps no times, none has it."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)
    try:
        return path.lstat().st_mtime_ns != PUBLISHED_MTIME * 10**9
    except OSError:
        return False
