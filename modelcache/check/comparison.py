"""Recorded outputs compared with those of now, one by one: figures, and words for people. No torch, no disk."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelcache.check.distances import cosine, differences, largest, length
from modelcache.check.golden import Golden, Tolerance
from modelcache.check.probes import Answer, form_of
from modelcache.core.kinds import Output
from modelcache.core.text import join_names, quote

NOT_FINITE = "not finite"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One recorded output beside the one of now."""

    then: Answer
    now: Answer | None = None
    change: str = ""
    """The change in words, which complete "probe 1 …"; empty where it is within the tolerance."""
    remarks: Sequence[str] = ()
    """Why figures do not say all; short, so that equal ones of several outputs are counted."""
    comparable: bool = False
    """Whether both are of the same form, so that there are figures."""
    cosines: Sequence[float] = ()
    """Of the two vectors, or of each two rows; none where one of them is zero or a number is not finite."""
    differences: Sequence[float] = ()
    """Of scores; none of numbers that are not finite."""


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Two vectors, compared."""

    change: str = ""
    remark: str = ""
    cosine: float | None = None


def compare(golden: Golden, answers: Iterable[Answer]) -> list[Comparison]:
    """Compare each recorded output of a model with the one of now."""
    found = {answer.probe: answer for answer in answers}
    return [
        _compare(golden, then, now)
        if (now := found.get(then.probe))
        else Comparison(then, change="was not answered", remarks=["not answered"])
        for then in golden.answers
    ]


def moved(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Say which probes give other numbers now, and by how much."""
    total = len(comparisons)
    for number, one in enumerate(comparisons, 1):
        if one.change:
            yield f"probe {number} of {total} ({one.then.probe.description()}) {one.change}"


def changed_prompts(golden: Golden, prompts: Mapping[str, str]) -> list[str]:
    """Return the names of the prompts that have changed: each changes every vector that is made with it."""
    names = sorted(golden.prompts.keys() | prompts.keys())
    return [name for name in names if golden.prompts.get(name, "") != prompts.get(name, "")]


def moved_prompts(golden: Golden, prompts: Mapping[str, str]) -> Iterator[str]:
    """Say which prompts have changed, and how."""
    for name in changed_prompts(golden, prompts):
        which = f"the prompt {quote(name)}" if name else "the default prompt"
        yield f"{which} was {quote(golden.prompts.get(name, ''))} and is {quote(prompts.get(name, ''))}"


def _compare(golden: Golden, then: Answer, now: Answer) -> Comparison:
    allowed, output = golden.tolerance, golden.kind.spec.output
    if now.width != then.width:
        other = f"with {now.width} numbers instead of {then.width}"
        return Comparison(then, now, f"gave {then.width} numbers, and now {now.width}", [other])
    match form_of(output, then.probe):
        case Output.SCORE:
            # MaxSim is a sum of as many numbers as the query has rows.
            most = allowed.score * (max(1.0, *map(abs, then.values)) if output is Output.MATRIX else 1.0)
            return _compare_scores(then, now, most)
        case Output.MATRIX:
            return _compare_matrices(then, now, allowed)
        case Output.SPARSE_VECTOR:
            found = _compare_sparse(then, now, allowed)
        case _:
            found = _compare_vectors(then.values, now.values, allowed)
    return _of_vectors(then, now, found.change, [found])


def _of_vectors(then: Answer, now: Answer, change: str, found: Sequence[_Vectors]) -> Comparison:
    """Return the comparison of two outputs whose vectors are compared."""
    remarks = dict.fromkeys(one.remark for one in found if one.remark)
    cosines = [one.cosine for one in found if one.cosine is not None and not math.isnan(one.cosine)]
    return Comparison(then, now, change, list(remarks), comparable=True, cosines=cosines)


def _compare_scores(then: Answer, now: Answer, most: float) -> Comparison:
    by = differences(then.values, now.values)
    finite = [one for one in by if math.isfinite(one)]
    change = "" if largest(by) <= most < math.inf else f"moved by {largest(by):.2g}; {most:g} is allowed"
    remarks = [NOT_FINITE] if len(finite) < len(by) else []
    return Comparison(then, now, change, remarks, comparable=True, differences=finite)


def _compare_vectors(then: array[float], now: array[float], allowed: Tolerance, where: str = "") -> _Vectors:
    if not (any(then) and any(now)):
        by = largest(differences(then, now))
        if by <= allowed.score:
            return _Vectors()
        change, remark = ("is no longer zero", "no longer zero") if any(now) else ("has become zero", "now zero")
        return _Vectors(f"{change}{where}", remark if math.isfinite(by) else NOT_FINITE)
    angle = cosine(then, now)
    if not angle >= allowed.cosine:
        change = f"moved{where}: cosine {angle:.6f}, at least {allowed.cosine:g}"
        return _Vectors(change, NOT_FINITE if math.isnan(angle) else "", angle)
    was, is_now = length(then), length(now)
    if not math.isclose(was, is_now, rel_tol=allowed.length):
        return _Vectors(f"has another length{where}: {was:.4g} then, {is_now:.4g} now", "with another length", angle)
    return _Vectors(cosine=angle)


def _compare_sparse(then: Answer, now: Answer, allowed: Tolerance) -> _Vectors:
    """Say at which indices there are numbers now, or are none any more; where there are none, the whole is compared.

    Its zeros cost nothing: the model says how many there are, and may say a million for each of many texts.
    """
    was, is_now = then.by_index(), now.by_index()
    both = sorted(was.keys() | is_now.keys())
    before, after = (array("f", [numbers.get(index, 0.0) for index in both]) for numbers in (was, is_now))
    # In bfloat16 numbers of 0.03 came and went on another processor, in a vector of length 5, and in float32 none.
    most = allowed.score * max(1.0, length(then.values))
    come = [str(index) for index, value in is_now.items() if index not in was and not abs(value) <= most]
    gone = [str(index) for index, value in was.items() if index not in is_now and not abs(value) <= most]
    found = _compare_vectors(before, after, allowed)
    if found.cosine is None or not (come or gone):
        return found
    sentences = (("is no longer zero", come), ("has become zero", gone))
    change = " and ".join(f"{sentence} at {join_names(indices)}" for sentence, indices in sentences if indices)
    return _Vectors(change, found.remark, found.cosine)


def _compare_matrices(then: Answer, now: Answer, allowed: Tolerance) -> Comparison:
    """Say which row has moved the most."""
    before, after = then.rows(), now.rows()
    if len(before) != len(after):
        return Comparison(then, now, f"gave {len(before)} rows, and now {len(after)}", ["with another number of rows"])
    found = [
        _compare_vectors(one, other, allowed, f" in row {number} of {len(before)}")
        for number, (one, other) in enumerate(zip(before, after, strict=True), 1)
    ]
    worst = min((one for one in found if one.change), key=_order, default=_Vectors())
    return _of_vectors(then, now, worst.change, found)


def _order(one: _Vectors) -> tuple[bool, float]:
    """Return the place of two rows among others: those without an angle between those that moved more, and less."""
    angle = one.cosine or 0.0
    return not math.isnan(angle), angle
