"""models.golden.json: the recorded numbers of each model, by the digest of its files. No torch, no disk.

Equal files and equal libraries give equal numbers, but for the last bits: those depend on the processor and on the
number of threads. So vectors are compared by their angle and their length, also each row of a matrix, and scores by
their difference. The tolerance depends on the type of the parameters, and may be changed in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from modelcache.check.probes import Answer, answer_from_json, answer_to_json
from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.core.types import LockedModel, set_digest

LARGEST_GOLDEN = 1 << 26
"""Bytes of a golden file; more are neither read nor written."""
_FORMAT = 1
_OTHER_FORMAT_HINT = (
    "Use the version of cache-models that wrote it, or record the numbers anew with `cache-models check --record`."
)
_HINT = "Take it from version control, or record the numbers anew with `cache-models check --record`."


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a number may change."""

    cosine: float = 0.99999
    """At least, between the recorded vector and the new one."""
    score: float = 1e-4
    """At most, between two scores, or two numbers of a vector that was or is zero."""

    @property
    def length(self) -> float:
        """The relative change of a vector's length: the distance between two unit vectors at that angle."""
        return math.sqrt(2 - 2 * self.cosine)


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
            raise UsageError(f"{name} has format {found}, this tool reads {_FORMAT}", hint=_OTHER_FORMAT_HINT)
        return {str(digest): _golden(entry) for digest, entry in document["models"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        reason = escape(f"{error} is missing" if isinstance(error, KeyError) else str(error))
        raise UsageError(f"{name} is not a file of recorded numbers: {reason}", hint=_HINT) from error


def format_golden(recorded: GoldenFile) -> str:
    """Return the text of a golden file: sorted, one line an answer, no dates."""
    models = ",\n".join(_model_text(digest, recorded[digest]) for digest in sorted(recorded))
    return f'{{\n "format": {_FORMAT},\n "models": {{\n{models}\n }}\n}}\n'


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
