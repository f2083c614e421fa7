"""Bytes and names that a power cut must not lose: flushed to disk, as far as the file system can."""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

from modelcache.system.files import libc

_SYNC_FILE_RANGE_WRITE = 2
_WRITEBACK = 8 << 20
# A file system that has no fsync for files. Any other errno may mean that bytes were lost.
_NO_FSYNC = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES}


def pwrite_all(fd: int, content: bytes | memoryview, position: int) -> None:
    """Write bytes at a position, however few the kernel takes at a time; begin to flush what has come together."""
    left, at = memoryview(content), position
    while left:
        done = os.pwrite(fd, left, at)
        left, at = left[done:], at + done
    begin, end = (one // _WRITEBACK * _WRITEBACK for one in (position, at))
    if begin < end:
        start_writeback(fd, begin, end)


def flush(fd: int) -> None:
    """Make the bytes of a file durable, where its file system can."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def start_writeback(fd: int, start: int, end: int) -> None:
    """Ask the kernel to start writing these bytes to disk, so that an fsync at the end finds little to do."""
    begin = getattr(libc(), "sync_file_range", None)
    if begin is not None:
        begin(fd, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE)  # a hint: it may fail


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the file system can."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
