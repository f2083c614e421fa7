"""A FIFO semaphore: threads acquire in arrival order, and its limit can change.

A plain semaphore may give the next turn to the thread that has just released it: one thread with many requests would
starve all others.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class FairSemaphore:
    """A context manager that `limit` threads can hold at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders = 0
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
            self._holders -= 1
            self._admit()

    def set_limit(self, limit: int) -> None:
        """Let so many threads hold it from now on; those that hold it keep it."""
        with self._lock:
            self._limit = limit
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._holders < self._limit:
            self._holders += 1
            self._waiting.popleft().release()
