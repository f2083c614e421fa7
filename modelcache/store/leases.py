"""Who is fetching a model: one lease a model, on any shared volume.

The lease is a file. Its holder keeps it locked (flock) and counts in it, every two seconds. Who does not get
the lock goes on with other models, comes back, and watches the counter by its own clock: when it has not moved
for a minute, the holder is taken for dead and its lease for free. Where flock works, a dead holder's lock is
gone at once and nobody waits. Where flock does nothing, several hold the lease at the same time: then each file
may be fetched more than once, and the bytes are right all the same, because correctness never depends on the
lease. It depends on this:

* A staging directory belongs to one process. Others read it and copy from it; nobody writes into it.
* What is taken over from a dead holder is copied to new inodes. If the holder was only asleep, it may write on,
  into files that are nobody's any more.
* A staging directory is removed by giving it another name first. A holder that wakes then finds no directory
  to publish, and looks again at what is there.

Where no thread can be started for the heartbeat, the download counts (`progressed`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from modelcache.core.interfaces import Reporter
from modelcache.core.names import STATE_NAME
from modelcache.system.directories import make_directory, make_state_directory
from modelcache.system.files import create_file, discard
from modelcache.system.threads import start_thread

_BEAT = 2.0
_STALE = 60.0
_TELL_EVERY = 10.0
_LOOK_EVERY = 0.2
_OPENS = 100
_CREATED = 0.01


class Leases:
    """The leases of one collection, as one process sees them."""

    def __init__(
        self, collection: Path, *, stale_after: float = _STALE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = collection / STATE_NAME
        self._stale_after = stale_after
        self._clock = clock
        self._watched: dict[str, tuple[bytes, float]] = {}

    def take(self, name: str) -> Lease | None:
        """Return the lease of a model, or None while somebody else holds it.

        Raises:
            OSError: the volume cannot be written.

        """
        while True:
            path = self._state / f"{name}.lease"
            fd = self._open(path)
            try:
                locked = _lock(fd)
                if not locked and not self._is_stale(name, path):
                    os.close(fd)
                    return None
                if not _same_file(fd, path):  # its holder has just given it back
                    os.close(fd)
                    continue
                if not (locked and _can_count(fd)):  # take over: the next one must not find the old file
                    path.unlink(missing_ok=True)
                    os.close(fd)
                    self._watched.pop(name, None)
                    continue
            except BaseException:
                with suppress(OSError):
                    os.close(fd)
                raise
            self._watched.pop(name, None)
            try:
                return Lease(path, fd, self._make_staging(name))
            except BaseException:
                path.unlink(missing_ok=True)  # or everybody would wait for a lease that nobody has
                os.close(fd)
                raise

    def stagings(self) -> dict[str, list[Path]]:
        """Return what lies about, by model: staging directories of the living and of the dead.

        One of another user who was killed before it was shared is empty, and goes.
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

    def others(self, name: str, mine: Lease) -> list[Path]:
        """Return the staging directories of a model beside the one that comes with a lease."""
        return [path for path in self.stagings().get(name, []) if path != mine.staging]

    def aside(self) -> list[Path]:
        """Return the homes whose old version a killed `publish` left aside."""
        names = [path.name.removesuffix(".old") for path in self._listing() if path.name.endswith(".old")]
        return [self._state.parent / name for name in names]

    def tidy(self) -> None:
        """Remove what is nobody's: half-removed directories, and the state directory once it is empty."""
        for path in self._listing():
            if path.name.startswith(".gone~"):
                discard(path)
            elif path.name.endswith(".lease") and (lease := self.take(path.name.removesuffix(".lease"))):
                with lease:
                    pass  # its holder died; giving it back removes it
        with suppress(OSError):
            self._state.rmdir()

    def _make_staging(self, name: str) -> Path:
        staging = self._state / f"{name}~{secrets.token_hex(6)}"
        while not staging.exists():
            make_state_directory(self._state)
            with suppress(FileNotFoundError):  # where locks do nothing, another process may be tidying up
                make_directory(staging, mode=0o700)  # private, or shared with the group of the root
        return staging

    def _listing(self) -> list[Path]:
        try:
            return sorted(self._state.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _open(self, path: Path) -> int:
        """Open a lease to count in it; one of another user, in a directory that is shared, to lock and replace it."""
        for left in reversed(range(_OPENS)):
            try:
                make_state_directory(self._state)
                return create_file(path, os.O_RDWR)
            except FileNotFoundError:  # another process has tidied up in between
                if not left:
                    raise
            except PermissionError:
                with suppress(FileNotFoundError, PermissionError):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                if not (left and self._made_way(path, last=left == 1)):
                    raise
        raise AssertionError("the last round has returned or raised")

    def _made_way(self, path: Path, *, last: bool) -> bool:
        """Wait for what another user has made just now to be shared; clear it away if that one was killed before."""
        with suppress(OSError):
            if not os.path.lexists(path):
                self._state.rmdir()
            elif last:
                path.unlink(missing_ok=True)
            else:
                time.sleep(_CREATED)
            return True
        return False

    def _is_stale(self, name: str, path: Path) -> bool:
        try:
            counter = path.read_bytes()  # opened anew: that is what makes a network file system look again
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

    def __init__(self, path: Path, fd: int, staging: Path) -> None:
        self.staging = staging
        self._path = path
        self._fd = fd
        # Held open: its name alone may be of a new one, which a thread of ours made in the place of what was cleared.
        try:
            self._folder = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._folder = os.dup(fd)  # cleared already: this is no directory of that name, so the lease counts as lost
        self._ended = threading.Event()
        self._count()
        self._heart = start_thread(self._beat)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._heart:
            self._heart.join()
        try:
            if self.held():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)
            os.close(self._folder)
        with suppress(OSError):
            self.staging.rmdir()  # what was not finished stays, for the next one to go on with

    def held(self) -> bool:
        """Whether nobody has taken the lease over meanwhile."""
        return _same_file(self._fd, self._path)

    def lost(self) -> bool:
        """Whether somebody took this process for dead, and took the lease over or cleared the staging away.

        What fails then fails for that: it is done again.
        """
        return not (self.held() and _same_file(self._folder, self.staging))

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            self._count()

    def progressed(self) -> None:
        """Count in the place of a heartbeat that could not be started, or that has ended for want of memory."""
        if time.monotonic() - self._counted >= 2 * _BEAT:
            self._count()

    def _count(self) -> None:
        self._counted = time.monotonic()
        with suppress(OSError):  # a full disk must not end the one process that could free it
            os.pwrite(self._fd, f"{self.staging.name} {time.monotonic_ns()}\n".encode().ljust(256), 0)
            os.fsync(self._fd)


class Progress:
    """The voice of a download, which also counts in its lease as bytes come."""

    def __init__(self, reporter: Reporter, lease: Lease) -> None:
        self.event, self.begin, self.end = reporter.event, reporter.begin, reporter.end
        self._advance = reporter.advance
        self._lease = lease

    def advance(self, count: int) -> None:
        """Tell of more bytes, and count."""
        self._lease.progressed()
        self._advance(count)


class Waiting:
    """Pauses while all that is left is being fetched by others, and says so now and then."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told = -_TELL_EVERY

    def wait(self, names: str) -> None:
        """Pause before another look."""
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            self._reporter.event("wait", f"waiting: somebody else is fetching {names}")
        time.sleep(_LOOK_EVERY)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        return os.fstat(fd).st_size == 0  # no locks on this file system: only the counter speaks
    return True


def _can_count(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _is_closed(path: Path) -> bool:
    """Whether a directory is there that this user may not look into."""
    return os.path.isdir(path) and not os.path.islink(path) and not os.access(path, os.R_OK | os.X_OK)


def _same_file(fd: int, path: Path) -> bool:
    try:
        there, ours = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)
