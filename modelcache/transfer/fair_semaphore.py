"""A FIFO semaphore: threads acquire in arrival order, and its limit can change.

A plain semaphore gives a thread that returns a turn the next one, too: requests that follow each other would starve all
others.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairSemaphore:
    """A context manager that lets `limit` threads in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            self._waiting.append(gate)
            self._admit()
        gate.acquire()  # until it is this thread's turn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            self._admit()

    def set_limit(self, limit: int) -> None:
        """Let so many threads in from now on; those that are inside already stay."""
        with self._lock:
            self._limit = limit
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < self._limit:
            self._inside += 1
            self._waiting.popleft().release()
