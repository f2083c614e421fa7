"""How many connections one file gets: one, and more where that one is slow and others start promptly.

The first connection asks for all that is missing, and streams on from range to range until it meets one that another
connection has claimed. So a mirror that allows one connection is asked for one, and a cache that fetches a whole file
before it answers for the end of it is not asked for the end.

Content networks hold a single connection to some tens of megabytes a second; there, parallel connections bring more. A
connection that is measured to be slow opens one more on trial, for the last range, which the first one reaches last. If
that one starts promptly, all that are allowed are opened.

Failures count for the file, not for a connection. A connection that does not start, while others are open, gives its
range back and ends, and no further one is opened for a while. Only the last one pauses, tries again, and gives up.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from modelcache.transfer.byte_ranges import Range
from modelcache.transfer.retry import NoRangesError, SilentError, TransientError


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How a file is split into ranges, and when it gets more connections."""

    segment: int = 32 << 20
    """Bytes of a range."""
    first_connections: int = 1
    """Connections at the start."""
    measured_after: float = 0.05
    """Seconds of waiting for a server after which its speed is judged."""
    fast: int = 200_000_000
    """Bytes a second; a connection of this speed is limited by this machine alone."""
    prompt: float = 2.0
    """Seconds in which a connection on trial has to bring its first bytes, or no more are opened."""
    pause: float = 30.0
    """Seconds in which none is opened after one that did not start."""


class Transfer(Protocol):
    """How the ranges of one file are requested and written."""

    def request(self, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Ask for the bytes from `start` up to, not including, `end`, once."""

    def write(self, start: int, pieces: list[bytes]) -> None:
        """Write bytes that came; they may be there already."""

    def failed(self, error: TransientError) -> None:
        """Pause before another try, or raise when there is none left."""

    def abandon(self) -> None:
        """Release the thread that waits for the bytes: this file has failed."""


@dataclass(slots=True)
class _Claim:
    """The range of a connection: `start` moves as bytes come, `end` as the connection streams on."""

    start: int
    end: int
    started: bool = False


@dataclass(eq=False)
class RangeConnections:
    """Downloads the ranges of one file of `size` bytes over `most` connections at the most."""

    pool: Executor
    most: int
    transfer: Transfer
    size: int
    unclaimed: list[Range]
    """Ranges without a connection, sorted."""
    limits: TransferLimits = TransferLimits()
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        self.futures: list[Future[None]] = []
        self._from_start = False
        """Whether the file is asked for from its beginning, because its end cannot be had otherwise."""
        self._count = 0
        self._on_trial = self._prompt = False
        self._not_before = 0.0
        self._opener = 0
        self._closed = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Start the first connections."""
        self._opener = threading.get_ident()
        self._count = min(self.limits.first_connections, self.most, len(self.unclaimed))
        for _ in range(self._count):
            self.futures.append(self.pool.submit(self._run))

    def close(self) -> None:
        """Start nothing more, and wait for the connections that run; afterwards `futures` are theirs, all done."""
        with self._lock:
            self.unclaimed.clear()
            self._closed = True
        known = 0
        while known < len(self.futures):  # a connection that was running may have started another one before it ended
            known = len(self.futures)
            # Queued tasks are not waited for: they would run only after the work before them.
            wait([future for future in self.futures[:known] if not future.cancel()])
        self.futures = [future for future in self.futures if not future.cancelled()]

    def _run(self, *, trial: bool = False) -> None:
        """Download one range after the other over one connection."""
        if threading.get_ident() == self._opener:
            self.most = 1  # the pool has no thread, so this is the only one there is
        try:
            while (claim := self._next_claim(last=trial)) is not None:
                try:
                    self._download(claim, trial=trial)
                except TransientError as error:
                    if not self._give_back(claim, error):
                        return
                trial = False
        except BaseException:
            self.transfer.abandon()
            raise

    def _next_claim(self, *, last: bool) -> _Claim | None:
        with self._lock:
            if self._closed or not self.unclaimed:
                self._count -= 1
                self._on_trial = self._on_trial and not last
                return None
            return _Claim(*self.unclaimed.pop(-1 if last else 0))

    def _download(self, claim: _Claim, *, trial: bool) -> None:
        """Download a range, and the unclaimed ones that follow it."""
        began, end = self.clock(), self._end_of_request(claim)
        with self.transfer.request(claim.start, end) as chunks:
            for pieces in self._measure(chunks):
                if trial and not claim.started:
                    self._end_trial(self.clock() - began)
                claim.started = True
                self.transfer.write(claim.start, pieces)
                claim.start += sum(map(len, pieces))
                if self._closed or (claim.end <= claim.start < end and not self._extend(claim)):
                    return

    def _end_of_request(self, claim: _Claim) -> int:
        """Return the end of the bytes to ask for; they go beyond the range if no other connection is open."""
        with self._lock:
            end = claim.end
            for start, stop in self.unclaimed if self._count == 1 else ():
                if start == end:
                    end = stop
            return end

    def _extend(self, claim: _Claim) -> bool:
        """Claim the range that follows, if it is unclaimed."""
        with self._lock:
            at = bisect_left(self.unclaimed, (claim.end, claim.end))
            if at == len(self.unclaimed) or self.unclaimed[at][0] != claim.end:
                return False
            claim.end = self.unclaimed.pop(at)[1]
            return True

    def _measure(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        """Pass chunks on; open more connections while they come slowly."""
        limits, count, waited, asked = self.limits, 0, 0.0, self.clock()
        for pieces in chunks:
            waited += self.clock() - asked
            count += sum(map(len, pieces))
            if waited > limits.measured_after:
                if count < waited * limits.fast:
                    self._open_more(trial=not self._prompt)
                count, waited = 0, 0.0
            yield pieces
            asked = self.clock()

    def _end_trial(self, seconds: float) -> None:
        """Open all connections if the one on trial has started promptly."""
        with self._lock:
            self._on_trial, self._prompt = False, seconds <= self.limits.prompt
            if not self._prompt:
                self._not_before = self.clock() + self.limits.pause
        if self._prompt:
            self._open_more(trial=False)

    def _open_more(self, *, trial: bool) -> None:
        with self._lock:
            if self._closed or self._on_trial or self.clock() < self._not_before:
                return
            # An open connection streams on into the next range: for that one another connection is not worth its start.
            wanted = min(self.most - self._count, len(self.unclaimed) - 1)
            if trial:
                wanted = min(wanted, 1)
                self._on_trial = wanted > 0
            self._count += max(wanted, 0)
        for _ in range(wanted):
            self.futures.append(self.pool.submit(self._run, trial=trial))

    def _give_back(self, claim: _Claim, error: TransientError) -> bool:
        """Give back the rest of a range; return whether the connection that failed tries again.

        Raises:
            HubError: it was the last one, and no try is left.

        """
        learned = False
        with self._lock:
            if self._closed:
                return False
            if not claim.started:
                self._on_trial = self._prompt = False
                self._not_before = self.clock() + self.limits.pause
                if self._count > 1:
                    self._count -= 1
                    insort(self.unclaimed, (claim.start, claim.end))
                    return False
                learned = isinstance(error, NoRangesError) and not self._from_start
                self._from_start |= learned or (isinstance(error, SilentError) and claim.start > 0)
            if self._from_start:
                self.unclaimed = [(0, self.size)]
            elif claim.start < claim.end or not self.size:
                insort(self.unclaimed, (claim.start, claim.end))
        if not learned:
            self.transfer.failed(error)
        return True
