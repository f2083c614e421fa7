"""Judging a model by what was seen of it, and by what it gave when its numbers were recorded. Rules only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from modelcache.check.golden import Golden, GoldenFile, golden_of, moved, moved_prompts, tolerance_for
from modelcache.check.missing_files import missing_files
from modelcache.check.pip_packages import installing
from modelcache.check.probes import Observation
from modelcache.core.digests import set_digest
from modelcache.core.text import join_names
from modelcache.core.types import LockedModel

_MOST_SENTENCES = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of one model."""

    model: LockedModel
    seen: Observation
    faults: Sequence[str] = ()
    """Why it fails, whatever was recorded; one reason each."""
    moves: Sequence[str] = ()
    """Which recorded numbers it no longer gives."""
    notes: Sequence[str] = ()
    """What is worth knowing and no fault."""
    proven: bool = False
    """Whether recorded numbers were there to be compared."""


def judge(model: LockedModel, seen: Observation, golden: GoldenFile) -> Verdict:
    """Say what is wrong with a model."""
    known = golden_of(model, golden)
    if seen.error:
        ended = f"it loads, and fails when it is {seen.doing}" if seen.doing else "it does not load"
        return Verdict(model, seen, [*_faults(seen), f"{ended}: {seen.error}", *missing_files(model, seen)])
    return Verdict(
        model,
        seen,
        faults=[*_faults(seen), *missing_files(model, seen)],
        moves=[*_some_of(moved_prompts(known, seen.prompts)), *moved(known, seen.answers)] if known else [],
        notes=list(_notes(model, seen, golden)),
        proven=known is not None,
    )


def recorded(
    pins: Sequence[LockedModel], verdicts: Sequence[Verdict], versions: Mapping[str, str], before: GoldenFile
) -> GoldenFile:
    """Return what to record of these pins: what each model gives now that loads without a fault, else what it gave.

    A tolerance stays as it is: somebody may have changed it.
    """
    digests = {set_digest(pin.files) for pin in pins}
    models = {digest: golden for digest, golden in before.items() if digest in digests}
    for model, seen in ((verdict.model, verdict.seen) for verdict in verdicts if not verdict.faults):
        known = golden_of(model, before)
        tolerance = known.tolerance if known else tolerance_for(seen.precision)
        answers = tuple(seen.answers)
        models[set_digest(model.files)] = Golden(model.id, model.kind, answers, seen.prompts, versions, tolerance)
    return models


def _faults(seen: Observation) -> Iterator[str]:
    yield from _some_of(f"it wants to reach {where}" for where in seen.attempts)
    yield from _some_of(f"modules.json names {path}, and there is no such directory" for path in seen.absent)
    if seen.lacking:
        lacking, way_out = join_names(seen.lacking), installing(seen.lacking)
        yield f"it asks for packages that are not installed here: {lacking}; `{way_out}`"
    if seen.fallback:
        yield "it has no modules.json, so the loader pools as it likes"
    if seen.unfilled:
        yield f"parameters that no weight file names, so that they are random: {join_names(seen.unfilled)}"
    if seen.lost:
        yield (
            f"weights for which the model has no parameter, so that they are lost: {join_names(seen.lost)};"
            " is it a model of another kind than its table, or are they of another version than config.json?"
            " If its card says that they serve training alone, take them out of a copy and name its directory as `path`"
        )
    yield from _some_of(
        f"it gives the same numbers for different words{way}: is its vocabulary missing, or its weights?"
        for way in seen.deaf
    )
    if endless := [answer.probe.told() for answer in seen.answers if not all(map(isfinite, answer.values))]:
        yield f"numbers that are not finite for {join_names(endless)}"
    if other := {len(answer.values) for answer in seen.answers} - {seen.dimension}:
        yield f"it gives {min(other)} numbers instead of {seen.dimension}"


def _notes(model: LockedModel, seen: Observation, golden: GoldenFile) -> Iterator[str]:
    if seen.harmless:
        yield f"without a weight, and not used: {join_names(seen.harmless)}"
    if seen.computed:
        yield (
            "named by no weight file, and the same at each load, so computed, or left as the code begins it:"
            f" {join_names(seen.computed)}"
        )
    if seen.unused:
        yield f"in the weights, and not used: {join_names(seen.unused)}"
    yield from _some_of(f"it gives nothing for {told}" for told in seen.unanswered)
    yield from _some_of(f"{told}: a text with one of the others ends in an error" for told in seen.beyond)
    if golden_of(model, golden):
        return
    for other in golden.values():
        if (other.id, other.kind) == (model.id, model.kind):
            count = len(list(moved(other, seen.answers)))
            same = f"{count} of {len(other.answers)} numbers are others" if count else "its numbers are the same"
            yield f"another version of it is recorded: {same}"


def _some_of(told: Iterable[str]) -> Iterator[str]:
    """Yield each sentence once; of many some, and how many more there are."""
    found = list(dict.fromkeys(told))
    yield from found[:_MOST_SENTENCES]
    if len(found) > _MOST_SENTENCES:
        yield f"and {len(found) - _MOST_SENTENCES} more like this"
