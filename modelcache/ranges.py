"""Half-open byte ranges of one file: which are there, which are missing. Arithmetic only."""

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
        first = bisect_left(self._ranges, start, key=lambda pair: pair[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            start, end = min(start, self._ranges[last][0]), max(end, self._ranges[last][1])
            last += 1
        self._ranges[first:last] = [(start, end)]

    def missing(self, size: int) -> list[Range]:
        """Return what lacks of the first `size` bytes."""
        gaps, position = [], 0
        for start, end in self._ranges:
            if start > position:
                gaps.append((position, min(start, size)))
            position = max(position, end)
        if position < size:
            gaps.append((position, size))
        return [(start, end) for start, end in gaps if start < end]

    def frontier(self) -> int:
        """Return how many bytes are there from the beginning without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    def total(self) -> int:
        """Return how many bytes are there."""
        return sum(end - start for start, end in self._ranges)


def cut(ranges: Iterable[Range], length: int) -> list[Range]:
    """Split ranges so that none is longer than `length`."""
    return [(at, min(at + length, end)) for start, end in ranges for at in range(start, end, length)]
