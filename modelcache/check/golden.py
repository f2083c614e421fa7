"""models.golden.json: the numbers that a model gave when it was pinned, by the digest of its files. No torch, no disk.

Equal files and equal libraries give equal numbers, but for the last bits: those depend on the processor and on how
many threads share the work. So vectors are compared by their angle and their length, and scores by their difference;
how much of it is allowed depends on how many bits there are, and may be changed in the file.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelcache.check.probes import Answer, from_json, to_json
from modelcache.core.digests import set_digest
from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.core.types import LockedModel

_FORMAT = 1
_LONGEST_QUOTE = 200
_HINT = "Make it anew with `python cache_models.py check --record`."


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a number may move."""

    cosine: float = 0.99999
    """Of a vector then and now, at least."""
    score: float = 1e-4
    """Between two scores, or two numbers of a vector that was or is zero, at most."""


# 24 bits of a number are kept in float32, 11 in float16 and 8 in bfloat16.
_COARSE = Tolerance(cosine=0.9995, score=0.01)


def tolerance_for(precision: str) -> Tolerance:
    """Return how much the numbers of a model may move whose coarsest parameters have this type."""
    return Tolerance() if precision in ("float32", "float64") else _COARSE


@dataclass(frozen=True, slots=True)
class Golden:
    """What one model gave."""

    id: str
    kind: Kind
    answers: tuple[Answer, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Text by name; under `""` the name of the one that is used when none is asked for."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that gave these numbers."""
    tolerance: Tolerance = Tolerance()


GoldenFile = Mapping[str, Golden]
"""All of them, by the set digest of their files."""


def golden_of(model: LockedModel, recorded: GoldenFile) -> Golden | None:
    """Return what was recorded of a model as it is pinned."""
    known = recorded.get(set_digest(model.files))
    return known if known and known.kind is model.kind else None


def parse_golden(content: bytes, name: str) -> GoldenFile:
    """Turn the bytes of a golden file into what it says.

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
        told = escape(f"{error} is missing" if isinstance(error, KeyError) else str(error))
        raise UsageError(f"{name} is not a file of golden vectors: {told}", hint=_HINT) from error


def format_golden(recorded: GoldenFile) -> str:
    """Return the text of a golden file: sorted, one line an answer, no dates."""
    models = ",\n".join(_model_text(digest, recorded[digest]) for digest in sorted(recorded))
    return f'{{\n "format": {_FORMAT},\n "models": {{\n{models}\n }}\n}}\n'


def moved(golden: Golden, answers: Sequence[Answer]) -> Iterator[str]:
    """Say of each probe that gives other numbers now which it is and by how much."""
    allowed = golden.tolerance
    found = {answer.probe: answer.values for answer in answers}
    total = len(golden.answers)
    for number, then in enumerate(golden.answers, 1):
        now = found.get(then.probe)
        where = f"probe {number} of {total} ({then.probe.told()})"
        if now is None:
            yield f"{where} was not answered"
        elif len(now) != len(then.values):
            yield f"{where} gave {len(then.values)} numbers, and now {len(now)}"
        elif golden.kind is Kind.RERANKER:
            if not (by := _distance(then.values, now)) <= allowed.score:
                yield f"{where} moved by {by:.2g}; {allowed.score:g} is allowed"
        elif not (any(then.values) and any(now)):
            if not (by := _distance(then.values, now)) <= allowed.score:
                yield f"{where} is no longer zero" if any(now) else f"{where} has become zero"
        elif not (cosine := _cosine(then.values, now)) >= allowed.cosine:
            yield f"{where} moved: cosine {cosine:.6f}, at least {allowed.cosine:g}"
        elif not math.isclose(was := math.hypot(*then.values), is_now := math.hypot(*now), rel_tol=_length(allowed)):
            yield f"{where} has another length: {was:.4g} then, {is_now:.4g} now"


def moved_prompts(golden: Golden, prompts: Mapping[str, str]) -> Iterator[str]:
    """Say which prompts are other ones now: they change every vector that is made with them."""
    for name in sorted(golden.prompts.keys() | prompts.keys()):
        then, now = golden.prompts.get(name, ""), prompts.get(name, "")
        if then != now:
            which = f"the prompt {_quoted(name)}" if name else "the default prompt"
            yield f"{which} was {_quoted(then)} and is {_quoted(now)}"


def _quoted(text: str) -> str:
    return escape(repr(text[:_LONGEST_QUOTE]), _LONGEST_QUOTE)


def _golden(entry: Mapping[str, Any]) -> Golden:
    answers = tuple(from_json(answer) for answer in entry["answers"])
    if not answers:
        raise ValueError(f"{entry['id']} has no answers")
    tolerance = Tolerance(float(entry["tolerance"]["cosine"]), float(entry["tolerance"]["score"]))
    if not (0 < tolerance.cosine < 1 and 0 <= tolerance.score < math.inf):
        raise ValueError(f"the tolerance of {entry['id']} allows nothing or anything")
    return Golden(
        id=str(entry["id"]),
        kind=Kind(entry["kind"]),
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
    lines = ",\n".join(f"    {json.dumps(to_json(answer), ensure_ascii=False)}" for answer in golden.answers)
    words = "".join(f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in table.items())
    return f'  "{digest}": {{\n{words}   "answers": [\n{lines}\n   ]\n  }}'


def _length(allowed: Tolerance) -> float:
    """Return by which part a vector's length may differ: as far as its end may move when it turns by that angle."""
    return math.sqrt(2 - 2 * allowed.cosine)


def _distance(one: array[float], other: array[float]) -> float:
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def _cosine(one: array[float], other: array[float]) -> float:
    product = math.sumprod(one, other) if hasattr(math, "sumprod") else sum(map(float.__mul__, one, other))
    return product / (math.hypot(*one) * math.hypot(*other))
