"""Mark damage that a command has found, so that the next `sync` reads the files and does not believe their times.

`sync` believes a file whose facts are in the stamp, and one that has the mtime of all published files. So it would call
a model unchanged in which `verify` has just found other bytes. Every command that finds a difference therefore takes
both reasons away: the stamp forgets the model, and a file with other bytes gets another mtime. The mtime belongs to
the file itself: it holds with any stamp and with none, for a run with ids, for a program, and in a copy of the root.
Only the owner of a file may touch it; another user of a group that may write to the root notes in the stamp that the
file has to be read. Bytes, names and sizes stay as they are, and a server that has the file mapped notices nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.names import PUBLISHED_MTIME
from modelcache.stamp import invalidate_stamp


def mark_damaged(home: Path, changed_files: Sequence[str] = ()) -> bool:
    """Make the next `sync` inspect a model; `changed_files` have the pinned sizes and other bytes.

    False where this user may write neither to the files nor beside the stamp.
    """
    untouched = [path for path in changed_files if not _touch(home / path)]
    if invalidate_stamp(str(home.parent.parent), f"{home.parent.name}/{home.name}", untouched):
        return True
    return not untouched and _touch(home)


def mark_damaged_with_hint(home: Path, changed_files: Sequence[str] = ()) -> str:
    """Make the next `sync` inspect a model that differs, and return the hint for its repair."""
    if not os.path.lexists(home) or mark_damaged(home, changed_files):
        return "Run `python cache_models.py sync` to fetch it again."
    return (
        f"{home} cannot be changed here. As its owner, and where it can be written,"
        " run `python cache_models.py verify`, then `python cache_models.py sync`."
    )


def _touch(path: Path) -> bool:
    """Take the mtime of published files away; True where the file no longer has it."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)
    try:
        return path.lstat().st_mtime_ns != PUBLISHED_MTIME * 10**9
    except OSError:
        return False
