"""What Linux file systems can do that Python does not wrap: swap two names, clone files, sync a tree."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from modelcache.errors import StorageError, UsageError
from modelcache.limits import limit_behind, out_of_memory
from modelcache.records import LARGEST_TEXT
from modelcache.threads import Pool
from modelcache.trees import remove_tree

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
_SYNCS = 4
_CHUNK = 1 << 20
_LOOKS = 9
_LONGEST_PATH = 2048
_Seen = TypeVar("_Seen")

# What a file system answers that has no such call, or refuses it for these two names.
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES}

_HINTS = {
    errno.ENOSPC: "Free some space or inodes (df, df -i), or use a larger volume.",
    errno.EDQUOT: "Free some space, or ask for a larger quota.",
    errno.EROFS: "Mount the volume read-write for this step, or choose another --root.",
    errno.EACCES: "Run as the owner of the directory, set fsGroup, or choose another --root.",
    errno.EPERM: "Run as the owner of the directory, set fsGroup, or choose another --root.",
    errno.EXDEV: "The model lies in a lower image layer or on another volume; fetch and publish in one RUN.",
    errno.ENOTDIR: "A file stands where a directory should be; move it away.",
    errno.EEXIST: "A file stands where a directory should be; move it away.",
    errno.ELOOP: "A link stands where a file of this tool belongs; remove it.",
    errno.EAGAIN: "Raise the limit of processes (pids.max of the container, or ulimit -u).",
    errno.EFBIG: "Raise the limit of this process or of the file system, or use another volume.",
}
_HINT = "Check the volume, then run this again: what has arrived is kept."


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into ours; `doing` completes "cannot …".

    Raises:
        LimitError: for too little memory, or too few descriptors or processes.
        StorageError: for any other OSError that is not one of ours already.

    """
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(doing) from error
    except OSError as error:
        if limit := limit_behind(error, doing):
            raise limit from error
        where = f": {error.filename}" if error.filename else ""
        raise StorageError(
            f"cannot {doing}: {error.strerror or error}{where}", hint=_HINTS.get(error.errno or 0, _HINT)
        ) from error
    except UnicodeError as error:
        raise StorageError(f"cannot {doing}: {error}", hint="Set a UTF-8 locale, as LANG=C.UTF-8.") from error


def absolute(path: str | Path) -> Path:
    """Return a path that does not depend on the current directory.

    Raises:
        UsageError: it does, and the current directory has been removed.

    """
    try:
        return Path(path).absolute()
    except OSError as error:
        hint = "Change to a directory that exists, or give absolute paths."
        raise UsageError(f"{path} is relative, and there is no current directory", hint=hint) from error


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2, Linux 3.15); False where the file system cannot."""
    rename = getattr(_libc(), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that is never written again a second name; a copy where links are refused."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        shutil.copyfile(source, target)


def copy_range(source: int, target: int, start: int, end: int, *, append: bool = False) -> Iterator[tuple[int, int]]:
    """Copy bytes between open files, as clones where possible; yield each range of the source that is done.

    They go to the same place in the target; with `append` to where it stands.
    """
    kernel = hasattr(os, "copy_file_range")
    while start < end:
        count = min(end - start, 64 * _CHUNK)
        done = 0
        if kernel:
            try:
                done = os.copy_file_range(source, target, count, start, None if append else start)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
            kernel = done > 0  # some file systems answer 0 where they mean that they cannot
        if not done:
            data = os.pread(source, min(count, _CHUNK), start)
            done = os.write(target, data) if append else os.pwrite(target, data, start)
        if not done:
            return  # the source is shorter than it was said to be
        yield start, start + done
        start += done


def walk(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a directory, by its POSIX path, with its own stat: links are not followed.

    A directory whose path is longer than that of any file of a model is yielded, and not looked into.
    """
    folders = [""]
    for folder in folders:
        with os.scandir(directory / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False) and len(os.fsencode(path)) <= _LONGEST_PATH:
                    folders.append(path)


def settle(tree: Path, *, mtime: int) -> None:
    """Make a finished tree fit to be published: readable by any uid, one mtime, on disk for good.

    A file system that refuses modes or times (some network and FAT volumes do) is taken as it is.
    """
    below = [(str(tree / path), 0o755 if stat.S_ISDIR(found.st_mode) else 0o644) for path, found in walk(tree)]
    modes = [(str(tree), 0o755), *below]
    # Side by side, because a journal takes many fsyncs that come together in one go.
    with Pool(_SYNCS, "settle") as pool:
        for _ in pool.map(lambda one: _settle(one[0], one[1], mtime), modes):
            pass


def begin_writing(fd: int, start: int, end: int) -> None:
    """Ask the kernel to begin with bringing these bytes to the disk, so that an fsync at the end finds little to do."""
    begin = getattr(_libc(), "sync_file_range", None)
    if begin is not None:
        begin(fd, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE)  # a hint: it may fail


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems refuse fsync on directories
            os.fsync(fd)
    finally:
        os.close(fd)


def read_bytes(path: Path, *, limit: int = LARGEST_TEXT) -> bytes | None:
    """Return the content of a file that is to be parsed; None where it is not there.

    Raises:
        UsageError: it is there and cannot be read, or has more bytes than are parsed.

    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if lack := limit_behind(error, f"read {path}"):
            raise lack from error
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Check what it is, and its mode.") from error
    if len(content) > limit:
        raise UsageError(f"{path} has more than {limit} bytes", hint="Check what it is; no such file is that large.")
    return content


def read_own(path: Path, *, limit: int = LARGEST_TEXT) -> bytes:
    """Return the content of a small file of ours, from where others may write: no link is followed, no pipe waited for.

    Raises:
        OSError: it cannot be read, or is no such file.

    """
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        content = file.read(limit + 1) or b""
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def replace_text(path: Path, text: str) -> None:
    """Let a small file say something else, in one step; one that says it already is left alone."""
    path = path.resolve()  # a link, as ConfigMaps and home directories have them, stays one
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}"):  # by a run that was killed here
        with suppress(OSError):
            left.unlink()
    if path.exists() and path.read_bytes() == text.encode():
        return
    while not _replaced(path, text.encode()):
        pass  # another run took ours for such a file


def _replaced(path: Path, content: bytes) -> bool:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name with nothing in it
        with suppress(FileNotFoundError):
            os.replace(beside, path)
            return True
        return False
    finally:
        beside.unlink(missing_ok=True)


def steadily(look: Callable[[], _Seen]) -> _Seen:
    """Look at a model, and look again when it was replaced meanwhile, so that what was to be read has gone."""
    for _ in range(_LOOKS):
        with suppress(FileNotFoundError):
            return look()
    return look()


def discard(path: Path) -> None:
    """Remove a tree as one: first it loses its name, then it goes. Of a link, the link goes."""
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


def _settle(path: str, mode: int, mtime: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        for set_it in (partial(os.fchmod, fd, mode), partial(os.utime, fd, (mtime, mtime)), partial(os.fsync, fd)):
            try:
                set_it()
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
    finally:
        os.close(fd)


def make_collection(path: Path) -> None:
    """Create a directory and what lacks above it, readable by any user whatever the umask."""
    lacking = []
    while not path.is_dir():
        lacking.append(path)
        path = path.parent
    for folder in reversed(lacking):
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o755)


def make_state(path: Path) -> None:
    """Create the directory in which a collection's work is done; another process may have it gone again at once."""
    make_collection(path.parent)
    with suppress(FileExistsError):  # pathlib's exist_ok looks once more, and calls what has gone a file in the way
        path.mkdir()


def make_below(top: Path, path: Path) -> None:
    """Create a directory and what lacks above it, up to `top`, which has to be there: who took that away meant it.

    Raises:
        OSError: the disk refuses, or `top` is gone.

    """
    lacking = []
    while path != top and not path.is_dir():
        lacking.append(path)
        path = path.parent
    for folder in reversed(lacking):
        folder.mkdir(exist_ok=True)
