"""By how much the outputs of a model have moved from the recorded ones: figures, and one sentence. No torch, no disk.

Figures decide whether an index has to be made anew: the smallest cosine, the largest difference of scores, and whether
the probes still find each other in the same order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelcache.check.comparison import Comparison, changed_prompts, compare
from modelcache.check.golden import Golden
from modelcache.check.probes import Observation
from modelcache.check.ranking import Ranking, compare_rankings
from modelcache.core.effect import Effect, effect_sentence
from modelcache.core.kinds import Output
from modelcache.core.text import join_names, quote

_DIGITS = 9
"""Of a cosine, whose further ones are errors of rounding: that of equal vectors is 1."""

_AS_FAR = ", as far as these texts show"
"""A word of another text, or one behind the longest of them, may have other weights."""


@dataclass(frozen=True, slots=True)
class Range:
    """The figures of many comparisons."""

    least: float
    mean: float
    most: float


@dataclass(frozen=True, slots=True)
class Movement:
    """How far the outputs of a model are from the recorded ones."""

    output: Output
    recorded: int
    """Outputs that were recorded."""
    comparable: int = 0
    """Of these: how many are of the same form now."""
    changed: int = 0
    """Of these: how many are no longer the same within the tolerance, those of another form included."""
    cosines: Range | None = None
    """Of the vectors, or the rows of matrices, that have a direction."""
    scores: Range | None = None
    """The differences of scores."""
    ranking: Ranking = field(default_factory=Ranking)
    """Of outputs within the tolerance no order is compared: numbers that differ in their last bits alone have none."""
    prompts: Sequence[str] = ()
    """The names of those that have changed; `""` is the default one."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """Why figures do not say all, and of how many outputs."""

    @property
    def effect(self) -> Effect:
        """The effect on the outputs, as it was measured."""
        same = self.comparable and not self.changed and not self.prompts
        return Effect.NONE if same else Effect.CERTAIN


def measure(golden: Golden, observed: Observation, comparisons: Sequence[Comparison]) -> Movement:
    """Return how far the outputs of a model are from the recorded ones, with which they were compared."""
    output = golden.kind.spec.output
    changed = sum(bool(one.change) for one in comparisons)
    pairs = [(one.then, one.now) for one in comparisons if one.now] if changed else []
    return Movement(
        output=output,
        recorded=len(comparisons),
        comparable=sum(one.comparable for one in comparisons),
        changed=changed,
        cosines=_range([cosine for one in comparisons for cosine in one.cosines]),
        scores=_range([difference for one in comparisons for difference in one.differences]),
        ranking=compare_rankings(pairs, output, observed.similarity),
        prompts=changed_prompts(golden, observed.prompts),
        remarks=Counter(remark for one in comparisons for remark in one.remarks),
    )


def furthest(versions: Sequence[Golden], observed: Observation) -> Movement | None:
    """Return the movement from the recorded version that is the furthest; none where none is recorded.

    Only the user knows with which version an index was made; the furthest one is the worst case.
    """
    found = [measure(golden, observed, compare(golden, observed.answers)) for golden in versions]
    return max(found, key=_distance, default=None)


def movement_sentence(movement: Movement, compared_with: str) -> str:
    """Return the movement on one line, with its effect on an index."""
    parts = [f"{movement.changed} of {movement.recorded} outputs changed"]
    sentence = effect_sentence(movement.effect, movement.output)
    if movement.effect is Effect.NONE:
        sentence += _AS_FAR
    else:
        parts += [*_figures(movement), *_rankings(movement), *_others(movement)]
    return f"compared with {compared_with}: {'; '.join([*parts, sentence])}"


def movement_fields(movement: Movement) -> dict[str, Any]:
    """Return the figures for JSON; those are left out that the outputs do not have."""
    figures: dict[str, Any] = {
        "effect": movement.effect.name.lower(),
        "recorded": movement.recorded,
        "comparable": movement.comparable,
        "changed": movement.changed,
    }
    if cosines := movement.cosines:
        figures |= {"cosine_min": round(cosines.least, _DIGITS), "cosine_mean": round(cosines.mean, _DIGITS)}
    if scores := movement.scores:
        figures |= {"score_max": scores.most, "score_mean": scores.mean}
    if movement.ranking.queries:
        figures |= {
            "queries": movement.ranking.queries,
            "same_nearest": movement.ranking.same_nearest,
            "same_order": movement.ranking.same_order,
        }
    return figures


def _figures(movement: Movement) -> Iterator[str]:
    if cosines := movement.cosines:
        yield f"cosine at least {_cosine(cosines.least)}, mean {_cosine(cosines.mean)}"
    if scores := movement.scores:
        yield f"scores differ by {scores.most:.2g} at most, {scores.mean:.2g} on average"


def _rankings(movement: Movement) -> Iterator[str]:
    queries, nearest, order = movement.ranking.queries, movement.ranking.same_nearest, movement.ranking.same_order
    if not movement.changed:
        return
    if not queries:
        yield "no order of texts to compare"
    elif movement.output is not Output.SCORE:
        yield f"{nearest} of {queries} texts keep their nearest one, {order} the whole order"
    elif order == queries:
        yield "the order of the texts stays"
    else:
        yield f"the order of the texts changes, {'not the best one' if nearest == queries else 'also the best one'}"


def _others(movement: Movement) -> Iterator[str]:
    """Say why the figures do not say all."""
    if movement.remarks:
        yield join_names([f"{count} {remark}" for remark, count in movement.remarks.items()])
    if movement.prompts:
        names = [quote(name, 40) if name else "the default one" for name in movement.prompts]
        yield f"other prompts: {join_names(names)}"


def _cosine(value: float) -> str:
    """Return a cosine, rounded down but for errors of rounding, so that a changed output does not look equal."""
    digits = 4 if value < 0.999 else 6
    return f"{math.floor(round(value * 10**digits, 3)) / 10**digits:.{digits}f}"


def _range(numbers: Sequence[float]) -> Range | None:
    if not numbers:
        return None
    return Range(min(numbers), math.fsum(numbers) / len(numbers), max(numbers))


def _distance(movement: Movement) -> tuple[Effect, int, float, float]:
    cosine = movement.cosines.least if movement.cosines else 1.0
    return movement.effect, movement.changed, -cosine, movement.scores.most if movement.scores else 0.0
