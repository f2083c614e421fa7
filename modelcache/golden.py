"""models.golden.json: the numbers that a model gave when it was pinned, by the digest of its files. No torch, no disk.

Equal files and equal libraries give equal numbers, but for the last bits: those depend on the processor and on how
many threads share the work. So vectors are compared by their angle and their length, and scores by their difference.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelcache.errors import UsageError
from modelcache.probes import Answer, from_json, to_json
from modelcache.records import Kind

COSINE = 0.99999
SCORE = 1e-4
_FORMAT = 1
_HINT = "Make it anew with `python cache_models.py check --record`."


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


@dataclass(frozen=True, slots=True)
class GoldenFile:
    """All of them by set digest, and how much a number may move."""

    models: Mapping[str, Golden] = field(default_factory=dict)
    cosine: float = COSINE
    score: float = SCORE


def parse_golden(content: bytes, name: str) -> GoldenFile:
    """Turn the bytes of a golden file into what it says.

    Raises:
        UsageError: it is damaged, or of a newer format.

    """
    try:
        document = json.loads(content)
        if document["format"] != _FORMAT:
            raise UsageError(f"{name} has format {document['format']}, this tool reads {_FORMAT}", hint=_HINT)
        tolerance = document["tolerance"]
        cosine, score = float(tolerance["cosine"]), float(tolerance["score"])
        if not (0 < cosine < 1 and 0 <= score < math.inf):
            raise ValueError("the tolerance allows nothing or anything")
        models = {str(digest): _golden(entry) for digest, entry in document["models"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"{name} is not a file of golden vectors: {told}", hint=_HINT) from error
    return GoldenFile(models, cosine, score)


def format_golden(file: GoldenFile) -> str:
    """Return the text of a golden file: sorted, one line an answer, no dates."""
    head = {"format": _FORMAT, "tolerance": {"cosine": file.cosine, "score": file.score}}
    models = ",\n".join(_model_text(digest, file.models[digest]) for digest in sorted(file.models))
    return f'{json.dumps(head, indent=1)[:-2]},\n "models": {{\n{models}\n }}\n}}\n'


def moved(golden: Golden, answers: Sequence[Answer], file: GoldenFile) -> Iterator[str]:
    """Say of each probe that gives other numbers now which it is and by how much."""
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
            if not (by := _distance(then.values, now)) <= file.score:
                yield f"{where} moved by {by:.2g}; {file.score:g} is allowed"
        elif not (any(then.values) and any(now)):
            if not (by := _distance(then.values, now)) <= file.score:
                yield f"{where} is no longer zero" if any(now) else f"{where} has become zero"
        elif not (cosine := _cosine(then.values, now)) >= file.cosine:
            yield f"{where} moved: cosine {cosine:.6f}, at least {file.cosine:g}"
        elif not math.isclose(was := math.hypot(*then.values), is_now := math.hypot(*now), rel_tol=_length(file)):
            yield f"{where} has another length: {was:.4g} then, {is_now:.4g} now"


def moved_prompts(golden: Golden, prompts: Mapping[str, str]) -> Iterator[str]:
    """Say which prompts are other ones now: they change every vector that is made with them."""
    for name in sorted(golden.prompts.keys() | prompts.keys()):
        then, now = golden.prompts.get(name, ""), prompts.get(name, "")
        if then != now:
            yield f"{f'the prompt {name!r}' if name else 'the default prompt'} was {then!r} and is {now!r}"


def _golden(entry: Mapping[str, Any]) -> Golden:
    return Golden(
        id=str(entry["id"]),
        kind=Kind(entry["kind"]),
        answers=tuple(from_json(answer) for answer in entry["answers"]),
        prompts={str(name): str(text) for name, text in entry["prompts"].items()},
        versions={str(name): str(text) for name, text in entry["versions"].items()},
    )


def _model_text(digest: str, golden: Golden) -> str:
    table = {
        "id": golden.id,
        "kind": str(golden.kind),
        "versions": dict(sorted(golden.versions.items())),
        "prompts": dict(sorted(golden.prompts.items())),
    }
    lines = ",\n".join(f"    {json.dumps(to_json(answer), ensure_ascii=False)}" for answer in golden.answers)
    words = "".join(f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in table.items())
    return f'  "{digest}": {{\n{words}   "answers": [\n{lines}\n   ]\n  }}'


def _length(file: GoldenFile) -> float:
    """Return by which part a vector's length may differ: as far as its end may move when it turns by that angle."""
    return math.sqrt(2 - 2 * file.cosine)


def _distance(one: array[float], other: array[float]) -> float:
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def _cosine(one: array[float], other: array[float]) -> float:
    product = math.sumprod(one, other) if hasattr(math, "sumprod") else sum(map(float.__mul__, one, other))
    return product / (math.hypot(*one) * math.hypot(*other))
