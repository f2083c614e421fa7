"""The quiet path's note: what to look at to know, in milliseconds, that nothing is to be done.

One file in the root, keyed by what manifest and lock say. It holds the size, mtime, inode and ctime of each file, and
the mtime of each directory. A file has changed when its size or mtime moved, or its inode and ctime both did. Either
of these two moves alone for reasons that leave the bytes as they are: a kubelet's chown moves the ctime, some FUSE
file systems give other inode numbers at each mount. A replacement moves both, as a rule.

Holes are left: a file that is changed in place, keeps its size and gets its old mtime back is believed, and so is a
directory that gets its old mtime back after a file was added. So is a replaced file of the same size and mtime where
the file system gives it the number of the inode that went, as ext4 may. `verify` reads every byte and sees all of
them; then it makes the stamp void (`damage`), so that the next `sync` looks. A `sync` that had looked before, and
writes its stamp after that, takes the note back; a file that its owner could mark is still read.

This module is all that a second start imports, so the note is lines of text with manifest and lock as they are: json
and hashlib would each take longer to import than all of this to run.
"""

from __future__ import annotations

import os

STAMP_NAME = ".cache-models.stamp"
_UNFINISHED = f"{STAMP_NAME}.new"
_HEAD = b"cache-models stamp 3 "
_END = b"end"
_NO_RUN = b""  # no run has this key
_OF_NO_FILE = [-1, -1, -1, -1]
_LARGEST = 16 << 20

TYPE_CHECKING = False  # what typing calls so
if TYPE_CHECKING:
    from collections.abc import Sequence

Facts = dict[str, list[int]]


def key_of(manifest: bytes, lock: bytes | None, *, locked: bool) -> bytes:
    """Return the key of a run: what is wanted, what is pinned, and whether the pin was demanded."""
    state = b"unlocked" if lock is None else b"locked " + lock
    return b"%d %d %b%b" % (locked, len(manifest), manifest, state)


def models_in_place(root: str, key: bytes) -> int | None:
    """Return how many models are there when everything is as the stamp says, else None."""
    note = _read(root)
    if note is None or note[0] != key:
        return None
    _, models, lines = note
    try:
        if os.path.lexists(os.path.join(root, _UNFINISHED)):
            return None  # of a run that is still writing, or was killed at it: then the long way clears it away
        told = [line.partition(b"\t") for line in lines]
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # names below it are looked up faster
        try:
            for collection in {path.partition(b"/")[0] for _, _, path in told}:
                if os.path.lexists(os.path.join(os.fsencode(root), collection, b".cache-models")):
                    return None  # somebody is at work, or died at it and left something to clear away
            for fact, _, path in told:
                now = facts_in(os.stat(path, dir_fd=folder, follow_symlinks=False))
                # Nearly always the lines are equal; only where they are not, the numbers are looked at.
                if _line_of(now) != fact and has_changed(_numbers_in(fact), now):
                    return None
        finally:
            os.close(folder)
    except (OSError, ValueError):  # any doubt takes the long way
        return None
    return models


def facts_of(path: str) -> list[int]:
    """Return what changes when a file or a directory does."""
    return facts_in(os.stat(path, follow_symlinks=False))


def facts_in(found: os.stat_result) -> list[int]:
    """Return what of a stat changes when a file or a directory does."""
    if found.st_mode & 0o170000 == 0o040000:
        return [found.st_mtime_ns]  # a directory's ctime and size change for reasons of their own
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


def has_changed(noted: list[int], now: list[int]) -> bool:
    """Whether a file or a directory is another one than was noted; inode or ctime alone does not count (see above)."""
    if noted == now:
        return False
    if len(noted) != len(now) or noted[:2] != now[:2]:
        return True
    return noted[2] != now[2] and noted[3] != now[3]


def facts_in_stamp(root: str) -> Facts:
    """Return the facts that the stamp of a root vouches for; none where there is no stamp that can be understood."""
    note = _read(root)
    try:
        told = [line.partition(b"\t") for line in note[2]] if note else []
        return {os.fsdecode(path): _numbers_in(fact) for fact, _, path in told}
    except ValueError:
        return {}


def write_stamp(root: str, key: bytes, models: int, facts: Facts) -> None:
    """Note what is there; a root that cannot be written goes without, and is looked at more closely next time."""
    _write(root, key, models, [_line_of(fact) + b"\t" + os.fsencode(path) for path, fact in facts.items()])


def void_stamp(root: str, directory: str, distrusted: Sequence[str] = ()) -> bool:
    """Make the stamp of a root vouch for no run, and for nothing of a directory; False where that cannot be done.

    Its other lines stay, so that the next run reads no more than it has to. `distrusted` are files within
    the directory that have to be read whatever their mtime is: they are noted with facts that no file has.
    """
    note, below = _read(root), os.fsencode(directory) + b"/"
    if note is None and not distrusted:
        return True  # a stamp that cannot be read vouches for nothing
    told = {line.partition(b"\t")[2]: line for line in note[2]} if note else {}
    # What was noted of the directory is not forgotten: a file without facts would be believed for its mtime.
    doubtful = [path for path in told if (path + b"/").startswith(below)]
    doubtful += [below + os.fsencode(path) for path in distrusted]
    told |= {path: _line_of(_OF_NO_FILE) + b"\t" + path for path in doubtful}
    lines = list(told.values())
    if _write(root, _NO_RUN, 0, lines):
        return True
    try:
        os.unlink(os.path.join(root, STAMP_NAME))
    except OSError:
        return False
    return not distrusted


def _write(root: str, key: bytes, models: int, lines: list[bytes]) -> bool:
    from contextlib import suppress  # not for the quiet path

    if any(b"\n" in line for line in lines):
        return False
    path = os.path.join(root, STAMP_NAME)
    # All runs share one name. A stamp that another run cut short lacks its last line and is not read.
    beside = os.path.join(root, _UNFINISHED)
    try:
        for name in os.listdir(root):
            if name.startswith(f"{STAMP_NAME}."):  # of a run that was killed here
                os.unlink(os.path.join(root, name))
        # Written by us alone and read by any user, whatever the umask; a file system may know no modes.
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            with suppress(OSError):
                os.fchmod(fd, 0o644)
            file.write(b"%b%d %d\n%b\n" % (_HEAD, models, len(key), key))
            file.writelines(line + b"\n" for line in (*lines, _END))
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        return False
    return True


def _read(root: str) -> tuple[bytes, int, list[bytes]] | None:
    """Read the stamp of a root: its key, how many models it is about, and a line a fact."""
    try:
        # Others may write where it lies: no link is followed, no pipe waited for, no end read.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(os.path.join(root, STAMP_NAME), flags), "rb") as file:
            content = file.read(_LARGEST) or b""
        if not content.startswith(_HEAD):
            return None
        head, _, rest = content.partition(b"\n")
        models, length = map(int, head.removeprefix(_HEAD).split(b" "))
        before, *lines, end, after = rest[length:].split(b"\n")
    except (OSError, ValueError):
        return None
    whole = length >= 0 and (before, end, after) == (b"", _END, b"")
    return (rest[:length], models, lines) if whole else None


def _line_of(fact: list[int]) -> bytes:
    return b"%d %d %d %d" % tuple(fact) if len(fact) == 4 else b"%d" % fact[0]


def _numbers_in(line: bytes) -> list[int]:
    return [int(number) for number in line.split(b" ")]
