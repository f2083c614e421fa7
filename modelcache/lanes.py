"""How many connections one file comes over: a few, and all that are allowed once those turn out to be slow.

Content networks hold a single connection to some tens of megabytes a second; there, connections side by side bring
more. A connection that brings hundreds is held back by this machine alone: more of them would only take turns at its
cores and at the file. (2.2 GB over loopback on 2 cores, hashed: 2.5 s over two connections, 3.0 s over eight.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from time import monotonic

from modelcache.ranges import Range

_FEW = 2
_LONG_ENOUGH = 0.05
_FAST = 200_000_000

Watch = Callable[[Iterator[list[bytes]]], Iterator[list[bytes]]]


class Lanes:
    """Brings the ranges of one file, `most` at a time at the most; each lane takes the next range when it is done."""

    def __init__(
        self, pool: Executor, most: int, bring: Callable[[Range, Watch], None], ranges: Iterable[Range]
    ) -> None:
        self._pool = pool
        self._most = most
        self._bring = bring
        self._ranges = deque(ranges)
        self._lock = threading.Lock()
        self.futures: list[Future[None]] = []

    def open(self) -> None:
        """Begin."""
        self._open(min(_FEW, self._most))

    def close(self) -> None:
        """Begin with no range any more, and wait for those that are begun; `futures` are theirs then, all done."""
        with self._lock:
            self._ranges.clear()
        # What is still in the pool's queue is not waited for: it would be done only after the lanes before it.
        self.futures = [lane for lane in self.futures if not lane.cancel()]
        wait(self.futures)

    def _open(self, count: int) -> None:
        with self._lock:
            for _ in range(min(count - len(self.futures), len(self._ranges))):
                self.futures.append(self._pool.submit(self._lane))

    def _lane(self) -> None:
        while True:
            try:
                piece = self._ranges.popleft()
            except IndexError:
                return
            self._bring(piece, self._watch)

    def _watch(self, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        """Pass on what comes; open all lanes as soon as it comes slowly."""
        count, waited, asked = 0, 0.0, monotonic()
        for pieces in chunks:
            waited += monotonic() - asked
            count += sum(map(len, pieces))
            if waited > _LONG_ENOUGH and count < waited * _FAST:
                self._open(self._most)
            yield pieces
            asked = monotonic()
