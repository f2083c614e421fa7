"""Replacing a small file in one step: readers see the old content or the new one."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelcache.system.files import WRITES_NOTHING, set_mode


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file in one step. No-op if the content is unchanged.

    An existing file keeps its mode and group; a new one is as readable as the umask allows, and writable for its owner
    alone. A file that cannot be replaced, because it is a mount point or its directory is read-only, is overwritten.
    """
    path = path.resolve()  # a link stays one: ConfigMaps have them
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}"):  # leftovers of killed runs
        with suppress(OSError):
            leftover.unlink()
    old = path.read_bytes() if path.exists() else None
    if old == text.encode():
        return
    try:
        while not _replace(path, text.encode()):
            pass  # another run removed our temporary file as a leftover
    except OSError as error:
        if old is None or error.errno in WRITES_NOTHING - {errno.EROFS}:
            error.filename, error.filename2 = str(path), None  # no user knows the name of the new file
            raise
        _overwrite(path, text.encode(), old)


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock of a directory while a file in it is read, changed and written; yield whether it is held.

    Where there is no such directory, or its file system has no locks, nothing is held.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    held = False
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
            held = True
        yield held
    finally:
        os.close(fd)


def _replace(path: Path, content: bytes) -> bool:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            with suppress(OSError):  # there is none yet, or its group is not one of ours
                old = path.stat()
                set_mode(fd, stat.S_IMODE(old.st_mode) & 0o777, group=old.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name with nothing in it
        with suppress(FileNotFoundError):
            os.replace(temporary, path)
            return True
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _overwrite(path: Path, content: bytes, old: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        try:
            _write_whole(file.fileno(), content)
        except OSError:
            with suppress(OSError):
                _write_whole(file.fileno(), old)
            raise


def _write_whole(fd: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], done)
    os.ftruncate(fd, len(content))
    os.fsync(fd)
