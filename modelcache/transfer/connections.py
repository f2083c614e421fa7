"""The connections that one file comes over: one, and more where that one is slow and others start promptly.

The first connection asks for all that is missing and streams on from range to range for as long as no other one has
taken the next. So a mirror that allows one connection is asked for one, and a cache that fetches a whole file before
it answers for the end of it is not asked for the end.

Content networks hold a single connection to some tens of megabytes a second; there, connections side by side bring
more. A connection that is measured to be slow lets one more be tried, on the last range, which the first one reaches
last; when that one starts promptly, all that are allowed are opened.

Failures count for the file, not for a connection. A connection that does not start, while others are open, gives its
range back and ends: the server wants fewer, and gets fewer for a while. Only the last one pauses, tries again, and
gives up.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from modelcache.transfer.byte_ranges import Range
from modelcache.transfer.retry import NoRangesError, SilentError, TransientError


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How a file is split into requests, and when it gets more connections."""

    segment: int = 32 << 20
    """Bytes of a range."""
    first_connections: int = 1
    """Connections to begin with."""
    measured_after: float = 0.05
    """Seconds of waiting for a server after which its speed is judged."""
    fast: int = 200_000_000
    """Bytes a second; a connection that brings as many is held back by this machine alone."""
    prompt: float = 2.0
    """Seconds in which a further connection has to bring its first bytes, or no more are opened."""
    pause: float = 30.0
    """Seconds in which none is opened after one that did not start."""


class Transfer(Protocol):
    """How the ranges of one file are requested and written."""

    def request(self, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Ask for the bytes from `start` up to, not including, `end`, once."""

    def write(self, start: int, pieces: list[bytes]) -> None:
        """Take what came; it may be there already."""

    def failed(self, error: TransientError) -> None:
        """Pause before another try, or raise when there is none left."""

    def abandon(self) -> None:
        """Release the thread that waits for the bytes: this file has failed."""


@dataclass(slots=True)
class _Claim:
    """The range that a connection is at: `start` moves as bytes come, `end` as it streams on."""

    start: int
    end: int
    came: bool = False


class RangeConnections:
    """Brings the ranges of one file of `size` bytes over `most` connections at the most."""

    def __init__(
        self,
        pool: Executor,
        most: int,
        transfer: Transfer,
        size: int,
        ranges: Sequence[Range],
        limits: TransferLimits = TransferLimits(),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._pool = pool
        self._most = most
        self._transfer = transfer
        self._size = size
        self._limits = limits
        self._clock = clock
        self._free = list(ranges)
        """Ranges that no connection has claimed, sorted."""
        self._whole = False
        """Whether the file is asked for from its beginning, because its end cannot be had otherwise."""
        self._open = 0
        self._trying = self._prompt = False
        self._not_before = 0.0
        self._opener = 0
        self._closed = False
        self._lock = threading.Lock()
        self.futures: list[Future[None]] = []

    def open(self) -> None:
        """Begin."""
        self._opener = threading.get_ident()
        self._open = min(self._limits.first_connections, self._most, len(self._free))
        for _ in range(self._open):
            self.futures.append(self._pool.submit(self._run))

    def close(self) -> None:
        """Begin nothing more, and wait for what is begun; `futures` are of that then, all done."""
        with self._lock:
            self._free.clear()
            self._closed = True
        # Queued tasks are not waited for: they would run only after the work before them.
        self.futures = [future for future in self.futures if not future.cancel()]
        wait(self.futures)

    def _run(self, *, trial: bool = False) -> None:
        """Be one connection: bring one range after the other."""
        if threading.get_ident() == self._opener:
            self._most = 1  # the pool has no thread, so this is the only one there is
        try:
            while (claim := self._take(last=trial)) is not None:
                try:
                    self._bring(claim, trial=trial)
                except TransientError as error:
                    if not self._goes_on(claim, error):
                        return
                trial = False
        except BaseException:
            self._transfer.abandon()
            raise

    def _take(self, *, last: bool) -> _Claim | None:
        with self._lock:
            if self._closed or not self._free:
                self._open -= 1
                self._trying = self._trying and not last
                return None
            return _Claim(*self._free.pop(-1 if last else 0))

    def _bring(self, claim: _Claim, *, trial: bool) -> None:
        """Bring a range, and those behind it that are free."""
        began, end = self._clock(), self._end_of_request(claim)
        with self._transfer.request(claim.start, end) as chunks:
            for pieces in self._measured(chunks):
                if not claim.came:
                    claim.came = True
                    self._started(self._clock() - began, trial=trial)
                self._transfer.write(claim.start, pieces)
                claim.start += sum(map(len, pieces))
                if self._closed or (claim.end <= claim.start < end and not self._streams_on(claim)):
                    return

    def _end_of_request(self, claim: _Claim) -> int:
        """Ask beyond a range only while no other connection is open: each ends where the next one has begun."""
        with self._lock:
            end = claim.end
            for start, stop in self._free if self._open == 1 else ():
                if start == end:
                    end = stop
            return end

    def _streams_on(self, claim: _Claim) -> bool:
        """Claim what follows a range, if it is free."""
        with self._lock:
            at = bisect_left(self._free, (claim.end, claim.end))
            if at == len(self._free) or self._free[at][0] != claim.end:
                return False
            claim.end = self._free.pop(at)[1]
            return True

    def _measured(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        """Pass on what comes; have more connections opened while it comes slowly."""
        limits, count, waited, asked = self._limits, 0, 0.0, self._clock()
        for pieces in chunks:
            waited += self._clock() - asked
            count += sum(map(len, pieces))
            if waited > limits.measured_after:
                if count < waited * limits.fast:
                    self._add(trial=not self._prompt)
                count, waited = 0, 0.0
            yield pieces
            asked = self._clock()

    def _started(self, seconds: float, *, trial: bool) -> None:
        """Note that the server takes a further connection, and how promptly."""
        if not trial:
            return
        with self._lock:
            self._trying, self._prompt = False, seconds <= self._limits.prompt
            if not self._prompt:
                self._not_before = self._clock() + self._limits.pause
        if self._prompt:
            self._add(trial=False)

    def _add(self, *, trial: bool) -> None:
        with self._lock:
            if self._closed or self._trying or self._clock() < self._not_before:
                return
            # The one that is open goes on; with a single free range left a further one is not worth its start.
            wanted = min(self._most - self._open, len(self._free) - 1)
            if trial:
                wanted = min(wanted, 1)
                self._trying = wanted > 0
            self._open += max(wanted, 0)
        for _ in range(wanted):
            self.futures.append(self._pool.submit(self._run, trial=trial))

    def _goes_on(self, claim: _Claim, error: TransientError) -> bool:
        """Give back what is left of a range; say whether the connection that failed is needed for it.

        Raises:
            HubError: it was the last one, and has been tried often enough.

        """
        learned = False
        with self._lock:
            if self._closed:
                return False
            if not claim.came:
                self._trying = self._prompt = False
                self._not_before = self._clock() + self._limits.pause
                if self._open > 1:
                    self._open -= 1
                    insort(self._free, (claim.start, claim.end))
                    return False
                learned = isinstance(error, NoRangesError) and not self._whole
                self._whole |= learned or (isinstance(error, SilentError) and claim.start > 0)
            if self._whole:
                self._free = [(0, self._size)]
            elif claim.start < claim.end or not self._size:
                insort(self._free, (claim.start, claim.end))
        if not learned:
            self._transfer.failed(error)
        return True
