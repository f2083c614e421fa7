"""By how much the outputs of a model have moved: figures of made-up answers, and the sentence about them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from modelcache.check.comparison import compare
from modelcache.check.golden import Golden, Tolerance
from modelcache.check.movement import (
    Movement,
    Range,
    furthest,
    measure,
    movement_fields,
    movement_sentence,
)
from modelcache.check.probes import TEXTS, Answer, Observation, Probe, probes_for
from modelcache.check.ranking import Ranking
from modelcache.core.effect import Effect
from modelcache.core.kinds import Kind, Output
from tests.conftest import PROJECT
from tests.unit.check.test_golden import floats, matrix, sparse

ONE, TWO, THREE = Probe("one"), Probe("two"), Probe("three")
PAIR = Probe("one", query="q")


def vector(probe: Probe, *values: float) -> Answer:
    """A vector, or a score."""
    return Answer(probe, floats(*values))


def moved(kind: Kind, then: Sequence[Answer], now: Sequence[Answer], **prompts: str) -> Movement:
    """Compare the outputs of then with those of now."""
    golden = Golden("a/b", kind, tuple(then), {"query": "q: "})
    observed = Observation(answers=now, prompts={"query": "q: ", **prompts})
    return measure(golden, observed, compare(golden, observed.answers))


def said(movement: Movement) -> str:
    """The sentence about a movement, without its beginning."""
    beginning, rest = movement_sentence(movement, "the recorded version").split(": ", 1)
    assert beginning == "compared with the recorded version"
    return rest


THEN = [vector(ONE, 1, 0, 0), vector(TWO, 0.8, 0.6, 0), vector(THREE, 0, 0, 1)]
NO_ORDER = "no order of texts to compare"
AGAIN = "vectors will differ: re-index"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (THEN, "0 of 3 outputs changed; vectors stay as they are, as far as these texts show"),
        (
            [vector(ONE, 1, 1e-5, 0), *THEN[1:]],
            "0 of 3 outputs changed; vectors stay as they are, as far as these texts show",
        ),
        (
            [vector(ONE, 0.8, 0.6, 0), vector(TWO, 1, 0, 0), vector(THREE, 0, 0, 1)],
            "2 of 3 outputs changed; cosine at least 0.8000, mean 0.8666;"
            f" 3 of 3 texts keep their nearest one, 3 the whole order; {AGAIN}",
        ),
        (
            [vector(ONE, 0, 0, 1), *THEN[1:]],
            "1 of 3 outputs changed; cosine at least 0.0000, mean 0.6666;"
            f" 2 of 3 texts keep their nearest one, 2 the whole order; {AGAIN}",
        ),
        (
            [vector(answer.probe, *(2 * number for number in answer.values)) for answer in THEN],
            "3 of 3 outputs changed; cosine at least 1.000000, mean 1.000000;"
            f" 3 of 3 texts keep their nearest one, 3 the whole order; 3 with another length; {AGAIN}",
        ),
        (
            [vector(answer.probe, *answer.values, 0) for answer in THEN],
            "3 of 3 outputs changed; 3 of 3 texts keep their nearest one, 3 the whole order;"
            f" 3 with 4 numbers instead of 3; {AGAIN}",
        ),
        (
            [vector(ONE, 0, 0, 0), *THEN[1:]],
            f"1 of 3 outputs changed; cosine at least 1.000000, mean 1.000000; {NO_ORDER}; 1 now zero; {AGAIN}",
        ),
        (
            [vector(ONE, math.nan, 0, 0), vector(TWO, math.inf, 0, 0), vector(THREE, 0, 0, -math.inf)],
            f"3 of 3 outputs changed; {NO_ORDER}; 3 not finite; {AGAIN}",
        ),
        (
            THEN[:1],
            f"2 of 3 outputs changed; cosine at least 1.000000, mean 1.000000; {NO_ORDER}; 2 not answered; {AGAIN}",
        ),
        ([], f"3 of 3 outputs changed; {NO_ORDER}; 3 not answered; {AGAIN}"),
    ],
)
def test_the_movement_of_vectors(now: list[Answer], told: str) -> None:
    """Their angles, their lengths, and whether they find each other; whatever cannot be compared is counted."""
    assert said(moved(Kind.EMBEDDING, THEN, now)) == told


def test_zeros_that_stay_are_no_movement_and_have_no_angle() -> None:
    """Some models give them for an empty text; one that is none any more is counted."""
    zero = vector(ONE, 0, 0)
    assert (
        said(moved(Kind.EMBEDDING, [zero], [zero]))
        == "0 of 1 outputs changed; vectors stay as they are, as far as these texts show"
    )
    assert f"{NO_ORDER}; 1 no longer zero; {AGAIN}" in said(moved(Kind.EMBEDDING, [zero], [vector(ONE, 1, 0)]))
    assert f"{NO_ORDER}; 1 not finite; {AGAIN}" in said(moved(Kind.EMBEDDING, [zero], [vector(ONE, math.nan, 0)]))


def test_a_cosine_is_rounded_down() -> None:
    """Of vectors that changed beyond the tolerance none is said to be equal."""
    by = math.sqrt(1 - 0.9999896**2)
    told = said(moved(Kind.EMBEDDING, [vector(ONE, 1, 0)], [vector(ONE, 0.9999896, by)]))
    assert told.startswith("1 of 1 outputs changed; cosine at least 0.999989, mean 0.999989; ")


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ({"query": "ask: "}, 'other prompts: "query"'),
        ({"document": "d: ", "": "query"}, 'other prompts: the default one, "document"'),
        ({"x\x1b[2J\n   proven": "d: "}, 'other prompts: "x\\x1b[2J\\n \\x20 proven"'),
    ],
)
def test_another_prompt_changes_vectors_of_which_none_was_compared(prompts: dict[str, str], told: str) -> None:
    """The texts of the probes with it may be no others, and those of the index are."""
    movement = moved(Kind.EMBEDDING, THEN, THEN, **prompts)
    cosine = "cosine at least 1.000000, mean 1.000000"
    assert said(movement) == f"0 of 3 outputs changed; {cosine}; {told}; {AGAIN}"


DOCUMENTS = [
    replace(sparse({3: 0.6, 7: 0.8}), probe=Probe("one", prompt="document")),
    replace(sparse({3: 1.0}), probe=Probe("two", prompt="document")),
    replace(sparse({9: 1.0}), probe=Probe("three", prompt="document")),
]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({3: 0.6, 7: 0.8}, "0 of 3 outputs changed; vectors stay as they are, as far as these texts show"),
        (
            {9: 0.6, 7: 0.8},
            "1 of 3 outputs changed; cosine at least 0.6400, mean 0.8800;"
            f" 2 of 3 texts keep their nearest one, 2 the whole order; {AGAIN}",
        ),
        (
            {},
            f"1 of 3 outputs changed; cosine at least 1.000000, mean 1.000000; {NO_ORDER}; 1 now zero; {AGAIN}",
        ),
        (
            {3: math.nan},
            f"1 of 3 outputs changed; cosine at least 1.000000, mean 1.000000; {NO_ORDER}; 1 not finite; {AGAIN}",
        ),
    ],
)
def test_the_movement_of_sparse_vectors(now: dict[int, float], told: str) -> None:
    """Over the indices of both; those that came or went count as zeros."""
    assert said(moved(Kind.SPARSE, DOCUMENTS, [replace(sparse(now), probe=DOCUMENTS[0].probe), *DOCUMENTS[1:]])) == told


def test_a_larger_vocabulary_leaves_no_angle() -> None:
    """The indices stand for other words."""
    now = [replace(answer, dimension=30_523) for answer in DOCUMENTS]
    movement = moved(Kind.SPARSE, DOCUMENTS, now)
    assert (movement.comparable, movement.cosines) == (0, None)
    assert "; 3 with 30523 numbers instead of 30522; " in said(movement)


MATRICES = [
    replace(matrix((1, 0), (0.6, 0.8)), probe=Probe("one", prompt="document")),
    Answer(PAIR, floats(20)),
]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (matrix((1, 0), (0.6, 0.8)), "0 of 2 outputs changed; vectors stay as they are, as far as these texts show"),
        (
            matrix((1, 0), (0.8, 0.6)),
            f"1 of 2 outputs changed; cosine at least 0.9600, mean 0.9800;"
            f" scores differ by 0 at most, 0 on average; {NO_ORDER}; {AGAIN}",
        ),
        (
            matrix((0, 0), (0, 0.9)),
            f"1 of 2 outputs changed; cosine at least 0.8000, mean 0.8000;"
            f" scores differ by 0 at most, 0 on average; {NO_ORDER}; 1 now zero; {AGAIN}",
        ),
        (
            matrix((1, 0), (0.6, 0.8), (0, 1)),
            f"1 of 2 outputs changed; scores differ by 0 at most, 0 on average; {NO_ORDER};"
            f" 1 with another number of rows; {AGAIN}",
        ),
        (
            matrix(),
            f"1 of 2 outputs changed; scores differ by 0 at most, 0 on average; {NO_ORDER};"
            f" 1 with another number of rows; {AGAIN}",
        ),
        (
            matrix((1, 0, 0), (0.6, 0.8, 0), columns=3),
            f"1 of 2 outputs changed; scores differ by 0 at most, 0 on average; {NO_ORDER};"
            f" 1 with 3 numbers instead of 2; {AGAIN}",
        ),
    ],
)
def test_the_movement_of_matrices(now: Answer, told: str) -> None:
    """Row by row, where there are as many; and the score of a pair."""
    assert said(moved(Kind.MULTI_VECTOR, MATRICES, [replace(now, probe=MATRICES[0].probe), MATRICES[1]])) == told


SCORES = [Answer(Probe(text, query="q"), floats(score)) for text, score in (("a", 3), ("b", 2), ("c", -1))]


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([3, 2, -1], "0 of 3 outputs changed; scores stay as they are, as far as these texts show"),
        ([3, 2.00005, -1], "0 of 3 outputs changed; scores stay as they are, as far as these texts show"),
        (
            [3.5, 2, -1.25],
            "2 of 3 outputs changed; scores differ by 0.5 at most, 0.25 on average; the order of the texts stays;"
            " scores will differ",
        ),
        (
            [3, -1, 2],
            "2 of 3 outputs changed; scores differ by 3 at most, 2 on average;"
            " the order of the texts changes, not the best one; scores will differ",
        ),
        (
            [2, 3, -1],
            "2 of 3 outputs changed; scores differ by 1 at most, 0.67 on average;"
            " the order of the texts changes, also the best one; scores will differ",
        ),
        (
            [math.nan, math.inf, -1],
            f"2 of 3 outputs changed; scores differ by 0 at most, 0 on average; {NO_ORDER};"
            " 2 not finite; scores will differ",
        ),
    ],
)
def test_the_movement_of_scores(scores: list[float], told: str) -> None:
    """By their differences, and by the order of the texts."""
    now = [Answer(then.probe, floats(score)) for then, score in zip(SCORES, scores, strict=True)]
    assert said(moved(Kind.RERANKER, SCORES, now)) == told


def test_scores_of_more_labels_are_not_compared() -> None:
    """Each stands for another one; of as many labels there is a difference, and no order."""
    two = [Answer(then.probe, floats(0, 1)) for then in SCORES]
    assert said(moved(Kind.RERANKER, SCORES, two)) == (
        f"3 of 3 outputs changed; {NO_ORDER}; 3 with 2 numbers instead of 1; scores will differ"
    )
    assert "scores differ by 1 at most, 1 on average; no order" in said(
        moved(Kind.RERANKER, two, [Answer(then.probe, floats(1, 2)) for then in SCORES])
    )


def test_the_tolerance_of_the_recorded_version_counts() -> None:
    """It may have been changed in the file."""
    golden = Golden("a/b", Kind.EMBEDDING, tuple(THEN), tolerance=Tolerance(cosine=0.7))
    observed = Observation(answers=[vector(ONE, 0.8, 0.6, 0), *THEN[1:]])
    assert measure(golden, observed, compare(golden, observed.answers)).effect is Effect.NONE


def test_the_furthest_version_is_the_one_with_the_largest_effect() -> None:
    """Then the one of which more outputs changed, then the one with the smaller cosine."""
    same, near, far = (
        Golden("a/b", Kind.EMBEDDING, (vector(ONE, 1, by, 0), *THEN[1:])) for by in (0, 0.1, 0.2)
    )  # fmt: skip
    observed = Observation(answers=THEN)
    assert furthest([], observed) is None
    for versions in ([same, near, far], [far, near, same]):
        found = furthest(versions, observed)
        assert found is not None
        assert found.cosines is not None
        assert found.cosines.least == pytest.approx(1 / math.hypot(1, 0.2))
    assert furthest([same], observed) == measure(same, observed, compare(same, observed.answers))


def test_the_fields_have_what_the_outputs_have() -> None:
    """Names and numbers alone, each of them finite, so that they are JSON."""
    assert movement_fields(moved(Kind.RERANKER, SCORES, [Answer(one.probe, floats(1)) for one in SCORES])) == {
        "effect": "certain",
        "recorded": 3,
        "comparable": 3,
        "changed": 3,
        "score_max": 2.0,
        "score_mean": pytest.approx(5 / 3),
        "queries": 1,
        "same_nearest": 1,
        "same_order": 1,
    }
    assert movement_fields(moved(Kind.EMBEDDING, THEN, [vector(ONE, math.nan, 0, 0), *THEN[1:]])) == {
        "effect": "certain",
        "recorded": 3,
        "comparable": 3,
        "changed": 1,
        "cosine_min": 1.0,
        "cosine_mean": 1.0,
    }


def noise(random: Random, answer: Answer, by: float = 0.3) -> Answer:
    """The same output, but for noise."""
    return replace(answer, values=floats(*(number + random.gauss(0, by) for number in answer.values)))


@pytest.mark.parametrize(("kind", "rows", "columns"), [(Kind.EMBEDDING, 1, 4096), (Kind.MULTI_VECTOR, 48, 128)])
def test_large_outputs_are_compared_in_a_second(kind: Kind, rows: int, columns: int) -> None:
    """In pure Python; of a long text there are 8,192 rows, and it has no place in the order of the others."""
    random = Random(1)
    matrices = kind.spec.output is Output.MATRIX
    ways = [Probe(prompt="document"), Probe(prompt="query")] if matrices else [Probe()]
    probes = [probe for way in ways for probe in probes_for(512, [way])]
    then = [
        Answer(
            probe,
            floats(*(random.gauss(0, 1) for _ in range(columns * (8192 if matrices and probe == probes[7] else rows)))),
            dimension=columns if matrices else 0,
        )
        for probe in probes
    ]
    now = [noise(random, answer) for answer in then]
    began = time.process_time()
    movement = moved(kind, then, now)
    assert time.process_time() - began < 3  # one second, and reserve for slow machines
    assert movement.changed == len(probes)
    assert movement.ranking.queries > 3


def test_texts_without_end_are_compared_all_the_same() -> None:
    """The code of a model may answer thousands of probes; their order is looked at as long as there is time."""
    random = Random(1)
    then = [vector(Probe(str(number)), random.gauss(0, 1), random.gauss(0, 1)) for number in range(5000)]
    movement = moved(Kind.EMBEDDING, then, [noise(random, answer) for answer in then])
    assert 0 < movement.ranking.queries < 100
    wide = [replace(matrix(*[(1, 0)] * 3000), probe=Probe(text, prompt="document")) for text in TEXTS]
    shorter = [replace(answer, values=answer.values[:-2]) for answer in wide]
    assert said(moved(Kind.MULTI_VECTOR, wide, shorter)) == (
        f"7 of 7 outputs changed; {NO_ORDER}; 7 with another number of rows; {AGAIN}"
    )


def test_the_page_shows_the_sentence() -> None:
    """docs/check.md has one line as an example, which is one that could be printed."""
    movement = Movement(
        Output.VECTOR,
        recorded=8,
        comparable=8,
        changed=8,
        cosines=Range(0.84125, 0.91207, 0.9532),
        ranking=Ranking(queries=7, same_nearest=5, same_order=2),
    )
    shown = [line for line in (PROJECT / "docs/check.md").read_text().splitlines() if "compared with" in line]
    line = f"  note     acme/house-embedder: {movement_sentence(movement, 'the recorded version')}"
    assert shown == [line]
