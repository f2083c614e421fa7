"""How many requests one host gets at the same time: all that are allowed, and fewer once it refuses some.

Mirrors and content networks limit the connections of an address (nginx `limit_conn`), and say so by 429 or 503, by a
reset, or by silence, while they answer others. A host that refuses a request while it is answering some is sent no
more than those at a time; the others wait for their turn. From time to time it is tried with one more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelcache.turns import Turns

_TRY_MORE_AFTER = 30.0
"""Seconds without a refusal after which one more request is sent at the same time."""


class HostLimit:
    """Requests to one host."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.turns = Turns(most)
        self._most = self._limit = most
        self._answering = 0
        self._changed = 0.0
        self._clock = clock
        self._lock = threading.Lock()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer while it is read."""
        with self._lock:
            self._answering += 1
        try:
            yield
        finally:
            with self._lock:
                self._answering -= 1
                if self._limit < self._most and self._clock() - self._changed > _TRY_MORE_AFTER:
                    self._set(self._limit + 1)

    def refused(self) -> bool:
        """Note that a request was refused; return whether others are being answered, so that it may wait for them."""
        with self._lock:
            if self._answering:
                self._set(min(self._limit, self._answering))
            return self._answering > 0

    def _set(self, limit: int) -> None:
        self._limit, self._changed = limit, self._clock()
        self.turns.set_limit(limit)
