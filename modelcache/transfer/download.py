"""Bringing a model's files into a staging directory, from wherever each can be had most cheaply.

In this order: the version that is being replaced and what `lock` kept (a second name, not a copy), what a dead
process left half done, the standard Hugging Face cache or another directory (a copy), the Hub. Wherever it comes
from, a file counts only when its SHA-256, taken from the bytes as they lie in the staging directory, is the pinned one.
Of a file that is made from another one, and is nowhere to be had finished, that other one is brought.

A file comes over one connection, a large one over several where a single one is slow (`connections`). The thread of a
file follows its frontier and hashes while other threads write.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelcache.core.errors import IntegrityError
from modelcache.core.interfaces import Reporter, StoppedError
from modelcache.core.plan import distinct
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from modelcache.system.directories import make_below
from modelcache.system.files import copy_file, link_or_copy, sha256_of
from modelcache.system.threads import Pool, failure_of
from modelcache.transfer.byte_ranges import cut
from modelcache.transfer.connections import RangeConnections
from modelcache.transfer.partial_file import PartialFile
from modelcache.transfer.retry import RetryState
from modelcache.transfer.staged_files import staged_path

SEGMENT = 32 << 20


class Remote(Protocol):
    """Where bytes come from that are nowhere on this machine."""

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Give the bytes of a file from `start` up to, not including, `end`."""

    def retry_state(self, what: str, stopped: threading.Event) -> RetryState:
        """Begin to count the failures of one piece of work; `stopped` ends its pauses."""


@dataclass(frozen=True, slots=True)
class FileLocations:
    """Where the files of one model may be had."""

    previous: Path | None = None
    """The directory that is being replaced."""
    parts: Sequence[Path] = ()
    """Staging directories that dead processes, or `lock`, left."""
    finished: Callable[[LockedFile], Iterable[Path]] = lambda file: ()
    """Complete files, elsewhere on this machine, that may be this one as it is published."""
    originals: Callable[[Original], Iterable[Path]] = lambda original: ()
    """Complete files, elsewhere on this machine, that may be this one as its repository has it."""
    remote: Remote | None = None


def originals_of(staging: Path) -> Path:
    """Return where `download` leaves what has yet to be made into files of the model, each named by its SHA-256."""
    return staging / "originals"


def download(model: LockedModel, staging: Path, locations: FileLocations, *, jobs: int, reporter: Reporter) -> Path:
    """Bring every file of a model to its name below `staging`, or what it is made from; return the tree, verified.

    Raises:
        IntegrityError: a file has other bytes than the lock says, also after fetching it once more.
        HubError: it could not be had within the bounds of --timeout and --retries.
        OSError: the disk refuses.

    """
    tree = staging / "tree"
    stopped = threading.Event()
    # The segments' pool outlives the files' threads: they wait for its futures, and a pool that has been shut down
    # never tells anybody about the futures that it dropped.
    with _threads(jobs, "segment") as segments, _threads(jobs, "file") as files:
        porter = _Porter(model, staging, locations, segments, jobs, stopped, reporter)
        waiting = [files.submit(porter.bring, file) for file in distinct(model.files)]
        try:
            _raise_failure_of(waiting)
        except BaseException:
            stopped.set()
            porter.abandon()
            raise
    for file in model.files:
        first = tree / porter.first[file.sha256]
        if first != tree / file.path and first.exists():
            target = tree / file.path
            make_below(staging, target.parent)
            copy_file(first, target)
    return tree


class _Porter:
    """Carries the files of one model."""

    def __init__(
        self,
        model: LockedModel,
        staging: Path,
        locations: FileLocations,
        segments: Executor,
        jobs: int,
        stopped: threading.Event,
        reporter: Reporter,
    ) -> None:
        self.model = model
        self.staging = staging
        self.locations = locations
        self.segments = segments
        self.jobs = jobs
        self.stopped = stopped
        self.reporter = reporter
        self.first = {file.sha256: file.path for file in distinct(model.files)}
        self.open_parts: set[PartialFile] = set()
        self.turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """One part at a time of each content: two would write to one inode."""
        self.transfers: list[_FileTransfer] = []

    def bring(self, file: LockedFile) -> None:
        """Bring one content; the first one that fails ends it for the others, also where all share one thread."""
        if self.stopped.is_set():
            raise StoppedError
        try:
            self.bring_one(file)
        except BaseException:
            self.stopped.set()
            raise

    def bring_one(self, file: LockedFile) -> None:
        """Get one content to its first name in the tree, or what it is made from to where `derive` looks for it."""
        target = self.staging / "tree" / self.first[file.sha256]
        make_below(self.staging, target.parent)
        if self.reuse(file, target):
            return
        original = self.model.original_of(file)
        if file.made is None:
            self.obtain(original, target, [*self.locations.finished(file), *self.locations.originals(original)])
        elif not self.take(file, target) and file.made is not Made.WRITTEN:
            beside = originals_of(self.staging) / original.sha256
            make_below(self.staging, beside.parent)
            self.obtain(original, beside, self.locations.originals(original))

    def reuse(self, file: LockedFile, target: Path) -> bool:
        """Give a second name to a file that is not written any more: of the version to be replaced, or kept."""
        same = (file.path, *(other.path for other in self.model.files if other.sha256 == file.sha256))
        previous = [self.locations.previous / path for path in same] if self.locations.previous else []
        for there in (*previous, *(staged_path(folder, file.sha256) for folder in self.locations.parts)):
            if not _is_file(there, file.size, follow=False):
                continue
            # It is not ours: its owner may replace it meanwhile, and another user may not let us read it.
            with suppress(FileNotFoundError, PermissionError):
                link_or_copy(there, target)
                if sha256_of(target) == file.sha256:
                    self.reporter.advance(file.size)
                    return True
                target.unlink()
        return False

    def take(self, file: LockedFile, target: Path) -> bool:
        """Copy a file that another process, or another root, has already made."""
        wanted = Original(file.path, file.size, file.sha256)
        with self.turns[file.sha256], self.part_of(wanted) as part:
            if self.adopt(part, self.locations.finished(file)):
                part.finish(target)
                return True
            self.forget(part)
            part.path.unlink()
        return False

    def obtain(self, original: Original, target: Path, copies: Iterable[Path]) -> None:
        """Bring a file of a repository: from this machine as far as it is here, the rest from the Hub."""
        with self.turns[original.sha256]:
            if target.exists():  # two files are made from it
                return
            with self.part_of(original) as part:
                if not self.adopt(part, copies):
                    self.download(part)
                part.finish(target)

    @contextmanager
    def part_of(self, original: Original) -> Iterator[PartialFile]:
        part = PartialFile(self.staging, original)
        self.open_parts.add(part)
        try:
            yield part
        finally:
            self.open_parts.discard(part)
            part.close()

    def adopt(self, part: PartialFile, copies: Iterable[Path]) -> bool:
        """Copy what is on this machine; True when that is all of it, and right."""
        sha256 = part.file.sha256
        for folder in self.locations.parts:
            self.copy(part, folder / sha256, whole=False)
            self.copy(part, staged_path(folder, sha256), whole=True)
        for folder in (
            self.staging,
            *self.locations.parts,
        ):  # a file may be published as it is, and made into another one
            self.copy(part, originals_of(folder) / sha256, whole=True)
            if (name := self.first.get(sha256)) is not None:
                self.copy(part, folder / "tree" / name, whole=True)
        for path in copies:
            self.copy(part, path, whole=True)
        if part.missing():
            return False
        if part.hash() == part.file.sha256:
            return True
        self.forget(part)
        return False

    def copy(self, part: PartialFile, source: Path, *, whole: bool) -> None:
        if not part.missing() or not _is_file(source, part.file.size if whole else None):
            return
        before = part.total()
        part.copy_from(source, whole=whole)
        self.reporter.advance(part.total() - before)

    def download(self, part: PartialFile) -> None:
        """Fetch what is missing, and all of it once more when the bytes turn out wrong."""
        file, remote = part.file, self.locations.remote
        if remote is None or not file.commit:  # no commit: the Hub knows nothing of it
            raise IntegrityError(
                f"{self.model.id}: {file.path} (sha256 {file.sha256[:12]}…) is not where it should come from",
                hint="Check that the source holds this version of the model, or lock it again.",
            )
        # What was begun by others may be wrong without the Hub being so: that costs one more round, no failure.
        rounds = 3 if part.total() else 2
        for number in range(1, rounds + 1):
            try:
                self.round(part, remote)
                return
            except IntegrityError:
                if self.stopped.is_set():  # another file has failed, and this one was left where it was
                    raise StoppedError from None
                self.forget(part)
                if number == rounds:
                    raise
            told = f"{self.model.id}: {file.path} came wrong; fetching it once more"
            self.reporter.event("again", told, model=self.model.id, file=file.path)

    def round(self, part: PartialFile, remote: Remote) -> None:
        """Fetch all that is missing.

        Raises:
            IntegrityError: the bytes are other ones than the lock says.

        """
        found = self.follow(part, remote)
        if found != part.file.sha256:
            raise IntegrityError(
                f"{self.model.id}: {part.file.path} came with other bytes than it is pinned with, twice:\n"
                f"  expected sha256 {part.file.sha256}\n  found    sha256 {found}",
                hint="A proxy or mirror may change files; compare with the repository's page on the Hub.",
            )

    def follow(self, part: PartialFile, remote: Remote) -> str:
        """Have the missing ranges written, and return the hash of the whole."""
        # Of an empty file, too, the Hub is asked: its listing may lie.
        ranges = cut(part.missing(), SEGMENT) or [(0, 0)]
        transfer = _FileTransfer(self, part, remote)
        lanes = RangeConnections(self.segments, self.jobs, transfer, part.file.size, ranges)
        self.transfers.append(transfer)
        try:
            lanes.open()
            found = part.hash()
            if not part.file.size:  # nothing to wait for in the file, but the Hub's answer
                wait(lanes.futures)
        finally:  # no writer may be at this part any more when the next round begins
            lanes.close()
            self.transfers.remove(transfer)
        _raise_failure_of(lanes.futures)
        return found

    def came(self, count: int) -> None:
        """Count bytes that are new: as long as some come, no file of the model is given up."""
        self.reporter.advance(count)
        for transfer in tuple(self.transfers):
            transfer.retry_state.progressed(count)

    def forget(self, part: PartialFile) -> None:
        self.reporter.advance(-part.total())
        part.start_over()

    def abandon(self) -> None:
        for part in list(self.open_parts):
            part.abandon()


class _FileTransfer:
    """One file that is downloaded: it writes the bytes, and counts failures for the file."""

    def __init__(self, porter: _Porter, part: PartialFile, remote: Remote) -> None:
        self._porter = porter
        self._part = part
        self._remote = remote
        self.retry_state = remote.retry_state(f"{porter.model.id}: {part.file.path}", porter.stopped)
        self.failed = self.retry_state.failed
        self.abandon = part.abandon

    def request(self, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self._remote.open(self._part.file, start, end)

    def write(self, start: int, pieces: list[bytes]) -> None:
        if self._porter.stopped.is_set() or self._part.abandoned:
            raise StoppedError
        self._porter.came(self._part.write(start, pieces))


@contextmanager
def _threads(count: int, name: str) -> Iterator[Pool]:
    """Give a pool whose waiting work is dropped when something goes wrong."""
    pool = Pool(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _raise_failure_of(futures: Sequence[Future[None]]) -> None:
    if error := failure_of(futures, after=StoppedError):
        raise error


def _is_file(path: Path, size: int | None, *, follow: bool = True) -> bool:
    """Whether a plain file is there, of that size if one is given; the HF cache's links count as what they name."""
    try:
        found = os.stat(path, follow_symlinks=follow)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and size in (None, found.st_size)
