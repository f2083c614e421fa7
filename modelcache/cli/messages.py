"""Text for people: rows, last lines, errors, sizes. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, SeveralModelsError
from modelcache.core.plan import Action, Step
from modelcache.core.text import escape, escape_lines
from modelcache.core.types import LockedModel, Verification

_MOST_LINES = 40
_LONGEST_LINE = 1000
_PAST = {Action.FETCH: "fetched", Action.REPLACE: "replaced", Action.KEEP: "unchanged"}


def summary(steps: Sequence[Step], where: Path) -> str:
    """Return the last line of a sync: how many models are ready, and what was done."""
    if not steps:
        return f"0 models ready in {where}."
    counts = Counter(step.action for step in steps)
    done = ", ".join(f"{counts[action]} {past}" for action, past in _PAST.items() if counts[action])
    return f"{models(len(steps))} ready in {where}: {'unchanged' if counts[Action.KEEP] == len(steps) else done}."


def plan_lines(steps: Sequence[Step]) -> Iterable[str]:
    """Yield one line for each model, for --dry-run."""
    for step in steps:
        why = f"  ({step.reason})" if step.reason else ""
        yield f"  {step.action:<8} {step.model.id:<52} {size(step.size):>9}{why}"


def pinned_row(model: LockedModel, width: int = 52) -> str:
    """Return the row of a pinned model: id, in a column of this width, number of files, size."""
    count = len(model.files)
    files = f"{count} file{'s' * (count != 1)}"
    return f"{model.id:<{width}} {files:>9} {size(model.size):>9}"


def error_lines(error: CacheModelsError) -> list[str]:
    """Return the lines of an error: what failed and where, then the hint."""
    if isinstance(error, SeveralModelsError):
        return [line for one in error.errors for line in error_lines(one)]
    lines = f"error: {error.message}".split("\n")
    if isinstance(error, IntegrityError):
        lines += differences(error.verification)
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"  and {len(lines) - _MOST_LINES} more"]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return [escape_lines(line[:_LONGEST_LINE] + "…" * (len(line) > _LONGEST_LINE)) for line in lines]


def differences(found: Verification) -> list[str]:
    """Return a line for each difference."""
    return [
        *(f"  missing  {escape(path)}" for path in found.missing),
        *(f"  extra    {escape(path)}" for path in found.extra),
        *(f"  changed  {escape(one.path)}   expected {one.expected}  found {one.found}" for one in found.changed),
    ]


def size(count: float) -> str:
    """Return a number of bytes in decimal units, as on the Hub."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def models(count: int) -> str:
    """Return "1 model" or "5 models"."""
    return f"{count} model{'s' * (count != 1)}"
