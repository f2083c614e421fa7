"""Files and directories on Linux, of any file system: if it refuses a call, the next best way is taken.

Network, FUSE and object file systems lack calls, and each refuses them with errnos of its own. So no errno decides
whether there is another way. The errno decides the error message, when the last way has failed.

No umask decides a mode below a root. Files are created with 0644 and directories with 0755 or less, so that other
users can at no instant write into what will be published. Where a directory is writable for a group, the directories
that we make in it are writable for that group: another user of it can replace, take over and remove what we leave.
A sticky directory, as /tmp is, keeps its users from each other's files, so we share nothing in it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from modelcache.core.errors import StorageError, UsageError
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_TEXT
from modelcache.system.limits import limit_behind, out_of_memory
from modelcache.system.threads import Pool
from modelcache.system.trees import remove_tree

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
_SYNCS = 4
_CHUNK = 1 << 20
_LOOKS = 9
# One thread makes a directory and shares it before another makes one in it.
_MAKING = threading.Lock()
_LONGEST_PATH = 2048
_Seen = TypeVar("_Seen")

# A volume that takes nothing more, whichever way it is asked.
_TAKES_NOTHING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# A file system that has no fsync for files. Any other answer may mean that bytes were lost.
_HAS_NO_SYNC = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES}

_HINTS = {
    errno.ENOSPC: "Free some space or inodes (df, df -i), or use a larger volume.",
    errno.EDQUOT: "Free some space, or ask for a larger quota.",
    errno.EROFS: "Mount the volume read-write for this step, or choose another --root.",
    errno.EACCES: "Run as the owner of the directory, set fsGroup, or choose another --root.",
    errno.EPERM: "This user, or this file system, may not do that: run as the owner, or choose another --root.",
    errno.EXDEV: "The file system does not move this, as overlayfs moves no directory of a lower image layer: fetch "
    "and publish in one RUN, or choose another --root.",
    errno.ENOTDIR: "A file stands where a directory should be; move it away.",
    errno.EEXIST: "Something else has this name already; move it away.",
    errno.ELOOP: "A link stands where a file of this tool belongs; remove it.",
    errno.ESPIPE: "This file system does not write at any place of a file, as a download does; choose another --root.",
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
        names = [escape(str(name)) for name in (error.filename, error.filename2) if name]
        where = f": {' -> '.join(names)}" if names else ""
        raise StorageError(
            f"cannot {doing}: {error.strerror or error}{where}", hint=_HINTS.get(error.errno or 0, _HINT)
        ) from error
    except UnicodeEncodeError as error:
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
    """Swap two names in one step (renameat2, Linux 3.15); False, with nothing changed, where that is refused."""
    rename = getattr(_libc(), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that is never written again a second name; a copy where links are refused, or it is not ours.

    A link keeps its owner, and the owner may change what we would publish. Ours is what belongs to the owner of the
    directory that we made for it: a file system may show another owner than the user that this process runs as.

    Raises:
        OSError: there is no such source, the target is there already, or the volume refuses a copy.

    """
    if source.lstat().st_uid == target.parent.stat().st_uid:
        with suppress(OSError):
            os.link(source, target, follow_symlinks=False)
            return
    copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file to a new one of ours.

    Raises:
        OSError: the source is no plain file, the target is there already, or the volume refuses.

    """
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        written = create_file(target)
        try:
            for _ in copy_range(read, written, 0, os.fstat(read).st_size):
                pass
        finally:
            os.close(written)
    finally:
        os.close(read)


def create_file(path: Path, flags: int = os.O_WRONLY | os.O_EXCL) -> int:
    """Open a file of ours, and create it where it is not there: any user may read it, only we may write it.

    Raises:
        OSError: it is there already (without other flags), or the volume refuses.

    """
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    _give_mode(fd, 0o644)
    return fd


def write_file(path: Path, content: bytes) -> os.stat_result:
    """Create a small file of ours; return what its file system says of it.

    Raises:
        OSError: it is there already, or the volume refuses.

    """
    with open(create_file(path), "wb") as file:
        file.write(content)
        file.flush()
        return os.fstat(file.fileno())


def copy_range(source: int, target: int, start: int, end: int, *, append: bool = False) -> Iterator[tuple[int, int]]:
    """Copy bytes between open files, as clones where possible; yield each range of the source that is done.

    They go to the same place in the target; with `append` to where it stands.
    """
    kernel = hasattr(os, "copy_file_range")
    while start < end:
        count = min(end - start, 64 * _CHUNK)
        done = 0
        if kernel:
            with suppress(OSError):
                done = os.copy_file_range(source, target, count, start, None if append else start)
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


def settle(tree: Path, *, owner: int, mtime: int) -> None:
    """Make a finished tree fit to be published: readable by any uid, one mtime, on disk for good.

    A file system that refuses modes or times (some network and FAT volumes do) is taken as it is.

    Raises:
        StorageError: something in the tree belongs to somebody else than `owner`, who could change it at any time.
        OSError: the volume takes nothing more, or has lost bytes.

    """
    above = tree.parent.stat()
    paths = [str(tree), *(str(tree / path) for path, _ in walk(tree))]
    # Side by side, because a journal takes many fsyncs that come together in one go.
    with Pool(_SYNCS, "settle") as pool:
        for _ in pool.map(lambda path: _settle(path, above, owner, mtime), paths):
            pass


def begin_writing(fd: int, start: int, end: int) -> None:
    """Ask the kernel to begin with bringing these bytes to the disk, so that an fsync at the end finds little to do."""
    begin = getattr(_libc(), "sync_file_range", None)
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


def write_text_atomically(path: Path, text: str) -> None:
    """Let a small file say something else, in one step; one that says it already is left alone.

    It keeps its mode and group; a new one is as readable as the umask says, and writable for its owner alone.
    A file that cannot be replaced, because it is mounted by itself or its directory is read-only, is written over.
    """
    path = path.resolve()  # a link, as ConfigMaps and home directories have them, stays one
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}"):  # by a run that was killed here
        with suppress(OSError):
            left.unlink()
    before = path.read_bytes() if path.exists() else None
    if before == text.encode():
        return
    try:
        while not _replaced(path, text.encode()):
            pass  # another run took ours for such a file
    except OSError as error:
        if before is None or error.errno in _TAKES_NOTHING - {errno.EROFS}:
            raise
        _write_over(path, text.encode(), before)


def _replaced(path: Path, content: bytes) -> bool:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            with suppress(OSError):  # there is none yet, or its group is not one of ours
                old = path.stat()
                _give_mode(fd, stat.S_IMODE(old.st_mode) & 0o777, group=old.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name with nothing in it
        with suppress(FileNotFoundError):
            os.replace(beside, path)
            return True
        return False
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _write_over(path: Path, content: bytes, before: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        try:
            _write_whole(file.fileno(), content)
        except OSError:
            with suppress(OSError):
                _write_whole(file.fileno(), before)
            raise


def _write_whole(fd: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(fd, content[done:], done)
    os.ftruncate(fd, len(content))
    os.fsync(fd)


def retry_if_replaced(look: Callable[[], _Seen]) -> _Seen:
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


def _settle(path: str, above: os.stat_result, owner: int, mtime: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != owner:
            raise StorageError(
                f"{path} was put there by another user (uid {found.st_uid})",
                hint="Run this again; should it come again, look for who else writes to this volume.",
            )
        folder = stat.S_ISDIR(found.st_mode)
        mode = _shared_mode(fd, above) if folder else 0o644
        for set_it in (partial(os.fchmod, fd, mode), partial(os.utime, fd, (mtime, mtime))):
            try:
                set_it()
            except OSError as error:
                if error.errno in _TAKES_NOTHING:
                    raise
        try:
            os.fsync(fd)
        except OSError as error:
            if not folder and error.errno not in _HAS_NO_SYNC:
                raise
    finally:
        os.close(fd)


def make_directory(path: Path, *, mode: int = 0o755, above: Path | None = None) -> None:
    """Create a directory of ours, writable also for the group that may write `above` (its parent), whatever the umask.

    Raises:
        FileExistsError: something has that name; its mode is left alone.
        OSError: the volume refuses, or what is above has gone.

    """
    path.mkdir(mode)
    _share(path, above or path.parent, mode)


def make_collection(path: Path) -> None:
    """Create a directory and what lacks above it, readable by any user."""
    _make_lacking(path)


def _make_lacking(path: Path, top: Path | None = None) -> None:
    lacking = []
    while path != top and not path.is_dir():
        lacking.append(path)
        path = path.parent
    for folder in reversed(lacking):
        with suppress(FileExistsError):
            make_directory(folder, above=top)  # the one above may be another thread's, which has yet to share it


def make_state(path: Path) -> None:
    """Create the directory in which a collection's work is done; another process may have it gone again at once.

    One that is there is made as if it were new: an older version of this tool let the umask decide its mode.
    """
    with _MAKING:
        make_collection(path.parent)
        with suppress(FileExistsError):  # pathlib's exist_ok looks once more, and calls what has gone a file in the way
            path.mkdir(0o755)
        _share(path, path.parent, 0o755)


def make_below(top: Path, path: Path) -> None:
    """Create a directory and what lacks above it, up to `top`, which has to be there: who took that away meant it.

    Raises:
        OSError: the disk refuses, or `top` is gone.

    """
    _make_lacking(path, top)


def _share(path: Path, above: Path, mode: int) -> None:
    """Give a directory of ours its mode, and, where it is to be shared, the group that may write above it."""
    with suppress(OSError):  # it is somebody else's, or has gone
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give_mode(fd, _shared_mode(fd, above.stat(), mode))
        finally:
            os.close(fd)


def _shared_mode(fd: int, above: os.stat_result, mode: int = 0o755) -> int:
    """Give an open directory of ours the group that may write above it; return its mode, with that group's rights.

    Where there is no such group, or we are not in it, the directory is ours alone.
    """
    if not above.st_mode & stat.S_IWGRP or above.st_mode & stat.S_ISVTX:
        return mode
    with suppress(OSError):
        if os.fstat(fd).st_gid != above.st_gid:
            os.fchown(fd, -1, above.st_gid)
    if os.fstat(fd).st_gid != above.st_gid:
        return mode
    return mode | (mode & stat.S_IRWXU) >> 3 | above.st_mode & stat.S_ISGID


def _give_mode(fd: int, mode: int, *, group: int = -1) -> None:
    """Give an open file of ours a mode and a group, where the file system has such and it has others."""
    found = os.fstat(fd)
    with suppress(OSError):
        if group not in (-1, found.st_gid):
            os.fchown(fd, -1, group)
    with suppress(OSError):
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(fd, mode)


def sha256_of(path: Path) -> str:
    """Hash one file, in flat memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
