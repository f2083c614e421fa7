"""The recorded numbers beside those of now: a move is told with its probe, and by how much."""

from __future__ import annotations

import math
import tracemalloc
from array import array
from dataclasses import replace

import pytest

from modelcache.check.comparison import compare, moved, moved_prompts
from modelcache.check.golden import Golden, Tolerance, tolerance_for
from modelcache.check.probes import Answer, Probe
from tests.unit.check.test_golden import MATRICES, SCORES, SPARSE, VECTORS, floats, matrix, sparse


def answers(*values: array[float], golden: Golden = VECTORS) -> list[Answer]:
    """Answer the probes of a recording with these numbers."""
    return [Answer(then.probe, now) for then, now in zip(golden.answers, values, strict=True)]


def said(*values: array[float], golden: Golden = VECTORS) -> list[str]:
    """What is said of these numbers."""
    return list(moved(compare(golden, answers(*values, golden=golden))))


def test_the_recorded_numbers_have_not_moved() -> None:
    """Neither have some whose last bits differ, as on another processor."""
    assert said(*(answer.values for answer in VECTORS.answers)) == []
    assert said(floats(1, 1e-4, 0), floats(0.6000001, 0.8, 0), floats(0, 1e-7, 0)) == []
    assert said(floats(0.25001), golden=SCORES) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((floats(1, 0.01, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), 'probe 1 of 3 ("one") moved: cosine 0.99995'),
        ((floats(1, 0, 0), floats(-0.6, -0.8, 0), floats(0, 0, 0)), 'probe 2 of 3 ("two" as query) moved: cosine -1.0'),
        ((floats(1, 0, 0), floats(0.6, 0.8, 0), floats(0, 0.1, 0)), "probe 3 of 3 (80 words) is no longer zero"),
        ((floats(0, 0, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), 'probe 1 of 3 ("one") has become zero'),
        ((floats(1, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), "gave 3 numbers, and now 2"),
        ((floats(math.nan, 0, 0), floats(0.6, 0.8, 0), floats(0, 0, 0)), "moved: cosine nan"),
    ],
)
def test_a_moved_vector_is_told_by_its_probe(values: tuple[array[float], ...], told: str) -> None:
    """Which one, and by how much; the others are not mentioned."""
    (line,) = said(*values)
    assert told in line


@pytest.mark.parametrize("value", [0.2502, math.nan, math.inf])
def test_a_moved_score_is_told(value: float) -> None:
    """A score is compared by its difference: 1e-4 is allowed."""
    (line,) = said(floats(value), golden=SCORES)
    assert 'probe 1 of 1 ("q" with "text") moved by' in line
    assert "0.0001 is allowed" in line


def told(golden: Golden, *found: Answer) -> str:
    """What is said of these answers, which is one sentence or none; those that are left out are as they were."""
    probes = [then.probe for then in golden.answers]
    now = [replace(answer, probe=probe) for answer, probe in zip(found, probes, strict=False)]
    return "".join(moved(compare(golden, [*now, *golden.answers[len(found) :]])))


@pytest.mark.parametrize(
    ("now", "change"),
    [
        ({3: 0.6, 7: 0.8}, ""),
        ({3: 0.6000001, 7: 0.8, 9: 1e-5}, ""),
        ({3: 0.6, 7: 0.8, 9: 0.01}, "is no longer zero at 9"),
        ({3: 0.6, 8: 0.8}, "is no longer zero at 8 and has become zero at 7"),
        ({7: 0.8}, "has become zero at 3"),
        ({}, "has become zero"),
        ({3: 0.8, 7: 0.6}, "moved: cosine 0.960000, at least 0.99999"),
        ({3: 1.2, 7: 1.6}, "has another length: 1 then, 2 now"),
        ({3: 0.6, 7: math.nan}, "moved: cosine nan, at least 0.99999"),
        ({3: 0.6, 7: 0.8, 9: math.nan}, "is no longer zero at 9"),
        (dict.fromkeys(range(3, 12), 1.0), "is no longer zero at 4, 5, 6, 8, 9 and 2 more"),
    ],
)
def test_a_moved_sparse_vector_is_told_by_its_indices(now: dict[int, float], change: str) -> None:
    """Which came and which went; where the same ones are left, by its angle and its length, as any vector."""
    assert told(SPARSE, sparse(now)) == (change and f'probe 1 of 2 ("one" as document) {change}')


def test_the_longer_a_sparse_vector_the_more_may_come_and_go() -> None:
    """Its numbers are no parts of a unit vector: what is little of it is so by its length."""
    coarse = replace(SPARSE, tolerance=tolerance_for("bfloat16"))
    long = replace(coarse, answers=(replace(sparse({3: 3, 7: 4}), probe=SPARSE.answers[0].probe),))
    assert told(coarse, sparse({3: 0.6, 7: 0.8, 9: 0.015})).endswith("is no longer zero at 9")
    assert told(long, sparse({3: 3, 7: 4, 9: 0.045})) == ""
    assert told(long, sparse({3: 3, 7: 4, 9: 0.055})).endswith("is no longer zero at 9")


def test_a_sparse_vector_of_another_vocabulary_is_told() -> None:
    """Its indices stand for other words; and one that was zero is one no longer."""
    assert told(SPARSE, sparse({3: 0.6, 7: 0.8}, 30_523)).endswith("gave 30522 numbers, and now 30523")
    assert told(SPARSE, SPARSE.answers[0], sparse({9: 1.0})) == 'probe 2 of 2 ("" as query) is no longer zero'


def test_zeros_of_a_sparse_vector_take_no_memory() -> None:
    """A hostile model gives a million of them for each of many texts, and each later check compares these."""
    dimension = 1 << 20
    wide = replace(SPARSE, answers=(sparse({0: 0.6, dimension - 1: 0.8}, dimension),))
    tracemalloc.start()
    try:
        assert told(wide, sparse({0: 0.8, dimension - 1: 0.6}, dimension)).endswith(
            "moved: cosine 0.960000, at least 0.99999"
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < dimension


@pytest.mark.parametrize("now", [floats(math.nan, 0, 0), floats(0, 0, math.nan), floats(0, math.inf, math.nan)])
def test_a_vector_that_was_zero_is_told_wherever_it_is_not_finite(now: array[float]) -> None:
    """No comparison with NaN holds, so it is looked for; and of a sparse vector its place decides nothing, either."""
    assert said(VECTORS.answers[0].values, VECTORS.answers[1].values, now) == [
        "probe 3 of 3 (80 words) is no longer zero"
    ]
    numbers = {index: value for index, value in enumerate(now) if value}
    assert told(SPARSE, SPARSE.answers[0], sparse(numbers)) == 'probe 2 of 2 ("" as query) is no longer zero'


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (matrix((1, 0), (0.6, 0.8), (0, 0)), ""),
        (matrix((1, 1e-4), (0.6000001, 0.8), (0, 1e-5)), ""),
        (matrix((1, 0), (0.8, 0.6), (0, 0)), "moved in row 2 of 3: cosine 0.960000, at least 0.99999"),
        (matrix((1, 0.1), (0.8, 0.6), (0, 0)), "moved in row 2 of 3: cosine 0.960000, at least 0.99999"),
        (matrix((1, 0.1), (0.6, 0.8), (0, 0)), "moved in row 1 of 3: cosine 0.995037, at least 0.99999"),
        (matrix((2, 0), (0.6, 0.8), (0, 0)), "has another length in row 1 of 3: 1 then, 2 now"),
        (matrix((0, 0), (0.8, 0.6), (0, 0)), "has become zero in row 1 of 3"),
        (matrix((1, 0), (0.6, 0.8), (1, 0)), "is no longer zero in row 3 of 3"),
        (matrix((1, 0), (0.6, math.nan), (1, 0)), "moved in row 2 of 3: cosine nan, at least 0.99999"),
        (matrix((1, 0), (0.6, 0.8)), "gave 3 rows, and now 2"),
        (matrix(), "gave 3 rows, and now 0"),
        (matrix((1, 0, 0), (0.6, 0.8, 0), columns=3), "gave 2 numbers, and now 3"),
    ],
)
def test_a_moved_matrix_is_told_by_its_row(now: Answer, change: str) -> None:
    """The one that has moved the most; another count of rows is a move, however equal the others are."""
    assert told(MATRICES, now) == (change and f'probe 1 of 2 ("one" as document) {change}')


@pytest.mark.parametrize(
    ("score", "change"),
    [
        (20.001, ""),
        (20.01, "moved by 0.01; 0.002 is allowed"),
        (math.nan, "moved by nan; 0.002 is allowed"),
        (math.inf, "moved by inf; 0.002 is allowed"),
    ],
)
def test_a_moved_score_of_two_matrices_is_told(score: float, change: str) -> None:
    """It is a sum of one number for each row of the query, so the larger it is the more it may move."""
    pair = Answer(Probe(), floats(score))
    assert told(MATRICES, MATRICES.answers[0], pair) == (change and f'probe 2 of 2 ("q" with "one") {change}')


def test_the_tolerance_is_the_files_own() -> None:
    """Whoever knows that the processors differ may say how much is too much."""
    values = (floats(1, 0.01, 0), floats(0.6, 0.8, 0), floats(0, 0, 0))
    assert said(*values, golden=replace(VECTORS, tolerance=Tolerance(cosine=0.9))) == []
    assert len(said(*values, golden=replace(VECTORS, tolerance=Tolerance(cosine=0.99996)))) == 1


def test_a_probe_that_was_not_answered_is_told() -> None:
    """Silence is no agreement."""
    assert list(moved(compare(SCORES, []))) == ['probe 1 of 1 ("q" with "text") was not answered']


def test_another_prompt_is_told_by_its_name() -> None:
    """It changes every vector made with it; the one that is used without asking, too."""
    assert list(moved_prompts(VECTORS, {"query": "query: ", "": "query"})) == []
    assert list(moved_prompts(VECTORS, {"query": "q: "})) == [
        'the default prompt was "query" and is ""',
        'the prompt "query" was "query: " and is "q: "',
    ]


def test_a_prompt_is_told_short_and_on_one_line() -> None:
    """It is the model's text: it draws no row, and does not hide the other one."""
    (told,) = moved_prompts(VECTORS, {"query": "q:\n   proven\x1b[2J" + "x" * 10_000, "": "query"})
    assert told.startswith('the prompt "query" was "query: " and is "q:\\n \\x20 proven\\x1b[2Jxxx')
    assert told.endswith('x…"')
    assert len(told) < 300
