"""Whether the probes find each other in the same order as before: each text once as the query. No torch, no disk.

A text ranks the others by cosine, or by dot product where that is the model's similarity; matrices by MaxSim. Where a
model has a way for queries and one for documents, the query of one finds the documents of the other. A reranker ranks
the texts of one query by their scores.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite

from modelcache.check.distances import dot, length
from modelcache.check.probes import Answer
from modelcache.core.kinds import Output

_MOST_PRODUCTS = 1 << 24
"""Products that are computed, in half a second: enough for 128 numbers a token. Queries beyond that are left out."""
_PRODUCTS_OF_A_CALL = 64
"""The rest of one comparison takes as long as this many products."""
_FEWEST_TEXTS = 2
"""Of one text there is no order."""

Pair = tuple[Answer, Answer]
"""The output for one probe as it was recorded, and as it is now."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How many queries rank the other texts as before."""

    queries: int = 0
    """That were compared."""
    same_nearest: int = 0
    """Whose nearest text is that of before."""
    same_order: int = 0
    """Whose texts are all in the order of before."""


def compare_rankings(pairs: Sequence[Pair], output: Output, similarity: str) -> Ranking:
    """Compare the order of the texts of each query; `similarity` is the name of the model's similarity function."""
    found = list(_scores(pairs) if output is Output.SCORE else _similarities(pairs, output, similarity))
    return Ranking(len(found), sum(map(_same_nearest, found)), sum(map(_same_order, found)))


def _same_nearest(texts: Sequence[tuple[float, float]]) -> bool:
    """Whether the nearest of before is one of the nearest now; of each text there is the number of then and of now."""
    return max(texts)[1] == max(now for _, now in texts)


def _same_order(texts: Sequence[tuple[float, float]]) -> bool:
    """Whether no text has overtaken another one; of texts that are equally near none was first."""
    ordered = sorted(texts, reverse=True)
    return all(now >= next_one for (_, now), (_, next_one) in pairwise(ordered))


def _scores(pairs: Sequence[Pair]) -> Iterator[list[tuple[float, float]]]:
    """Yield the scores of the texts of each query; of several labels none says which text is the better one."""
    queries: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for then, now in pairs:
        if then.probe.query and len(then.values) == len(now.values) == 1 and _is_finite(then) and _is_finite(now):
            queries[then.probe.query].append((then.values[0], now.values[0]))
    yield from (texts for texts in queries.values() if len(texts) >= _FEWEST_TEXTS)


def _similarities(pairs: Sequence[Pair], output: Output, similarity: str) -> Iterator[list[tuple[float, float]]]:
    """Yield how near the other texts are to each text, as long as there is time."""
    texts = _comparable(pairs)
    if output is not Output.MATRIX and similarity != "dot":
        texts = [(_direction(then), _direction(now)) for then, now in texts]
    queries, documents = _ways(texts)
    left = _MOST_PRODUCTS
    for query in queries:
        others = [document for document in documents if document[0].probe.text != query[0].probe.text]
        left -= sum(_products(*both) for document in others for both in zip(query, document, strict=True))
        if left < 0:
            return
        if len(others) >= _FEWEST_TEXTS:
            near_then, near_now = (_similarity_to(one, output) for one in query)
            yield [(near_then(then), near_now(now)) for then, now in others]


def _comparable(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the texts that have a place in an order: numbers that are not finite have none, nor have zeros.

    A long text is left out: as a matrix it would take longer than all others.
    """
    texts = [pair for pair in pairs if pair[0].probe.query is None and not pair[0].probe.words]
    found = [pair for pair in texts if all(any(one.values) and _is_finite(one) for one in pair)]
    return [pair for pair in found if all(one.width == first.width for one, first in zip(pair, found[0], strict=True))]


def _ways(texts: Sequence[Pair]) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the queries and the documents: the way with the most texts, and that of queries if it has several."""
    ways: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for then, now in texts:
        ways[then.probe.prompt, then.probe.task].append((then, now))
    documents = max(ways.values(), key=len, default=[])
    queries = ways.get(("query", ""), [])
    return queries if len(queries) >= _FEWEST_TEXTS else documents, documents


def _products(query: Answer, document: Answer) -> int:
    rows = 1 if query.indices is not None else len(query.values) // query.width
    return _PRODUCTS_OF_A_CALL + rows * len(document.values)


def _similarity_to(query: Answer, output: Output) -> Callable[[Answer], float]:
    """Return the function that says how near a document is to this query."""
    match output:
        case Output.MATRIX:
            rows = query.rows()
            return lambda document: _max_sim(rows, document.rows())
        case Output.SPARSE_VECTOR:
            numbers = query.by_index()
            return lambda document: sum(
                number * numbers[index] for index, number in document.by_index().items() if index in numbers
            )
    return lambda document: dot(query.values, document.values)


def _max_sim(query: Sequence[array[float]], document: Sequence[array[float]]) -> float:
    return sum(max(dot(row, other) for other in document) for row in query)


def _direction(answer: Answer) -> Answer:
    """Return a vector of length 1."""
    by = length(answer.values)
    return replace(answer, values=array("d", [number / by for number in answer.values]))


def _is_finite(answer: Answer) -> bool:
    return all(map(isfinite, answer.values))
