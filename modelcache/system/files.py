"""Reading, creating, copying and removing files on any Linux file system; errors of the system as ours.

Network, FUSE and object file systems lack calls, and each refuses them with errnos of its own. So no errno decides
whether to try another way. The errno decides the error message when the last way has failed.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from modelcache.core.errors import StorageError, UsageError
from modelcache.core.text import escape, size_in_words
from modelcache.core.types import LARGEST_TEXT
from modelcache.system.limits import limit_behind, limit_error
from modelcache.system.remove_tree import remove_tree

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CHUNK = 1 << 20
_READS = 9
_LONGEST_PATH = 2048
_HASHED_AT_ONCE = 1 << 18
_T = TypeVar("_T")

# Nothing is there, or a directory, a link, a socket, a huge file.
_NOT_OURS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG}

WRITES_NOTHING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Errnos of a volume that takes nothing more, whichever way it is asked."""

_HINTS = {
    errno.ENOSPC: "Free some space or inodes (df, df -i), or use a larger volume.",
    errno.EDQUOT: "Free some space, or ask for a larger quota.",
    errno.EROFS: "Mount the volume read-write for this step, or choose another {place}.",
    errno.EACCES: "Run as the owner of the directory, set fsGroup, or choose another {place}.",
    errno.EPERM: "This user, or this file system, may not do that: run as the owner, or choose another {place}.",
    errno.EXDEV: "The file system does not move this, as overlayfs moves no directory of a lower image layer: fetch "
    "and publish in one RUN, or choose another {place}.",
    errno.ENOTDIR: "A file stands where a directory should be; move it away.",
    errno.EEXIST: "Something else has this name already; move it away.",
    errno.ELOOP: "A link stands where a file of this tool belongs; remove it.",
    errno.ESPIPE: "This file system cannot write at an offset in a file, as a download does; choose another {place}.",
    errno.EAGAIN: "Raise the limit of processes (pids.max of the container, or ulimit -u).",
    errno.EFBIG: "Raise the limit of this process or of the file system, or use another volume.",
}
_HINT = "Check the volume, then run this again: the bytes that arrived are kept."
_HINT_FOR_A_FILE = "Check the directory and the volume, or choose another {place}."


@contextmanager
def storage_errors(doing: str, *, shared: str = "", place: str = "--root") -> Iterator[None]:
    """Raise errors of the operating system as errors of this tool; `doing` completes "cannot …".

    `shared` is the same without the model, for a failure that several models may meet at one volume. `place` is the
    option that decides where that is done; hints name it.

    Raises:
        LimitError: for too little memory, or too few descriptors or processes.
        StorageError: for any other OSError.

    """
    try:
        yield
    except MemoryError as error:
        raise limit_error(errno.ENOMEM, doing) from error
    except OSError as error:
        if limit := limit_behind(error, doing):
            raise limit from error
        names = [escape(str(name)) for name in (error.filename, error.filename2) if name]
        where = f": {' -> '.join(names)}" if names else ""
        reason = f"{error.strerror or error}{where}"
        common = error.strerror if error.errno in WRITES_NOTHING else reason  # of a full volume the path says nothing
        cause = f"cannot {shared}: {common}" if shared else ""
        hint = _HINTS.get(error.errno or 0, _HINT if place == "--root" else _HINT_FOR_A_FILE).format(place=place)
        raise StorageError(f"cannot {doing}: {reason}", hint=hint, cause=cause) from error
    except UnicodeEncodeError as error:
        raise StorageError(f"cannot {doing}: {error}", hint="Set a UTF-8 locale, as LANG=C.UTF-8.") from error


def retry_if_replaced(read: Callable[[], _T]) -> _T:
    """Retry a read that lost a race with publish (ENOENT)."""
    for _ in range(_READS):
        with suppress(FileNotFoundError):
            return read()
    return read()


def absolute(path: str | Path) -> Path:
    """Return an absolute path without `..`; a relative one is refused where the current directory has been removed.

    A shell leaves the `~` of `--root=~/models` and of an env file to the program.
    """
    try:
        return _without_parents(Path(os.path.expanduser(path)).absolute())
    except OSError as error:
        hint = "Change to a directory that exists, or give absolute paths."
        raise UsageError(f"{path} is relative, and there is no current directory", hint=hint) from error


def _without_parents(path: Path) -> Path:
    """Return a path without `..`, as the kernel follows it: behind a link, `..` is not the directory before it."""
    if ".." not in path.parts:
        return path
    count = len(path.parts) - path.parts[::-1].index("..")
    climbed, rest = Path(*path.parts[:count]), path.parts[count:]
    plain = Path(os.path.normpath(climbed))
    same = os.path.realpath(plain) == os.path.realpath(climbed)
    return (plain if same else Path(os.path.realpath(climbed))).joinpath(*rest)


def read_bytes(path: Path, *, limit: int = LARGEST_TEXT) -> bytes | None:
    """Return the content of a file that a user gives us, of at most `limit` bytes; None if there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if lack := limit_behind(error, f"read {path}"):
            raise lack from error
        hint = f"Check that it is a file, and that uid {os.geteuid()} may read it."
        if isinstance(error, IsADirectoryError):
            hint = "A file belongs there. Docker makes a directory where a bind mount names a file that does not exist."
        raise UsageError(f"{absolute(path)} cannot be read: {error.strerror}", hint=hint) from error
    if len(content) > limit:
        raise UsageError(
            f"{absolute(path)} has more than {size_in_words(limit)}",
            hint="Check what it is; no such file is that large.",
        )
    return content


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, unbuffered: follow no link, wait for no pipe; OSError for a directory."""
    return open(path, "rb", buffering=0, opener=_open_plain)


def read_own(path: Path, *, limit: int = LARGEST_TEXT) -> bytes:
    """Return a small file of ours from a directory that others may write: follow no link, wait for no pipe.

    A file that is larger than `limit` fails with EFBIG.
    """
    with open(path, "rb", opener=_open_plain) as file:
        content = file.read(limit + 1) or b""
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_own_if_there(path: Path, *, limit: int = LARGEST_TEXT) -> bytes | None:
    """Return a small file of ours, see `read_own`; None where none is, or a thing that this tool never writes there.

    OSError if it may be there and cannot be read now.
    """
    try:
        return read_own(path, limit=limit)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return None
        raise


def is_plain_file(path: Path, size: int | None = None, *, start: int = 0, follow: bool = True) -> bool:
    """Whether this is a plain file, of that size if one is given; links of the HF cache count as their targets.

    With `start`, whether it has as many bytes behind that position, as an archive that holds a file of this size.
    """
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError:
        return False
    fits = size in (None, status.st_size) if not start else status.st_size >= start + (size or 0)
    return stat.S_ISREG(status.st_mode) and fits


def sha256_of(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """Hash one file, in flat memory; `advance` is called with the number of bytes after each read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASHED_AT_ONCE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if advance:
                advance(count)
    return digest.hexdigest()


def walk(directory: Path, *, skip: Sequence[type[OSError]] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the POSIX path and the stat of everything below a directory; links are not followed.

    A directory is not read if its path is longer than that of any file of a model. With `skip` it counts as empty where
    reading it fails with one of these.
    """
    folders = [""]
    for folder in folders:
        with suppress(*skip), os.scandir(directory / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) and len(os.fsencode(path)) <= _LONGEST_PATH:
                    folders.append(path)


def create_file(path: Path, flags: int = os.O_WRONLY | os.O_EXCL) -> int:
    """Create a file of ours, or open it with other flags; any user may read it, only we may write it."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    set_mode(fd, 0o644)
    return fd


def write_file(path: Path, content: bytes) -> os.stat_result:
    """Create a small file of ours, which must be new; return its stat."""
    with open(create_file(path), "wb") as file:
        file.write(content)
        file.flush()
        return os.fstat(file.fileno())


def set_mode(fd: int, mode: int, *, group: int = -1) -> None:
    """Set mode and group of an open file of ours where they differ; a file system without them is left as it is."""
    found = os.fstat(fd)
    with suppress(OSError):
        if group not in (-1, found.st_gid):
            os.fchown(fd, -1, group)
    with suppress(OSError):
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(fd, mode)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file that is never written again; copy it where links are refused, or where it is not ours.

    A link keeps its owner, who may change the file after we publish it. A file is ours if it belongs to the owner of
    the directory that we made for it: a file system may show another owner than the user of this process.
    """
    if source.lstat().st_uid == target.parent.stat().st_uid:
        with suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            return
    copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a plain file to a new file of ours."""
    with open(source, "rb", opener=_open_plain) as read, open(create_file(target), "wb") as written:
        for _ in copy_range(read.fileno(), written.fileno(), 0, os.fstat(read.fileno()).st_size):
            pass


def copy_range(
    source: int, target: int, start: int, end: int, *, base: int = 0, append: bool = False
) -> Iterator[tuple[int, int]]:
    """Copy bytes between open files, as clones where possible; yield each range that is copied.

    Positions in the source count from `base`. The target gets the bytes at the same positions; with `append` at its
    own.
    """
    kernel = hasattr(os, "copy_file_range")
    while start < end:
        count = min(end - start, 64 * _CHUNK)
        done = 0
        if kernel:
            with suppress(OSError):
                done = os.copy_file_range(source, target, count, base + start, None if append else start)
            kernel = done > 0  # some file systems answer 0 where they mean that they cannot
        if not done:
            data = os.pread(source, min(count, _CHUNK), base + start)
            done = os.write(target, data) if append else os.pwrite(target, data, start)
        if not done:
            return  # the source is shorter than expected
        yield start, start + done
        start += done


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2, Linux 3.15); False, with nothing changed, where that is refused."""
    rename = getattr(libc(), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def discard(path: Path) -> None:
    """Remove a file, a link or a directory; the name goes first, so that no reader finds half a directory."""
    grave = path.with_name(f".gone~{secrets.token_hex(8)}")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if grave.is_dir() and not grave.is_symlink():
        remove_tree(grave)
    else:
        with suppress(OSError):
            grave.unlink()


def _open_plain(path: str, flags: int) -> int:
    """Open without following a link or waiting for a pipe; `open` closes it if it is a directory."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@cache
def libc() -> ctypes.CDLL:
    """Return the C library, for the calls that `os` does not have."""
    return ctypes.CDLL(None, use_errno=True)
