"""models.golden.json: the recorded numbers of each model, by the digest of its files. No torch, no disk.

Equal files and equal libraries give equal numbers, but for the last bits: those depend on the processor and on the
number of threads. So vectors are compared by their angle and their length, also each row of a matrix, and scores by
their difference. The tolerance depends on the type of the parameters, and may be changed in the file.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelcache.check.probes import Answer, answer_from_json, answer_to_json, form_of
from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind, Output
from modelcache.core.text import escape, join_names, quote
from modelcache.core.types import LockedModel, set_digest

_FORMAT = 1
_HINT = "Make it anew with `cache-models check --record`."


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a number may change."""

    cosine: float = 0.99999
    """At least, between the recorded vector and the new one."""
    score: float = 1e-4
    """At most, between two scores, or two numbers of a vector that was or is zero."""


# 24 bits of a number are kept in float32, 11 in float16 and 8 in bfloat16.
_COARSE = Tolerance(cosine=0.9995, score=0.01)


def tolerance_for(dtype: str) -> Tolerance:
    """Return the tolerance of a model whose coarsest parameters have this type."""
    return Tolerance() if dtype in ("float32", "float64") else _COARSE


@dataclass(frozen=True, slots=True)
class Golden:
    """The recorded numbers of one model."""

    id: str
    kind: Kind
    answers: tuple[Answer, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text by name; under `""` the name of the default prompt."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that the numbers were recorded with."""
    tolerance: Tolerance = Tolerance()


GoldenFile = Mapping[str, Golden]
"""By the set digest of the model's files."""


def golden_of(model: LockedModel, recorded: GoldenFile) -> Golden | None:
    """Return the recorded numbers of a model as it is pinned."""
    known = recorded.get(set_digest(model.files))
    return known if known and known.kind is model.kind else None


def parse_golden(content: bytes, name: str) -> GoldenFile:
    """Parse a golden file.

    Raises:
        UsageError: it is damaged, or of a newer format.

    """
    try:
        document = json.loads(content)
        if document["format"] != _FORMAT:
            found = escape(str(document["format"]))
            raise UsageError(f"{name} has format {found}, this tool reads {_FORMAT}", hint=_HINT)
        return {str(digest): _golden(entry) for digest, entry in document["models"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        reason = escape(f"{error} is missing" if isinstance(error, KeyError) else str(error))
        raise UsageError(f"{name} is not a file of golden vectors: {reason}", hint=_HINT) from error


def format_golden(recorded: GoldenFile) -> str:
    """Return the text of a golden file: sorted, one line an answer, no dates."""
    models = ",\n".join(_model_text(digest, recorded[digest]) for digest in sorted(recorded))
    return f'{{\n "format": {_FORMAT},\n "models": {{\n{models}\n }}\n}}\n'


def moved(golden: Golden, answers: Sequence[Answer]) -> Iterator[str]:
    """Say which probes give other numbers now, and by how much."""
    found = {answer.probe: answer for answer in answers}
    total = len(golden.answers)
    for number, then in enumerate(golden.answers, 1):
        now = found.get(then.probe)
        change = "was not answered" if now is None else _change(golden, then, now)
        if change:
            yield f"probe {number} of {total} ({then.probe.description()}) {change}"


def moved_prompts(golden: Golden, prompts: Mapping[str, str]) -> Iterator[str]:
    """Say which prompts have changed: each changes every vector that is made with it."""
    for name in sorted(golden.prompts.keys() | prompts.keys()):
        then, now = golden.prompts.get(name, ""), prompts.get(name, "")
        if then != now:
            which = f"the prompt {quote(name)}" if name else "the default prompt"
            yield f"{which} was {quote(then)} and is {quote(now)}"


def _change(golden: Golden, then: Answer, now: Answer) -> str:
    """Say what has become of a recorded answer; empty where it is the same within the tolerance."""
    allowed, output = golden.tolerance, golden.kind.spec.output
    if now.width != then.width:
        return f"gave {then.width} numbers, and now {now.width}"
    match form_of(output, then.probe):
        case Output.SCORE:
            # MaxSim is a sum of as many numbers as the query has rows.
            most = allowed.score * (max(1.0, *map(abs, then.values)) if output is Output.MATRIX else 1.0)
            by = _distance(then.values, now.values)
            return "" if by <= most < math.inf else f"moved by {by:.2g}; {most:g} is allowed"
        case Output.SPARSE_VECTOR:
            return _sparse_change(then, now, allowed)
        case Output.MATRIX:
            return _matrix_change(then, now, allowed)
    return _vector_change(then.values, now.values, allowed)


def _vector_change(then: array[float], now: array[float], allowed: Tolerance, where: str = "") -> str:
    if not (any(then) and any(now)):
        if _distance(then, now) <= allowed.score:
            return ""
        return f"is no longer zero{where}" if any(now) else f"has become zero{where}"
    if not (cosine := _cosine(then, now)) >= allowed.cosine:
        return f"moved{where}: cosine {cosine:.6f}, at least {allowed.cosine:g}"
    was, is_now = math.hypot(*then), math.hypot(*now)
    if not math.isclose(was, is_now, rel_tol=_length_tolerance(allowed)):
        return f"has another length{where}: {was:.4g} then, {is_now:.4g} now"
    return ""


def _sparse_change(then: Answer, now: Answer, allowed: Tolerance) -> str:
    """Say at which indices there are numbers now, or are none any more; where there are none, the whole is compared.

    Its zeros cost nothing: the model says how many there are, and may say a million for each of many texts.
    """
    was, is_now = then.by_index(), now.by_index()
    both = sorted(was.keys() | is_now.keys())
    before, after = (array("f", [numbers.get(index, 0.0) for index in both]) for numbers in (was, is_now))
    # In bfloat16 numbers of 0.03 came and went on another processor, in a vector of length 5, and in float32 none.
    most = allowed.score * max(1.0, math.hypot(*then.values))
    come = [str(index) for index, value in is_now.items() if index not in was and not abs(value) <= most]
    gone = [str(index) for index, value in was.items() if index not in is_now and not abs(value) <= most]
    if not (any(before) and any(after) and (come or gone)):
        return _vector_change(before, after, allowed)
    sentences = (("is no longer zero", come), ("has become zero", gone))
    return " and ".join(f"{sentence} at {join_names(indices)}" for sentence, indices in sentences if indices)


def _matrix_change(then: Answer, now: Answer, allowed: Tolerance) -> str:
    """Say which row has moved the most."""
    before, after = then.rows(), now.rows()
    if len(before) != len(after):
        return f"gave {len(before)} rows, and now {len(after)}"
    changes = [
        (_cosine(one, other) if any(one) and any(other) else 0.0, change)
        for number, (one, other) in enumerate(zip(before, after, strict=True), 1)
        if (change := _vector_change(one, other, allowed, f" in row {number} of {len(before)}"))
    ]
    _, change = min(changes, key=lambda one: (not math.isnan(one[0]), one[0]), default=(0.0, ""))
    return change


def _golden(entry: Mapping[str, Any]) -> Golden:
    kind = Kind(entry["kind"])
    answers = tuple(answer_from_json(answer, kind.spec.output) for answer in entry["answers"])
    if not answers:
        raise ValueError(f"{entry['id']} has no answers")
    tolerance = Tolerance(float(entry["tolerance"]["cosine"]), float(entry["tolerance"]["score"]))
    if not (0 < tolerance.cosine < 1 and 0 <= tolerance.score < math.inf):
        raise ValueError(f"the tolerance of {entry['id']} allows nothing or anything")
    return Golden(
        id=str(entry["id"]),
        kind=kind,
        answers=answers,
        prompts={str(name): str(text) for name, text in entry["prompts"].items()},
        versions={str(name): str(text) for name, text in entry["versions"].items()},
        tolerance=tolerance,
    )


def _model_text(digest: str, golden: Golden) -> str:
    table = {
        "id": golden.id,
        "kind": str(golden.kind),
        "tolerance": asdict(golden.tolerance),
        "versions": dict(sorted(golden.versions.items())),
        "prompts": dict(sorted(golden.prompts.items())),
    }
    lines = ",\n".join(f"    {json.dumps(answer_to_json(answer), ensure_ascii=False)}" for answer in golden.answers)
    words = "".join(f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in table.items())
    return f'  "{digest}": {{\n{words}   "answers": [\n{lines}\n   ]\n  }}'


def _length_tolerance(allowed: Tolerance) -> float:
    """Return the relative change of length that is allowed: the distance between two unit vectors at that angle."""
    return math.sqrt(2 - 2 * allowed.cosine)


def _distance(one: array[float], other: array[float]) -> float:
    """Return the largest difference; NaN where any is, which `max` finds only if it comes first."""
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences, default=0.0)


def _cosine(one: array[float], other: array[float]) -> float:
    product = math.sumprod(one, other) if hasattr(math, "sumprod") else sum(map(float.__mul__, one, other))
    return product / (math.hypot(*one) * math.hypot(*other))
