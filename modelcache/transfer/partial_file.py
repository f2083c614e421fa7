"""A partly downloaded file: its bytes, the journal of its completed ranges, and its SHA-256.

Invariant: **a written byte is final.** A writer claims bytes before it writes them and records them afterwards; bytes
that are claimed or recorded are never written again, whatever a server sends, and the hash reads recorded bytes only.
So the hash is that of the bytes in this inode. An inode has one `PartialFile`, which has created it. Other bytes take
a new inode and a new hash (`start_over`), and a descriptor is closed only when no thread writes to it.

The file is named by its SHA-256, so another process that needs the same content can continue it. Ranges arrive in any
order; each is written first and then recorded in the journal, so after `kill -9` the journal never names a byte that
was not written. (After a power cut it may; the hash finds out.) A file without a journal is complete or empty.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelcache.core.types import Original
from modelcache.system.durable import start_writeback
from modelcache.system.files import copy_range, create_file, read_own
from modelcache.transfer.byte_ranges import Range, Ranges

_READ_SIZE = 1 << 20
_LARGEST_JOURNAL = 16 << 20
_MOST_RANGES = 1000
_MOST_DIGITS = 18


class PartialFile:
    """A file of `file.size` bytes being written below `folder`; safe to write from several threads."""

    def __init__(self, folder: Path, file: Original) -> None:
        self.file = file
        self.path = folder / file.sha256
        self._journal_path = journal_of(self.path)
        self._changed = threading.Condition()
        self._claimed: list[Range] = []
        self._open()

    def _open(self) -> None:
        self._fd: int | None = create_file(self.path, os.O_RDWR | os.O_EXCL)
        self._journal: int | None = None
        self._written = Ranges()
        self.abandoned = False

    def close(self) -> None:
        """Close the descriptors once no thread writes to them; the bytes stay for the next process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._claimed)
            for fd in (self._fd, self._journal):
                if fd is not None:
                    os.close(fd)
            self._fd = self._journal = None

    def missing(self) -> list[Range]:
        """Return the byte ranges that are not written yet."""
        with self._changed:
            return self._written.missing(self.file.size)

    def total(self) -> int:
        """Return how many bytes are written."""
        with self._changed:
            return self._written.total()

    def write(self, start: int, pieces: Sequence[bytes]) -> int:
        """Write those of the bytes, given in pieces, that are not written yet; return how many these were."""
        end, written = start + sum(map(len, pieces)), 0
        # A file that comes in one piece needs no journal: it is complete or it is not.
        if end - start < self.file.size:
            self._open_journal()
        while True:
            with self._claim(start, end) as claim:
                if claim is None:
                    return written
                _write_all(self._descriptor(), _slice_of(pieces, claim[0] - start, claim[1] - start), claim[0])
                start_writeback(self._descriptor(), *claim)
                self._record(*claim)
                written += claim[1] - claim[0]

    def copy_from(self, source: Path, start: int = 0, *, whole: bool = False) -> None:
        """Copy the bytes that another process has written of this content.

        A copy, not a rename: that process may be suspended, and write on when it continues. `whole` says that the
        source is a complete file and no partial one, or holds one from `start` on.
        """
        # The standard Hugging Face cache is made of links; a link in place of a partial file is not followed.
        follow = 0 if whole else os.O_NOFOLLOW
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | follow)
        except OSError:
            return  # its owner may be alive, and have removed it
        source_ranges = Ranges([(0, self.file.size)]) if whole else written_ranges(source, self.file.size)
        try:
            self._open_journal()
            with self._changed:
                missing = [gap for one in source_ranges for gap in self._written.gaps(*one)]
            for gap in missing:
                with self._claim(*gap) as claim:
                    if claim is not None:
                        for done in copy_range(fd, self._descriptor(), *claim, base=start):
                            self._record(*done)
        finally:
            os.close(fd)

    def hash(self) -> str:
        """Return the SHA-256 of the file, following the writers until the last byte is written.

        Returns an empty string if the file was abandoned meanwhile.
        """
        digest, buffer, position = hashlib.sha256(), memoryview(bytearray(min(_READ_SIZE, self.file.size))), 0
        while position < self.file.size:
            with self._changed:
                while (frontier := self._written.frontier()) <= position and not self.abandoned:
                    self._changed.wait()
                if self.abandoned:
                    return ""
            while position < frontier:
                count = os.preadv(self._descriptor(), [buffer[: min(frontier - position, _READ_SIZE)]], position)
                if not count:
                    return ""  # another process has truncated the file
                digest.update(buffer[:count])
                position += count
        return digest.hexdigest()

    def abandon(self) -> None:
        """Release the thread that waits in `hash`: no more bytes will be written."""
        with self._changed:
            self.abandoned = True
            self._changed.notify_all()

    def start_over(self) -> None:
        """Discard every byte; the next ones go to a new inode."""
        self.close()
        for path in (self.path, self._journal_path):
            path.unlink(missing_ok=True)
        self._open()

    def finish(self, target: Path) -> None:
        """Move the complete file to its name in the model."""
        self.close()
        os.rename(self.path, target)
        self._journal_path.unlink(missing_ok=True)

    def _descriptor(self) -> int:
        if self._fd is None:
            raise ValueError("the partial file is closed")
        return self._fd

    @contextmanager
    def _claim(self, start: int, end: int) -> Iterator[Range | None]:
        """Reserve the first bytes of a range that are neither written nor claimed; None if there are none.

        A claim that ends without a record, as when the disk refuses, is free again.
        """
        with self._changed:
            self._descriptor()
            gaps, claimed = self._written.gaps(start, min(end, self.file.size)), Ranges(self._claimed)
            claim = next((free for gap in gaps for free in claimed.gaps(*gap)), None)
            if claim is not None:
                self._claimed.append(claim)
        try:
            yield claim
        finally:
            if claim is not None:
                with self._changed:
                    self._claimed.remove(claim)
                    self._changed.notify_all()

    def _open_journal(self) -> None:
        with self._changed:
            self._descriptor()
            if self._journal is None:
                self._journal = create_file(self._journal_path, os.O_WRONLY | os.O_APPEND)

    def _record(self, start: int, end: int) -> None:
        if self._journal is not None:
            os.write(self._journal, b"%d %d\n" % (start, end))
        with self._changed:
            self._written.add(start, end)
            self._changed.notify_all()


def _slice_of(pieces: Sequence[bytes], start: int, end: int) -> list[memoryview]:
    """Return the bytes of a sequence of pieces from `start` up to, not including, `end`."""
    views, position = [], 0
    for piece in pieces:
        first, last = max(start - position, 0), min(end - position, len(piece))
        if first < last:
            views.append(memoryview(piece)[first:last])
        position += len(piece)
    return views


def _write_all(fd: int, left: list[memoryview], position: int) -> None:
    """Write pieces one after the other, however few bytes the kernel takes at a time."""
    while left:
        done = os.pwritev(fd, left, position)
        position += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]


def journal_of(part: Path) -> Path:
    """Return the path of the journal of a partial file."""
    return part.with_name(part.name + ".ranges")


def written_ranges(part: Path, size: int) -> Ranges:
    """Return the ranges of a partial file that are written, by its journal; a torn or foreign line does not count.

    A journal with more gaps than parallel segments can leave was not written by this tool, and does not count either.
    """
    try:
        length = part.stat().st_size
    except FileNotFoundError:
        return Ranges()
    try:
        lines = read_own(journal_of(part), limit=_LARGEST_JOURNAL).split(b"\n")[:-1]
    except FileNotFoundError:
        return Ranges([(0, size)] if length == size else [])
    except OSError:
        return Ranges()
    ranges = Ranges()
    for line in lines:
        numbers = line.split(b" ")
        if len(numbers) == 2 and all(number.isdigit() and len(number) <= _MOST_DIGITS for number in numbers):
            ranges.add(int(numbers[0]), min(int(numbers[1]), length, size))
        if len(ranges) > _MOST_RANGES:
            return Ranges()  # each gap would be a request
    return ranges
