"""Download the files of a model into a staging directory, each from the cheapest source that has it.

The sources, in this order: the version that is being replaced and files that `lock` kept (a second name, not a copy),
partial files of dead processes, the standard Hugging Face cache, another directory or an image (a copy), the Hub or
a registry.
From any source, a file counts only if its SHA-256, taken from the bytes in the staging directory, is the pinned one.
If a file is made from an original, and no source has it finished, the original is fetched.

A file comes over one connection, a large one over several where a single one is slow (`connections`). The thread of a
file hashes its bytes in order while other threads write.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.core.errors import IntegrityError
from modelcache.core.interfaces import Remote, Reporter, StoppedError
from modelcache.core.plan import distinct
from modelcache.core.types import FileSlice, LockedFile, LockedModel, Made, Original
from modelcache.system.directories import make_below
from modelcache.system.files import copy_file, is_plain_file, link_or_copy, sha256_of
from modelcache.system.threads import Pool, failure_of
from modelcache.transfer.byte_ranges import split_ranges
from modelcache.transfer.connections import RangeConnections, TransferLimits
from modelcache.transfer.file_locations import FileLocations, originals_of
from modelcache.transfer.partial_file import PartialFile
from modelcache.transfer.retry import RetryPolicy, RetryState
from modelcache.transfer.staged_files import staged_path


def download(
    model: LockedModel,
    staging: Path,
    locations: FileLocations,
    *,
    jobs: int,
    policy: RetryPolicy,
    limits: TransferLimits,
    reporter: Reporter,
) -> Path:
    """Download every file of a model below `staging`, or the original it is made from; return the tree, verified.

    Raises:
        IntegrityError: a file has other bytes than the lock says, also after fetching it once more.
        HubError: a file could not be fetched within the bounds of --timeout and --retries.
        OSError: the disk refuses.

    """
    tree = staging / "tree"
    # The segments' pool outlives the files' threads, which submit to it.
    with Pool(jobs, "segment") as segments, Pool(jobs, "file") as files:
        downloading = _ModelDownload(model, staging, locations, segments, jobs, policy, limits, reporter)
        try:
            _raise_failure_of([files.submit(downloading.run, file) for file in distinct(model.files)])
        except BaseException:
            downloading.abandon()
            raise
    for file in model.files:
        first = tree / downloading.first_path[file.sha256]
        if first != tree / file.path and first.exists():
            target = tree / file.path
            make_below(staging, target.parent)
            copy_file(first, target)
    return tree


def published_form(file: LockedFile) -> Original:
    """Return a file as it is published, as if it were its own original."""
    return Original(file.path, file.size, file.sha256)


@dataclass(eq=False)
class _ModelDownload:
    """The download of one model; each of its files in a thread."""

    model: LockedModel
    staging: Path
    locations: FileLocations
    segments: Executor
    jobs: int
    policy: RetryPolicy
    limits: TransferLimits
    reporter: Reporter
    stopped: threading.Event = field(default_factory=threading.Event)
    open_parts: set[PartialFile] = field(default_factory=set)
    content_locks: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))
    """One partial file at a time of each content: two would write to one inode."""
    transfers: list[_FileTransfer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first_path = {file.sha256: file.path for file in distinct(self.model.files)}

    def run(self, file: LockedFile) -> None:
        """Get one file; the first failure stops the others, also where all share one thread."""
        if self.stopped.is_set():
            raise StoppedError
        try:
            self.get(file)
        except BaseException:
            self.stopped.set()
            raise

    def get(self, file: LockedFile) -> None:
        """Get one file to its first name in the tree, or its original to the directory where `derive` looks for it."""
        target = self.staging / "tree" / self.first_path[file.sha256]
        make_below(self.staging, target.parent)
        if self.hardlink(file, target):
            return
        original = self.model.original_of(file)
        if self.locations.published and file.made is not Made.WRITTEN:
            self.fetch_original(published_form(file), target, self.locations.finished(file), file)
        elif file.made is None:
            copies = [*self.locations.finished(file), *self.locations.originals(original)]
            self.fetch_original(original, target, copies, file)
        elif not self.copy_finished(file, target) and file.made is not Made.WRITTEN:
            beside = originals_of(self.staging) / original.sha256
            make_below(self.staging, beside.parent)
            self.fetch_original(original, beside, self.locations.originals(original), file)

    def hardlink(self, file: LockedFile, target: Path) -> bool:
        """Link to a file that is no longer written: of the version to be replaced, or kept by `lock`."""
        same = [other.path for other in self.model.files if other.sha256 == file.sha256]
        previous = [self.locations.previous / path for path in same] if self.locations.previous else []
        for source in (*previous, *(staged_path(folder, file.sha256) for folder in self.locations.stagings)):
            if not is_plain_file(source, file.size, follow=False):
                continue
            # Its owner may be another user, who may replace it meanwhile, or not let this process read it.
            with suppress(FileNotFoundError, PermissionError):
                link_or_copy(source, target)
                if sha256_of(target) == file.sha256:
                    self.reporter.advance(file.size, found=True)
                    return True
            target.unlink(missing_ok=True)  # a link that could not be read is not verified either
        return False

    def copy_finished(self, file: LockedFile, target: Path) -> bool:
        """Copy a derived file that another process, or another root, has already made."""
        wanted = published_form(file)
        with self.content_locks[file.sha256], self.partial_file(wanted) as part:
            if self.copy_partial(part, self.locations.finished(file)):
                part.finish(target)
                return True
            self.reset(part)
            part.path.unlink()
        return False

    def fetch_original(self, original: Original, target: Path, copies: Iterable[FileSlice], file: LockedFile) -> None:
        """Fetch the original of a file: from this machine as far as it is here, the rest from the Hub."""
        with self.content_locks[original.sha256]:
            if target.exists():  # two files are made from it
                return
            with self.partial_file(original) as part:
                if not self.copy_partial(part, copies):
                    self.fetch_missing(part, file)
                part.finish(target)

    @contextmanager
    def partial_file(self, original: Original) -> Iterator[PartialFile]:
        part = PartialFile(self.staging, original)
        self.open_parts.add(part)
        try:
            yield part
        finally:
            self.open_parts.discard(part)
            part.close()

    def copy_partial(self, part: PartialFile, copies: Iterable[FileSlice]) -> bool:
        """Copy the bytes that this machine has; return whether these are all, and right."""
        copies = list(copies)
        self.copy_staged(part)
        staged = part.total()
        while True:
            for copy in copies:
                self.copy_whole(part, copy)
            if part.missing():
                return False
            if part.hash() == part.file.sha256:
                return True
            self.reset(part)
            if not staged:
                return False
            staged = 0  # bytes of dead processes may be wrong though a copy is right, and no Hub is asked for it

    def copy_staged(self, part: PartialFile) -> None:
        """Copy the bytes that this run or dead processes have, of this file or of one with the same content."""
        sha256 = part.file.sha256
        for folder in self.locations.stagings:
            if is_plain_file(folder / sha256):
                self.copy(part, FileSlice(folder / sha256), whole=False)
            self.copy_whole(part, FileSlice(staged_path(folder, sha256)))
        for folder in (self.staging, *self.locations.stagings):  # an original may be published, too, as it is
            self.copy_whole(part, FileSlice(originals_of(folder) / sha256))
            if (path := self.first_path.get(sha256)) is not None:
                self.copy_whole(part, FileSlice(folder / "tree" / path))

    def copy_whole(self, part: PartialFile, source: FileSlice) -> None:
        if is_plain_file(source.path, part.file.size, start=source.start):
            self.copy(part, source, whole=True)

    def copy(self, part: PartialFile, source: FileSlice, *, whole: bool) -> None:
        if part.missing():
            before = part.total()
            part.copy_from(source.path, source.start, whole=whole)
            self.reporter.advance(part.total() - before, found=True)

    def fetch_missing(self, part: PartialFile, file: LockedFile) -> None:
        """Fetch the missing bytes, and all of them once more if the file turns out wrong."""
        original, remote = part.file, self.locations.published or self.locations.remote
        if remote is None or not (original.commit or self.locations.published):  # the Hub's files have a commit
            lacking = original if remote else file  # another root or an image has files as they are published
            raise IntegrityError(
                f"{self.model.id}: {self.locations.origin} has no {lacking.path} with sha256 {lacking.sha256[:12]}…",
                hint="Its bytes have changed, so copy it again; or it has another version, so lock the model again.",
            )
        # Bytes of other processes may be wrong though the Hub's are right: that costs one more attempt, no failure.
        attempts = 3 if part.total() else 2
        for number in range(1, attempts + 1):
            try:
                self.attempt(part, remote)
                return
            except IntegrityError:
                if self.stopped.is_set():  # another file has failed, and this one is incomplete
                    raise StoppedError from None
                self.reset(part)
                if number == attempts:
                    raise
            message = f"{self.model.id}: {original.path} has a wrong SHA-256; fetching it again"
            self.reporter.event("again", message, model=self.model.id, file=original.path)

    def attempt(self, part: PartialFile, remote: Remote) -> None:
        """Have the missing ranges written by other threads, and hash the file meanwhile.

        Raises:
            IntegrityError: the bytes are other ones than the lock says.

        """
        # The Hub is asked for an empty file, too: its listing may be wrong.
        ranges = split_ranges(part.missing(), self.limits.segment) or [(0, 0)]
        transfer = _FileTransfer(self, part, remote)
        connections = RangeConnections(self.segments, self.jobs, transfer, part.file.size, ranges, self.limits)
        self.transfers.append(transfer)
        try:
            connections.open()
            sha256 = part.hash()
            if not part.file.size:  # no byte to wait for, but the Hub's answer
                wait(connections.futures)
        finally:  # no thread may write to this file any more when the next attempt begins
            connections.close()
            self.transfers.remove(transfer)
        _raise_failure_of(connections.futures)
        if sha256 != part.file.sha256:
            raise IntegrityError(
                f"{self.model.id}: {part.file.path} came with other bytes than it is pinned with, twice:\n"
                f"  expected sha256 {part.file.sha256}\n  found    sha256 {sha256}",
                hint="A proxy or a cache before the registry may change files; else push the image again."
                if self.locations.published
                else "A proxy or mirror may change files; compare with the repository's page on the Hub.",
            )

    def progressed(self, count: int) -> None:
        """Count new bytes: while some come, no file of the model is given up."""
        self.reporter.advance(count)
        for transfer in tuple(self.transfers):
            transfer.retry_state.progressed(count)

    def reset(self, part: PartialFile) -> None:
        self.reporter.advance(-part.total(), found=True)
        part.start_over()

    def abandon(self) -> None:
        """Release all threads that wait for bytes or in a pause."""
        self.stopped.set()
        for part in list(self.open_parts):
            part.abandon()


class _FileTransfer:
    """The transfer of one file: it writes the bytes, and counts failures for the file."""

    def __init__(self, downloading: _ModelDownload, part: PartialFile, remote: Remote) -> None:
        self._downloading = downloading
        self._part = part
        self._remote = remote
        what = f"{downloading.model.id}: {part.file.path}"
        self.retry_state = RetryState(what, downloading.policy, downloading.reporter, downloading.stopped)
        self.failed = self.retry_state.failed
        self.abandon = part.abandon

    def request(self, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self._remote.open(self._part.file, start, end)

    def write(self, start: int, pieces: list[bytes]) -> None:
        if self._downloading.stopped.is_set() or self._part.abandoned:
            raise StoppedError
        self._downloading.progressed(self._part.write(start, pieces))


def _raise_failure_of(futures: Sequence[Future[None]]) -> None:
    if error := failure_of(futures):
        raise error
