"""How long hypothesis looks for trouble: in CI at the same few cases, with FAULTS=all at many, others each time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.faults.scenarios import ALL

EXAMPLES = 20_000 if ALL else 120
BUDGET = settings(
    max_examples=EXAMPLES,
    derandomize=not ALL,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SOON = 10.0
"""Seconds for a busy machine; what hangs, hangs for longer."""


@contextmanager
def soon() -> Iterator[None]:
    """Fail when something takes long."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON


def mutated(valid: bytes, pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    """A valid document in which some bytes were changed, cut out, doubled, or replaced by pieces of others."""
    place = st.integers(0, len(valid))
    change = st.tuples(place, place, st.binary(max_size=3) | st.sampled_from(pieces), st.booleans())

    def change_it(changes: list[tuple[int, int, bytes, bool]]) -> bytes:
        content = valid
        for one, other, piece, doubles in changes:
            start, end = sorted((one, min(other, one + 30)))
            content = content[: end if doubles else start] + piece + content[start if doubles else end :]
        return content

    return st.lists(change, min_size=1, max_size=4).map(change_it)


def json_values(*words: str) -> st.SearchStrategy[object]:
    """Any JSON, with the words of a format among its keys and texts."""
    texts = st.sampled_from(words) | st.text(max_size=5)
    numbers = st.integers(-2, 1 << 70) | st.floats()
    leaves = st.none() | st.booleans() | numbers | texts
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=6), max_leaves=20
    )
