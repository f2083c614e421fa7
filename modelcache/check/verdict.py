"""The verdict on a model: its observation against the rules, and against its recorded numbers. Rules only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from modelcache.check.comparison import compare, moved, moved_prompts
from modelcache.check.golden import Golden, GoldenFile, golden_of, tolerance_for
from modelcache.check.missing_files import missing_files
from modelcache.check.movement import Movement, furthest, measure, movement_fields, movement_sentence
from modelcache.check.pip_packages import pip_install
from modelcache.check.probes import Answer, Observation, form_of
from modelcache.core.file_patterns import matches
from modelcache.core.file_types import is_for_other_programs
from modelcache.core.kinds import Output
from modelcache.core.text import first_lines, join_names
from modelcache.core.types import LockedModel, set_digest

_MOST_SENTENCES = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one model."""

    model: LockedModel
    observed: Observation
    faults: Sequence[str] = ()
    """Why it fails, whatever was recorded."""
    moves: Sequence[str] = ()
    """By how much the recorded numbers have changed, and then which ones."""
    notes: Sequence[str] = ()
    """Findings that are no fault."""
    proven: bool = False
    """Whether there were recorded numbers of the same files to compare with."""
    movement: Movement | None = None
    """How far it is from these, or else from those of another version."""

    def figures(self) -> dict[str, Any]:
        """Return how far it is, for JSON; nothing where there was nothing to compare with."""
        return movement_fields(self.movement) if self.movement else {}


def judge(model: LockedModel, observed: Observation, golden: GoldenFile) -> Verdict:
    """Judge an observation; numbers are recorded by the digest of the model's files."""
    faults = [*_faults(model, observed), *missing_files(model, observed)]
    if observed.error:
        return Verdict(model, observed, faults)
    notes = list(_notes(model, observed))
    if known := golden_of(model, golden):
        return _compared(Verdict(model, observed, faults, notes=notes), known)
    versions = [other for other in golden.values() if (other.id, other.kind) == (model.id, model.kind)]
    movement = furthest(versions, observed)
    if movement:
        several = f"the furthest of {len(versions)} recorded versions"
        notes.append(movement_sentence(movement, several if len(versions) > 1 else "the recorded version"))
    return Verdict(model, observed, faults, notes=notes, movement=movement)


def _compared(verdict: Verdict, known: Golden) -> Verdict:
    """Compare the outputs with the numbers that are recorded of the same files."""
    observed = verdict.observed
    comparisons = compare(known, observed.answers)
    movement = measure(known, observed, comparisons)
    moves = [*_distinct(moved_prompts(known, observed.prompts)), *moved(comparisons)]
    if moves:
        moves.insert(0, movement_sentence(movement, "the recorded numbers"))
    return replace(verdict, moves=moves, proven=True, movement=movement)


def recorded(
    pins: Sequence[LockedModel], verdicts: Sequence[Verdict], versions: Mapping[str, str], before: GoldenFile
) -> GoldenFile:
    """Return the numbers to record for these pins: new ones of each model without a fault, else those recorded before.

    A tolerance stays as it is: a user may have changed it.
    """
    digests = {set_digest(pin.files) for pin in pins}
    models = {digest: golden for digest, golden in before.items() if digest in digests}
    for model, observed in ((verdict.model, verdict.observed) for verdict in verdicts if not verdict.faults):
        known = golden_of(model, before)
        tolerance = known.tolerance if known else tolerance_for(observed.dtype)
        answers = tuple(observed.answers)
        models[set_digest(model.files)] = Golden(model.id, model.kind, answers, observed.prompts, versions, tolerance)
    return models


def _faults(model: LockedModel, observed: Observation) -> Iterator[str]:
    output = model.kind.spec.output
    yield from _distinct(f"it attempted network access to {where}" for where in observed.attempts)
    yield from _distinct(
        f"modules.json names {path}, and there is no such directory" for path in observed.missing_folders
    )
    if packages := observed.missing_packages:
        yield f"it asks for packages that are not installed here: {join_names(packages)}; `{pip_install(packages)}`"
    if observed.default_pooling:
        yield "it has no modules.json, so sentence-transformers falls back to mean pooling"
    if observed.not_found_by_id:
        yield f"a program that loads it by its id does not find {join_names(observed.not_found_by_id)} in the Hub view"
    if observed.newly_initialized:
        yield (
            "missing keys, parameters that no weight file names, so that they are newly initialized at random: "
            + join_names(observed.newly_initialized)
        )
    if observed.unexpected:
        yield (
            f"unexpected keys, weights for which the model has no parameter: {join_names(observed.unexpected)};"
            " is it a model of another kind than its table, or are they of another version than config.json?"
            " If its card says that they serve training alone, take them out of a copy and name its directory as `path`"
        )
    yield from _distinct(
        f"it gives the same numbers for different words{prompt}: is its vocabulary missing, or its weights?"
        for prompt in observed.constant_prompts
    )
    if infinite := _descriptions(answer for answer in observed.answers if not all(map(isfinite, answer.values))):
        yield f"numbers that are not finite for {join_names(infinite)}"
    vectors = [answer for answer in observed.answers if form_of(output, answer.probe) is output]
    if widths := {answer.width for answer in vectors} - {observed.dimension}:
        a_token = " a token" if output is Output.MATRIX else ""
        yield f"it gives {min(widths)} numbers{a_token} instead of {observed.dimension}"
    texts = [answer for answer in vectors if answer.probe.input_text()]
    if output is Output.MATRIX and (empty := _descriptions(answer for answer in texts if not answer.values)):
        yield f"it gives no vector for {join_names(empty)}"
    if output is Output.SPARSE_VECTOR:
        yield from (
            f"it gives nothing but zeros{way}: is its head missing, or its table of word weights?"
            for way in _zero_ways(texts)
        )
        if full := _descriptions(answer for answer in texts if len(answer.values) == answer.dimension):
            yield f"it gives no zero for {join_names(full)}: is it a model of another kind than its table?"
    if observed.error:
        ended = f"it loads, and fails when it is {observed.failed_step}" if observed.failed_step else "it does not load"
        yield f"{ended}: {observed.error}"


def _notes(model: LockedModel, observed: Observation) -> Iterator[str]:
    if observed.newly_initialized_unused:
        yield f"unused parameters without a weight: {join_names(observed.newly_initialized_unused)}"
    if observed.computed:
        computed = join_names(observed.computed)
        yield f"parameters without a weight, but the same at each load, so computed or constant: {computed}"
    if observed.unused:
        yield f"unused weights: {join_names(observed.unused)}"
    yield from _distinct(f"it gives nothing for {probe}" for probe in observed.unanswered)
    if model.kind.spec.output is Output.SPARSE_VECTOR:
        texts = [answer for answer in observed.answers if answer.probe.input_text()]
        ways = _zero_ways(texts)
        if zero := _descriptions(one for one in texts if not one.values and one.probe.label not in ways):
            yield f"it gives nothing but zeros for {join_names(zero)}: does it know none of these words?"
    yield from _distinct(
        f"{vocabulary}: a text with one of the others ends in an error" for vocabulary in observed.unreachable_tokens
    )
    # A wide pattern also names files that the loader has opened.
    named = (file.path for file in model.files if matches(file.path, model.include))
    if not_run := [path for path in named if is_for_other_programs(path)]:
        yield f"included for other programs, and not run here: {join_names(not_run)}"


def _zero_ways(answers: Sequence[Answer]) -> list[str]:
    """Return the prompts with which every sparse vector is zero: for one text alone its words may be unknown."""
    some = {answer.probe.label for answer in answers if answer.values}
    return [label for label in dict.fromkeys(answer.probe.label for answer in answers) if label not in some]


def _descriptions(answers: Iterable[Answer]) -> list[str]:
    return [answer.probe.description() for answer in answers]


def _distinct(sentences: Iterable[str]) -> list[str]:
    return first_lines(dict.fromkeys(sentences), _MOST_SENTENCES)
