"""Directories below a root: who may write them, and how a finished one is made ready for publishing.

No umask decides a mode below a root. Files are created with 0644 and directories with 0755 or less, so that other
users can never write into a model that will be published. If a directory is writable for a group, the directories that
we make in it are writable for that group: another user of it can replace, take over and remove our files. A sticky
directory, such as /tmp, keeps its users from each other's files, so we share nothing in it.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from modelcache.core.errors import StorageError
from modelcache.system.durable import flush
from modelcache.system.files import WRITES_NOTHING, set_mode, walk
from modelcache.system.threads import Pool

# One thread makes a directory and shares it before another makes one in it.
_MAKING = threading.Lock()
_PARALLEL_FSYNCS = 4


def make_directory(path: Path, *, mode: int = 0o755, above: Path | None = None) -> None:
    """Create a directory, writable also for the group that may write `above` (its parent), whatever the umask.

    If something has that name already, its mode is left alone.
    """
    path.mkdir(mode)
    _share(path, above or path.parent, mode)


def make_below(top: Path | None, path: Path) -> None:
    """Create a directory and its missing parents, as far as they are below `top` where that is given.

    It fails if `top` is gone: it was removed on purpose.
    """
    missing = []
    while path != top and not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            make_directory(folder, above=top)  # another thread may have made the parent, and not shared it yet


def make_state_directory(path: Path) -> None:
    """Create the working directory of a collection; another process may remove it at once.

    An existing one gets the mode of a new one: an older version of this tool let the umask decide it. One that another
    user of the group has made, and was killed before it was shared, is empty: it is made anew.
    """
    with _MAKING:
        make_below(None, path.parent)
        if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
            with suppress(OSError):
                path.rmdir()
        with suppress(FileExistsError):  # exist_ok of pathlib fails if it has been removed since
            path.mkdir(0o755)
        _share(path, path.parent, 0o755)


def finalize_tree(tree: Path, *, owner: int, mtime: int) -> None:
    """Prepare a tree for publishing: readable by any user, one mtime, flushed to disk.

    A file system may refuse modes or times, as some network and FAT volumes do. A file of another user than `owner`
    is a StorageError: its owner could change it at any time.
    """
    above = tree.parent.stat()
    paths = [str(tree), *(str(tree / path) for path, _ in walk(tree))]
    # In parallel, because a journal writes several concurrent fsyncs at once.
    with Pool(_PARALLEL_FSYNCS, "fsync") as pool:
        list(pool.map(lambda path: _finalize(path, above, owner, mtime), paths))


def _finalize(path: str, above: os.stat_result, owner: int, mtime: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != owner:
            raise StorageError(
                f"{path} was put there by another user (uid {found.st_uid})",
                hint="Run this again; if it happens again, find out who else writes to this volume.",
            )
        is_directory = stat.S_ISDIR(found.st_mode)
        mode = _shared_mode(fd, above) if is_directory else 0o644
        for set_attribute in (partial(os.fchmod, fd, mode), partial(os.utime, fd, (mtime, mtime))):
            try:
                set_attribute()
            except OSError as error:
                if error.errno in WRITES_NOTHING:
                    raise
        with suppress(OSError) if is_directory else nullcontext():
            flush(fd)
    finally:
        os.close(fd)


def _share(path: Path, above: Path, mode: int) -> None:
    """Set the mode of a directory of ours, and its group if the group may write `above`."""
    with suppress(OSError):  # another user owns it, or it is gone
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            set_mode(fd, _shared_mode(fd, above.stat(), mode))
        finally:
            os.close(fd)


def _shared_mode(fd: int, above: os.stat_result, mode: int = 0o755) -> int:
    """Set the group of an open directory to the one that may write `above`; return a mode with that group's rights.

    Without such a group, or if we are not in it, only we may write the directory.
    """
    if not above.st_mode & stat.S_IWGRP or above.st_mode & stat.S_ISVTX:
        return mode
    with suppress(OSError):
        if os.fstat(fd).st_gid != above.st_gid:
            os.fchown(fd, -1, above.st_gid)
    if os.fstat(fd).st_gid != above.st_gid:
        return mode
    return mode | (mode & stat.S_IRWXU) >> 3 | above.st_mode & stat.S_ISGID
