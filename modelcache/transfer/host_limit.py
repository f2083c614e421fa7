"""How many requests one host gets at the same time: all that are allowed, and fewer once it refuses some.

Mirrors and content networks limit the connections of an address (nginx `limit_conn`). They refuse by 429 or 503, by a
reset, or by silence, while they answer other requests. A host that refuses a request while it answers others gets no
more than those at a time; the rest wait for their turn. From time to time it gets one more. A host is a name or an
address without its port: such a limit is for an address.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelcache.transfer.fair_semaphore import FairSemaphore

_RAISE_AFTER = 30.0
"""Seconds without a refusal after which the limit is raised by one."""


class HostLimit:
    """Requests to one host."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._semaphore = FairSemaphore(most)
        self._most = self._limit = most
        self._sent = self._answering = 0
        self._changed = self._not_before = 0.0
        self._clock = clock
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until the limit allows one more request; now and then raise the limit."""
        with self._lock:
            if self._limit < self._most and self._clock() - self._changed > _RAISE_AFTER:
                self._set(self._limit + 1)
        with self._semaphore:
            yield

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count a request from its sending to the end of its response."""
        with self._lock:
            self._sent += 1
        try:
            yield
        finally:
            with self._lock:
                self._sent -= 1

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a response while it is read."""
        with self._lock:
            self._answering += 1
        try:
            yield
        finally:
            with self._lock:
                self._answering -= 1

    def refused(self, *, by_status: bool) -> bool:
        """Lower the limit after a refusal; return whether the request may wait until others are done.

        A server that refuses by a status is at work, so all other requests count. One that is silent may be so to
        all, so only those count that it is answering.
        """
        with self._lock:
            others = self._sent - 1 if by_status else self._answering
            if others:
                self._set(min(self._limit, others))
            return others > 0

    @property
    def pause(self) -> float:
        """Seconds until the host may get another request."""
        return max(self._not_before - self._clock(), 0.0)

    def hold_back(self, pause: float) -> None:
        """Hold back all requests to the host for so many seconds, as it has asked."""
        self._not_before = max(self._not_before, self._clock() + pause)

    def _set(self, limit: int) -> None:
        self._limit, self._changed = limit, self._clock()
        self._semaphore.set_limit(limit)
