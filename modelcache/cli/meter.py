"""How far a transfer is: done, rate over the last seconds, time left. Nothing is printed here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from modelcache.core.text import duration_in_words, part_of, size_in_words

_WINDOW = 5.0
"""Seconds that a rate is taken over."""
_BETWEEN_SAMPLES = 0.5
_LONGEST = 99 * 3600
"""Seconds: a longer time left is not shown, because the transfer has stalled."""


class Meter:
    """Counts the bytes of one model, or of a whole run."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, 0
        self._clock = clock
        self._samples = deque([(clock(), 0)])

    def advance(self, count: int, *, found: int = 0) -> None:
        """Count more bytes; fewer, with a negative number, where some have to come again.

        Those that were `found` on this machine do not count for the rate.
        """
        self.done += count + found
        if found:
            self._samples = deque((at, done + found) for at, done in self._samples)
        now = self._clock()
        if now - self._samples[-1][0] >= _BETWEEN_SAMPLES:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
                self._samples.popleft()

    @property
    def percent(self) -> int:
        """Of the whole; 100 only at its end."""
        return min(100, self.done * 100 // self.total) if self.total else 100

    @property
    def rate(self) -> float:
        """Bytes a second."""
        began, before = self._samples[0]
        return max(0.0, self.done - before) / max(self._clock() - began, 1e-3)

    @property
    def left(self) -> float:
        """Seconds until the end, at this rate; 0 where there is no rate."""
        return max(0.0, self.total - self.done) / self.rate if self.rate > 0 else 0.0

    def cells(self) -> tuple[str, str, str, str]:
        """Return percent, bytes, rate and time left as words."""
        left = f"{duration_in_words(self.left)} left" if 0 < self.left < _LONGEST else ""
        return f"{self.percent} %", part_of(self.done, self.total), f"{size_in_words(self.rate)}/s", left
