"""Byte ranges against the plainest model there is: a set of numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.transfer.byte_ranges import Range, Ranges, split_ranges

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def numbers(ranges: list[Range]) -> set[int]:
    """Return every byte of the ranges."""
    return {number for start, end in ranges for number in range(start, end)}


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ([], []),
        ([(3, 3)], []),
        ([(5, 2)], []),
        ([(0, 4)], [(0, 4)]),
        ([(0, 4), (4, 8)], [(0, 8)]),
        ([(4, 8), (0, 4)], [(0, 8)]),
        ([(0, 4), (5, 8)], [(0, 4), (5, 8)]),
        ([(5, 8), (0, 4)], [(0, 4), (5, 8)]),
        ([(0, 9), (2, 3)], [(0, 9)]),
        ([(2, 3), (0, 9)], [(0, 9)]),
        ([(0, 4), (2, 6)], [(0, 6)]),
        ([(0, 1), (2, 3), (4, 5), (1, 4)], [(0, 5)]),
        ([(0, 1), (2, 3), (4, 5), (2, 9)], [(0, 1), (2, 9)]),
    ],
    ids=[
        "nothing",
        "an empty range",
        "a range backwards",
        "one",
        "neighbours",
        "neighbours backwards",
        "a gap of one",
        "a gap of one backwards",
        "inside",
        "around",
        "overlapping",
        "filling two gaps",
        "swallowing one and growing another",
    ],
)
def test_add_merges(added: list[Range], expected: list[Range]) -> None:
    """Ranges are kept sorted, disjoint and as few as possible."""
    assert list(Ranges(added)) == expected


@pytest.mark.parametrize(
    ("there", "size", "expected"),
    [
        ([], 0, []),
        ([], 5, [(0, 5)]),
        ([(0, 5)], 5, []),
        ([(0, 3)], 5, [(3, 5)]),
        ([(2, 5)], 5, [(0, 2)]),
        ([(1, 2), (3, 4)], 5, [(0, 1), (2, 3), (4, 5)]),
        ([(0, 9)], 5, []),
        ([(7, 9)], 5, [(0, 5)]),
        ([(3, 4), (7, 9), (11, 12)], 5, [(0, 3), (4, 5)]),
    ],
    ids=["empty file", "all", "none", "the end", "the beginning", "gaps", "too much", "beyond", "partly beyond"],
)
def test_missing(there: list[Range], size: int, expected: list[Range]) -> None:
    """What lacks is told within the size only."""
    assert Ranges(there).missing(size) == expected


@pytest.mark.parametrize(
    ("there", "frontier", "total"),
    [([], 0, 0), ([(0, 4)], 4, 4), ([(1, 4)], 0, 3), ([(0, 4), (6, 9)], 4, 7), ([(0, 4), (4, 9)], 9, 9)],
    ids=["nothing", "a beginning", "no beginning", "a gap", "neighbours"],
)
def test_frontier_and_total(there: list[Range], frontier: int, total: int) -> None:
    """The frontier is where a hash that reads from the start has to stop."""
    assert (Ranges(there).frontier(), Ranges(there).total()) == (frontier, total)


@pytest.mark.parametrize(
    ("ranges", "length", "expected"),
    [
        ([], 4, []),
        ([(0, 4)], 4, [(0, 4)]),
        ([(0, 9)], 4, [(0, 4), (4, 8), (8, 9)]),
        ([(1, 3), (5, 10)], 3, [(1, 3), (5, 8), (8, 10)]),
    ],
    ids=["nothing", "one whole", "a rest", "two ranges"],
)
def test_cut(ranges: list[Range], length: int, expected: list[Range]) -> None:
    """Pieces stay in order and none is longer than asked."""
    assert split_ranges(ranges, length) == expected


@settings(deadline=None)
@given(PAIRS)
def test_a_set_of_ranges_is_a_set_of_numbers(pairs: list[Range]) -> None:
    """Whatever is added in whatever order, the bytes are those of a plain set, sorted and merged."""
    there, expected = Ranges(pairs), numbers(pairs)
    found = list(there)
    assert numbers(found) == expected
    assert there.total() == len(expected)
    assert all(start < end for start, end in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    assert there.frontier() == next(number for number in range(62) if number not in expected)


@settings(deadline=None)
@given(PAIRS, st.integers(0, 70))
def test_missing_is_the_complement(pairs: list[Range], size: int) -> None:
    """There and missing are disjoint and together the whole file; adding the missing leaves nothing to do."""
    there = Ranges(pairs)
    missing = there.missing(size)
    assert numbers(missing) == set(range(size)) - numbers(pairs)
    assert all(start < end for start, end in missing)
    for start, end in missing:
        there.add(start, end)
    assert there.missing(size) == []
    assert there.frontier() >= size


@settings(deadline=None)
@given(PAIRS, st.integers(1, 20))
def test_cut_loses_nothing(pairs: list[Range], length: int) -> None:
    """Pieces are never empty, never too long, and hold the same bytes."""
    ranges = list(Ranges(pairs))
    pieces = split_ranges(ranges, length)
    assert numbers(pieces) == numbers(ranges)
    assert sum(end - start for start, end in pieces) == Ranges(pairs).total()
    assert all(0 < end - start <= length for start, end in pieces)
