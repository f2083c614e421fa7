"""Half-open byte ranges of one file: which are present, which are missing. Arithmetic only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class Ranges:
    """A set of bytes as sorted, disjoint `(start, end)` pairs; neighbours are merged."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` up to, not including, `end`."""
        if start >= end:
            return
        first = last = self._first_ending_at(start)
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            start, end = min(start, self._ranges[last][0]), max(end, self._ranges[last][1])
            last += 1
        self._ranges[first:last] = [(start, end)]

    def gaps(self, start: int, end: int) -> Iterator[Range]:
        """Yield the missing ranges from `start` up to, not including, `end`."""
        for begin, stop in self._ranges[self._first_ending_at(start) :]:
            if begin >= end:
                break
            if begin > start:
                yield start, begin
            start = max(start, stop)
        if start < end:
            yield start, end

    def missing(self, size: int) -> list[Range]:
        """Return the missing ranges of the first `size` bytes."""
        return list(self.gaps(0, size))

    def frontier(self) -> int:
        """Return how many bytes are present from the beginning without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    def total(self) -> int:
        """Return how many bytes are present."""
        return sum(end - start for start, end in self._ranges)

    def _first_ending_at(self, start: int) -> int:
        """Return the index of the first range that ends at `start` or behind it."""
        return bisect_left(self._ranges, start, key=lambda pair: pair[1])


def split_ranges(ranges: Iterable[Range], length: int) -> list[Range]:
    """Split ranges so that none is longer than `length`."""
    return [(at, min(at + length, end)) for start, end in ranges for at in range(start, end, length)]
