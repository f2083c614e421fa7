"""The stamp of a root: facts of its files, by which a second start knows in milliseconds that nothing has changed.

One file in the root, keyed by manifest and lock. It holds the size, mtime, inode and ctime of each file, and the mtime
of each directory; of the Hub view its refs and directories, because no link changes without its directory. A file has
changed when its size or mtime differs, or both its inode and its ctime do. One of these two alone differs for reasons
that leave the bytes as they are: a kubelet's chown moves the ctime, some FUSE file systems give other inode numbers at
each mount. A replacement changes both, as a rule.

Some changes are not seen: a file that is changed in place, keeps its size and gets its old mtime back is believed, and
so is a directory that gets its old mtime back after a file was added. So is a replaced file of the same size and mtime
where the file system gives it the number of the inode that went, as ext4 may. `verify` reads every byte and sees all
of them; then it invalidates the stamp (`store.inspect`), so that the next `sync` inspects the model. A `sync` that
inspected the model before the damage was found, and writes its stamp later, makes the stamp valid again; even then the
next `sync` reads a damaged file whose mtime could be changed.

A second start imports this module and `fastpath`, and nothing else of the package. So the stamp is lines of text with
manifest and lock as they are: json and hashlib would each take longer to import than all of this to run.
"""

from __future__ import annotations

import os

STAMP_NAME = ".cache-models.stamp"
_UNFINISHED = f"{STAMP_NAME}.new"
_HEAD = b"cache-models stamp 4 "
_END = b"end"
_KEY_OF_NO_RUN = b""
_FACTS_OF_NO_FILE = [-1, -1, -1, -1]
_LARGEST = 16 << 20

TYPE_CHECKING = False  # importing typing would cost a third of a start
if TYPE_CHECKING:
    from collections.abc import Sequence

Facts = dict[str, list[int]]


def key_of(manifest: bytes, lock: bytes | None, *, locked: bool) -> bytes:
    """Return the key of a run: manifest, lock, and whether the lock was binding (`--locked`)."""
    state = b"unlocked" if lock is None else b"locked " + lock
    return b"%d %d %b%b" % (locked, len(manifest), manifest, state)


def models_in_place(root: str, key: bytes) -> int | None:
    """Return how many models are there when everything is as the stamp says, else None."""
    stamp = _read(root)
    if stamp is None or stamp[0] != key:
        return None
    _, models, lines = stamp
    try:
        if os.path.lexists(os.path.join(root, _UNFINISHED)):
            return None  # a run is writing it, or was killed at it; a full run removes it
        entries = [line.partition(b"\t") for line in lines]
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # names below it are looked up faster
        try:
            for collection in {path.partition(b"/")[0] for _, _, path in entries}:
                if os.path.lexists(os.path.join(os.fsencode(root), collection, b".cache-models")):
                    return None  # a run is at work here, or left something to remove when it was killed
            for fact, _, path in entries:
                now = facts_in(os.stat(path, dir_fd=folder, follow_symlinks=False))
                # The lines are nearly always equal; the numbers are compared only where they are not.
                if _line_of(now) != fact and has_changed(_numbers_in(fact), now):
                    return None
        finally:
            os.close(folder)
    except (OSError, ValueError):  # any doubt is left to a full run
        return None
    return models


def facts_in(found: os.stat_result) -> list[int]:
    """Return the numbers of a stat that change when a file or a directory does."""
    if found.st_mode & 0o170000 == 0o040000:
        return [found.st_mtime_ns]  # a directory's ctime and size change for reasons of their own
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


def has_changed(noted: list[int], now: list[int]) -> bool:
    """Whether a file or a directory has changed since it was noted; inode or ctime alone does not count (see above)."""
    if noted == now:
        return False
    if len(noted) != len(now) or noted[:2] != now[:2]:
        return True
    return noted[2] != now[2] and noted[3] != now[3]


def facts_in_stamp(root: str) -> Facts:
    """Return the facts that the stamp of a root vouches for; none where no stamp can be read."""
    stamp = _read(root)
    try:
        entries = [line.partition(b"\t") for line in stamp[2]] if stamp else []
        return {os.fsdecode(path): _numbers_in(fact) for fact, _, path in entries}
    except ValueError:
        return {}


def write_stamp(root: str, key: bytes, models: int, facts: Facts) -> None:
    """Write the stamp; a root that cannot be written goes without, and the next run inspects it."""
    _write(root, key, models, [_line_of(fact) + b"\t" + os.fsencode(path) for path, fact in facts.items()])


def invalidate_stamp(root: str, directory: str, changed_files: Sequence[str] = ()) -> bool:
    """Make the stamp of a root vouch for no run, and for nothing of a directory; False where that cannot be done.

    Its other lines stay, so that the next run reads no more than it has to. `changed_files`, within the directory,
    have to be read whatever their mtime is: they are noted with facts that no file has.
    """
    stamp, below = _read(root), os.fsencode(directory) + b"/"
    if stamp is None and not changed_files:
        return True  # a stamp that cannot be read vouches for nothing
    entries = {line.partition(b"\t")[2]: line for line in stamp[2]} if stamp else {}
    # The lines of the directory are not dropped: a file without facts would be believed for its mtime.
    doubtful = [path for path in entries if (path + b"/").startswith(below)]
    doubtful += [below + os.fsencode(path) for path in changed_files]
    entries |= {path: _line_of(_FACTS_OF_NO_FILE) + b"\t" + path for path in doubtful}
    lines = list(entries.values())
    if _write(root, _KEY_OF_NO_RUN, 0, lines):
        return True
    try:
        os.unlink(os.path.join(root, STAMP_NAME))
    except OSError:
        return False
    return not changed_files


def remove_stamp(root: str) -> None:
    """Remove the stamp of a root, and what a run that was killed has left of one; OSError if one stays."""
    from contextlib import suppress  # a second start does not import it

    for name in os.listdir(root):
        if name == STAMP_NAME or name.startswith(f"{STAMP_NAME}."):
            with suppress(FileNotFoundError):  # another run has removed it
                os.unlink(os.path.join(root, name))


def _write(root: str, key: bytes, models: int, lines: list[bytes]) -> bool:
    from contextlib import suppress  # a second start does not import it

    if any(b"\n" in line for line in lines):
        return False
    path = os.path.join(root, STAMP_NAME)
    # All runs share one name. A stamp that another run cut short lacks its last line and is not read.
    beside = os.path.join(root, _UNFINISHED)
    try:
        for name in os.listdir(root):
            if name.startswith(f"{STAMP_NAME}."):  # of a run that was killed here
                os.unlink(os.path.join(root, name))
        # Writable by its owner alone and readable by all, whatever the umask; a file system may know no modes.
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
    """Return the key of a stamp, the number of its models, and its lines of facts."""
    path = os.path.join(root, STAMP_NAME)
    try:
        # Other users may write to a root: follow no link, wait for no pipe, read no more than a stamp can have.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
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
