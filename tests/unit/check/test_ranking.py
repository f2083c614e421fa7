"""The order in which the probes find each other, before and after: made-up vectors in every form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from modelcache.check.probes import Answer, Probe
from modelcache.check.ranking import Pair, Ranking, compare_rankings
from modelcache.core.kinds import Output
from tests.unit.check.test_golden import floats, matrix, sparse

A, B, C = "a", "b", "c"


def vectors(prompt: str = "", task: str = "", **values: tuple[float, ...]) -> dict[str, Answer]:
    """A vector for each text."""
    return {text: Answer(Probe(text, prompt=prompt, task=task), floats(*numbers)) for text, numbers in values.items()}


def paired(then: Mapping[str, Answer], now: Mapping[str, Answer]) -> list[Pair]:
    """The outputs of then and of now, for the same texts."""
    return [(then[text], now[text]) for text in then]


BASE = vectors(a=(1, 0), b=(0.9, 0.1), c=(0, 1))
LONG_C = vectors(a=(1, 0), b=(0.9, 0.1), c=(4, 5))


@pytest.mark.parametrize(
    ("then", "now", "similarity", "ranking"),
    [
        (BASE, BASE, "cosine", Ranking(3, 3, 3)),
        (BASE, vectors(a=(0, 5), b=(-0.5, 4.5), c=(-3, 0)), "cosine", Ranking(3, 3, 3)),
        (BASE, vectors(a=(1, 0), b=(0, 1), c=(0.9, 0.1)), "cosine", Ranking(3, 0, 0)),
        (BASE, LONG_C, "cosine", Ranking(3, 3, 3)),
        (BASE, LONG_C, "dot", Ranking(3, 1, 1)),
        (BASE, LONG_C, "euclidean", Ranking(3, 3, 3)),
        (BASE, vectors(a=(1, 0, 0), b=(0.9, 0.1, 0), c=(0, 1, 0)), "cosine", Ranking(3, 3, 3)),
        (BASE, {**BASE, **vectors(c=(0, 0))}, "cosine", Ranking()),
        (BASE, {**BASE, **vectors(c=(0, float("nan")))}, "cosine", Ranking()),
        (BASE, {**BASE, **vectors(c=(0, 1, 0))}, "cosine", Ranking()),
        (BASE | vectors(d=(0, 2)), BASE | vectors(d=(0, 0)), "cosine", Ranking(3, 3, 3)),
    ],
)
def test_each_text_ranks_the_others(
    then: Mapping[str, Answer], now: Mapping[str, Answer], similarity: str, ranking: Ranking
) -> None:
    """By cosine, or by dot product where the model is used so; also in another dimension; zeros have no place."""
    assert compare_rankings(paired(then, now), Output.VECTOR, similarity) == ranking


def test_texts_that_were_equally_near_have_no_order() -> None:
    """None of them was first, so none can be overtaken."""
    equal = vectors(a=(1, 0), b=(0, 1), c=(0, 1))
    parted = vectors(a=(1, 0), b=(0, 1), c=(0.1, 1))
    assert compare_rankings(paired(equal, parted), Output.VECTOR, "cosine") == Ranking(3, 3, 3)
    assert compare_rankings(paired(parted, equal), Output.VECTOR, "cosine") == Ranking(3, 3, 3)


def test_the_whole_order_may_change_where_the_nearest_stays() -> None:
    """For `a` and `b` the second and the third of the others change places."""
    then = vectors(a=(1, 0), b=(0.9, 0.1), c=(0.7, 0.7), d=(0, 1))
    now = vectors(a=(1, 0), b=(0.9, 0.1), c=(0, 1), d=(0.7, 0.7))
    found = compare_rankings(paired(then, now), Output.VECTOR, "cosine")
    assert (found.queries, found.same_nearest, found.same_order) == (4, 2, 0)


def test_the_way_with_the_texts_is_the_one_that_is_ranked() -> None:
    """A prompt with which one text was asked is left out, and so are a long text and a pair."""
    more = {"query": vectors(prompt="query", a=(0, 1))[A], "long": Answer(Probe(words=80), floats(0, 1))}
    then = {**BASE, **more}
    now = {**BASE, **{name: replace(answer, values=floats(1, 0)) for name, answer in more.items()}}
    assert compare_rankings(paired(then, now), Output.VECTOR, "cosine") == Ranking(3, 3, 3)


def both_ways(documents: Mapping[str, Answer], queries: Mapping[str, Answer]) -> dict[str, Answer]:
    """The outputs of both ways, by names of their own."""
    return {**documents, **{f"{text} as query": answer for text, answer in queries.items()}}


def with_prompt(prompt: str, answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """The same outputs, asked in another way."""
    return {text: replace(answer, probe=Probe(text, prompt=prompt)) for text, answer in answers.items()}


SPARSE = {A: sparse({1: 1.0, 2: 1.0}), B: sparse({1: 1.0}), C: sparse({2: 0.5})}


@pytest.mark.parametrize(
    ("changed", "numbers", "ranking"),
    [
        ("a", {9: 1.0}, Ranking(3, 3, 3)),
        ("c", {1: 9.0}, Ranking(3, 1, 1)),
        ("a as query", {2: 1.0}, Ranking(3, 2, 2)),
    ],
)
def test_queries_find_documents_of_the_other_way(changed: str, numbers: Mapping[int, float], ranking: Ranking) -> None:
    """Where the model has one for each; a query that changes is no other document, and the other way round."""
    then = both_ways(with_prompt("document", SPARSE), with_prompt("query", SPARSE))
    now = {**then, changed: replace(sparse(numbers), probe=then[changed].probe)}
    assert compare_rankings(paired(then, then), Output.SPARSE_VECTOR, "dot") == Ranking(3, 3, 3)
    assert compare_rankings(paired(then, now), Output.SPARSE_VECTOR, "dot") == ranking


def test_a_sparse_vector_ranks_by_dot_product() -> None:
    """Over the indices that both have; by cosine only where that is its similarity."""
    documents = with_prompt("document", {A: sparse({1: 1.0}), B: sparse({1: 1.0, 2: 9.0}), C: sparse({1: 0.5})})
    longer = {**documents, C: replace(sparse({1: 5.0}), probe=documents[C].probe)}
    assert compare_rankings(paired(documents, longer), Output.SPARSE_VECTOR, "dot").same_nearest == 1
    assert compare_rankings(paired(documents, longer), Output.SPARSE_VECTOR, "cosine") == Ranking(3, 3, 3)


def test_matrices_rank_by_max_sim() -> None:
    """Each row of the query finds its nearest row, whatever the number of rows; one without rows finds nothing."""
    then = with_prompt(
        "document", {A: matrix((1, 0), (0, 1)), B: matrix((1, 0), (0, 0.9), (0.1, 0.1)), C: matrix((0.5, 0))}
    )
    assert compare_rankings(paired(then, then), Output.MATRIX, "maxsim") == Ranking(3, 3, 3)
    now = {**then, C: replace(matrix((2, 2), (1, 0)), probe=then[C].probe)}
    assert compare_rankings(paired(then, now), Output.MATRIX, "maxsim") == Ranking(3, 1, 1)
    empty = {**then, C: replace(matrix(), probe=then[C].probe)}
    assert compare_rankings(paired(then, empty), Output.MATRIX, "maxsim") == Ranking()


def scores(query: str | None, **values: float) -> dict[str, Answer]:
    """A score for each text."""
    return {f"{query} {text}": Answer(Probe(text, query=query), floats(score)) for text, score in values.items()}


@pytest.mark.parametrize(
    ("then", "now", "ranking"),
    [
        (scores("q", a=3, b=2, c=1), scores("q", a=9, b=8, c=7), Ranking(1, 1, 1)),
        (scores("q", a=3, b=2, c=1), scores("q", a=9, b=7, c=8), Ranking(1, 1, 0)),
        (scores("q", a=3, b=2, c=1), scores("q", a=1, b=7, c=0), Ranking(1, 0, 0)),
        (scores("q", a=3, b=2) | scores("", a=9), scores("q", a=3, b=2) | scores("", a=0), Ranking(1, 1, 1)),
        (
            scores("q", a=3, b=2) | scores("p", a=3, b=2),
            scores("q", a=2, b=3) | scores("p", a=3, b=2),
            Ranking(2, 1, 1),
        ),
        (scores("q", a=3), scores("q", a=4), Ranking()),
        (scores("q", a=3, b=2), scores("q", a=float("nan"), b=2), Ranking()),
        ({}, {}, Ranking()),
    ],
)
def test_scores_rank_the_texts_of_a_query(
    then: Mapping[str, Answer], now: Mapping[str, Answer], ranking: Ranking
) -> None:
    """Without a query no text is the better one; neither is one whose score is no number."""
    assert compare_rankings(paired(then, now), Output.SCORE, "") == ranking
