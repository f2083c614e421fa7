"""Leases: one process at a time fetches a model, on any shared volume.

A lease is a file. Its holder keeps it locked (flock) and increases a counter in it every two seconds. A process that
does not get the lock goes on with other models, comes back, and watches the counter by its own clock: a holder whose
counter has not moved for a minute counts as dead, and its lease is taken over. Where flock works, the lock of a dead
holder is gone at once and no process waits. Where flock does nothing, several processes hold the lease at the same
time: then a file may be fetched more than once, and the bytes are right all the same, because correctness never
depends on the lease. It depends on three rules:

* A staging directory belongs to one process. Others read it and copy from it; they never write into it.
* Files of a dead holder are copied to new inodes. If the holder was only suspended, it may write on, into files that
  no other process uses.
* A staging directory is renamed before it is removed. A holder that wakes then finds no directory to publish, and
  inspects the model again.

Where no thread can be started for the heartbeat, the download increases the counter itself (`beat_if_due`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from modelcache.core.interfaces import Reporter
from modelcache.core.names import STATE_NAME
from modelcache.system.directories import make_directory, make_state_directory
from modelcache.system.files import create_file, discard
from modelcache.system.threads import start_thread

_BEAT = 2.0
_STALE = 60.0
_DESCRIBE_EVERY = 1.0
_RETRY_EVERY = 0.2
_MOST_OPENS = 100
_BETWEEN_OPENS = 0.01


class Leases:
    """The leases of one collection, as one process sees them."""

    def __init__(
        self,
        collection: Path,
        *,
        beat: float = _BEAT,
        stale_after: float = _STALE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = collection / STATE_NAME
        self._beat = beat
        self._stale_after = stale_after
        self._clock = clock
        self._watched: dict[str, tuple[bytes, float]] = {}

    def take(self, name: str) -> Lease | None:
        """Return the lease of a model, or None while another process holds it."""
        path = self._state / f"{name}.lease"
        while True:
            with ExitStack() as unless_taken:
                fd = self._open(path)
                unless_taken.callback(os.close, fd)
                locked = _lock(fd)
                if not locked and not self._is_stale(name, path):
                    return None
                if not _same_file(fd, path):  # its holder has just removed it
                    continue
                unless_taken.callback(path.unlink, missing_ok=True)  # or all would wait for a lease that no process has
                self._watched.pop(name, None)
                if not (locked and _can_count(fd)):  # taken over: the next process must not find the old file
                    continue
                lease = Lease(path, fd, self._make_staging(name), self._beat)
                unless_taken.pop_all()
                return lease

    def is_held(self, name: str) -> bool:
        """Whether a process is fetching a model now; False where flock does nothing, as that cannot be known at once.

        Asked with a shared lock for an instant. A process that wants the lease in that instant tries again.
        """
        try:
            fd = os.open(self._state / f"{name}.lease", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno == errno.EWOULDBLOCK
        finally:
            os.close(fd)
        return False

    def stagings_of(self, name: str) -> list[Path]:
        """Return the staging directories of one model that can be read; nothing is removed, and no link is followed."""
        try:
            named = [path for path in self._listing() if path.name.rpartition("~")[0] == name]
        except OSError:  # then there is none for this user
            return []
        return [path for path in named if path.is_dir() and not path.is_symlink() and not _is_closed(path)]

    def stagings(self) -> dict[str, list[Path]]:
        """Return all staging directories by model, of running processes and of dead ones.

        An empty one of another user, whose process was killed before it was shared, is removed.
        """
        found: dict[str, list[Path]] = {}
        for path in self._listing():
            if "~" in path.name and not path.name.startswith("."):
                if _is_closed(path):
                    with suppress(OSError):
                        path.rmdir()
                    continue
                found.setdefault(path.name.rpartition("~")[0], []).append(path)
        return found

    def other_stagings(self, name: str, mine: Lease) -> list[Path]:
        """Return the staging directories of a model beside the one that comes with a lease."""
        return [path for path in self.stagings().get(name, []) if path != mine.staging]

    def interrupted(self) -> list[Path]:
        """Return the homes whose old version was moved aside by a `publish` that was killed."""
        names = [path.name.removesuffix(".old") for path in self._listing() if path.name.endswith(".old")]
        return [self._state.parent / name for name in names]

    def remove_abandoned(self) -> None:
        """Remove half-removed directories, leases of dead holders, and the state directory once it is empty."""
        for path in self._listing():
            if path.name.startswith(".gone~"):
                discard(path)
            elif path.name.endswith(".lease") and (lease := self.take(path.name.removesuffix(".lease"))):
                with lease:
                    pass  # its holder died; leaving the lease removes it
        with suppress(OSError):
            self._state.rmdir()

    def _make_staging(self, name: str) -> Path:
        staging = self._state / f"{name}~{secrets.token_hex(6)}"
        while not staging.exists():
            make_state_directory(self._state)
            with suppress(FileNotFoundError):  # where locks do nothing, another process may remove the state
                make_directory(staging, mode=0o700)  # private, or shared with the group of the root
        return staging

    def _listing(self) -> list[Path]:
        try:
            return sorted(self._state.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _open(self, path: Path) -> int:
        """Open a lease file to count in it; that of another user, in a shared directory, to lock and replace it."""
        for left in reversed(range(_MOST_OPENS)):
            try:
                make_state_directory(self._state)
                return create_file(path, os.O_RDWR)
            except FileNotFoundError:  # another process has removed the state directory meanwhile
                if not left:
                    raise
            except PermissionError:
                with suppress(FileNotFoundError, PermissionError):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                if not (left and self._can_retry(path, last=left == 1)):
                    raise
        raise AssertionError("the last round has returned or raised")

    def _can_retry(self, path: Path, *, last: bool) -> bool:
        """Wait until another user has shared a file just made, or remove it if that process was killed before."""
        with suppress(OSError):
            if not os.path.lexists(path):
                self._state.rmdir()
            elif last:
                path.unlink(missing_ok=True)
            else:
                time.sleep(_BETWEEN_OPENS)
            return True
        return False

    def _is_stale(self, name: str, path: Path) -> bool:
        try:
            counter = path.read_bytes()  # opening anew makes a network file system ask its server
        except FileNotFoundError:
            return True
        now = self._clock()
        seen, since = self._watched.setdefault(name, (counter, now))
        if seen != counter:
            self._watched[name] = (counter, now)
            return False
        return now - since >= self._stale_after


class Lease:
    """The right to fetch one model, and a private directory to do it in."""

    def __init__(self, path: Path, fd: int, staging: Path, beat: float) -> None:
        self.staging = staging
        self._path = path
        self._fd = fd
        # Held open: after the directory was removed, another thread of ours may have made one of the same name.
        try:
            self._folder = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._folder = os.dup(fd)  # removed already: this is never the staging, so the lease counts as lost
        self._beat = beat
        self._ended = threading.Event()
        self._count()
        self._heartbeat = start_thread(self._beat_until_end)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._heartbeat:
            self._heartbeat.join()
        try:
            if self.held():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)
            os.close(self._folder)
        with suppress(OSError):
            self.staging.rmdir()  # unfinished files stay, so that the next process resumes them

    def held(self) -> bool:
        """Whether this process still has the lease."""
        return _same_file(self._fd, self._path)

    def lost(self) -> bool:
        """Whether another process took this one for dead, and took the lease over or removed the staging directory.

        A failure is then due to that, and the work is done again.
        """
        return not (self.held() and _same_file(self._folder, self.staging))

    def _beat_until_end(self) -> None:
        while not self._ended.wait(self._beat):
            self._count()

    def beat_if_due(self) -> None:
        """Count instead of a heartbeat thread that could not be started, or that has ended for want of memory."""
        if time.monotonic() - self._counted >= 2 * self._beat:
            self._count()

    def _count(self) -> None:
        self._counted = time.monotonic()
        with suppress(OSError):  # a full disk must not end the process that could free it
            os.pwrite(self._fd, f"{self.staging.name} {time.monotonic_ns()}\n".encode().ljust(256), 0)
            os.fsync(self._fd)


class LeaseReporter:
    """Passes the progress of a download on, and counts in its lease as bytes arrive."""

    def __init__(self, reporter: Reporter, lease: Lease) -> None:
        self.event, self.begin, self.end = reporter.event, reporter.begin, reporter.end
        self.expect, self.waiting = reporter.expect, reporter.waiting
        self._advance = reporter.advance
        self._lease = lease

    def advance(self, count: int, *, found: bool = False) -> None:
        """Report more bytes, and count."""
        self._lease.beat_if_due()
        self._advance(count, found=found)


class LeaseWait:
    """Pauses while other processes fetch all models that are left, and reports that."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._began: float | None = None
        self._described = 0.0
        self._text = ""

    def wait(self, describe: Callable[[], str]) -> None:
        """Pause before the leases are asked for again; `describe` says which models are fetched, and how far."""
        now = time.monotonic()
        if self._began is None or now - self._described >= _DESCRIBE_EVERY:
            self._described, self._text = now, f"another process is fetching {describe()}"
        if self._began is None:
            self._began = now
            self._reporter.event("wait", self._text)
        self._reporter.waiting(self._text, now - self._began)
        time.sleep(_RETRY_EVERY)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        return os.fstat(fd).st_size == 0  # no locks on this file system: only the counter counts
    return True


def _can_count(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _is_closed(path: Path) -> bool:
    """Whether this user may not read a directory."""
    return os.path.isdir(path) and not os.path.islink(path) and not os.access(path, os.R_OK | os.X_OK)


def _same_file(fd: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)
