"""Text for people: rows, last lines, errors, sizes. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, SeveralModelsError
from modelcache.core.plan import Action, Step
from modelcache.core.status import ModelStatus, State
from modelcache.core.text import escape, escape_lines, join_names, part_of, size_in_words
from modelcache.core.types import Changed, LockedModel, Verification

_MOST_LINES = 40
_LONGEST_LINE = 1000
_MOST_MODELS = 15
_SHA256_LENGTH = 64
_MOST_DIFFERENCES = 3
PAST = {
    Action.FETCH: "fetched",
    Action.COPY: "copied",
    Action.REPLACE: "replaced",
    Action.LINK: "linked",
    Action.FOUND: "by another process",
    Action.KEEP: "unchanged",
}


def summary(done: Counter[Action], where: Path, to_write: int | None = None) -> str:
    """Return the last line of a sync: how many models are ready, and what was done.

    That of a dry run has the bytes that would be written.
    """
    total = done.total()
    ready = f"{models(total)} {'' if to_write is None else 'would be '}ready in {where}"
    if not total:
        return f"{ready}: the manifest lists none."
    counted = ", ".join(f"{done[action]} {past}" for action, past in PAST.items() if done[action])
    written = f"; {size_in_words(to_write)} would be written" if to_write else ""
    return f"{ready}: {'unchanged' if done[Action.KEEP] == total else counted}{written}."


def plan_lines(steps: Sequence[Step]) -> Iterable[str]:
    """Yield one line for each model, for --dry-run."""
    for step in steps:
        written = "" if step.in_place else size_in_words(step.size)
        why = f"  ({step.reason})" if step.reason else ""
        yield f"  {step.action:<8} {step.model.id:<52} {written:>9}{why}".rstrip()


def pinned_row(model: LockedModel, width: int = 52) -> str:
    """Return the row of a pinned model: id, in a column of this width, and size.

    With the name of the event and seconds behind it, it fits into 80 columns.
    """
    return f"{model.id:<{width}}  {size_in_words(model.size):>7}"


def new_pin_row(model: LockedModel, whole: int, width: int) -> str:
    """Return the row of a model that was pinned now: id, and its size of the `whole` bytes of its repository.

    A model that has code of other repositories may be larger than its own.
    """
    size = part_of(model.size, whole) if model.size <= whole else size_in_words(model.size)
    return f"{model.id:<{width}}  {size:>14}"


def short_commit(model: LockedModel) -> str:
    """Return the beginning of a pin's commit; of a model without one, that it is from a directory."""
    return model.commit[:12] or "a directory"


def packages_needed(imported: Sequence[str]) -> str:
    """Return the packages that a model's code imports, with a pip line for those that are known."""
    from modelcache.check.pip_packages import PACKAGES, pip_install  # few models need it, and it takes time to import

    known = [PACKAGES[name] for name in imported if name in PACKAGES]
    unknown = [name for name in imported if name not in PACKAGES]
    ways = [f"`{pip_install(known)}`"] if known else []
    ways += [f"its card may say where {', '.join(unknown)} is from"] if unknown else []
    return f"its code imports {', '.join(imported)} ({'; '.join(ways)})"


def status_table(rows: Sequence[ModelStatus]) -> Iterable[str]:
    """Yield a header and one line for each model; the state stands last, because it may be long."""
    cells = [("KIND", "ID", "COMMIT", "SIZE", "STATE")]
    for row in rows:
        total = size_in_words(row.size) if row.size else "-"
        cells.append((str(row.kind), row.id or escape(row.path.name), row.commit[:12] or "-", total, state(row)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for kind, name, commit, total, text in cells:
        yield f"{kind:<{widths[0]}}  {name:<{widths[1]}}  {commit:<{widths[2]}}  {total:>{widths[3]}}  {text}"


def state(row: ModelStatus) -> str:
    """Return the state of a model: its fixed words, then after a colon what is to be said about it."""
    more = len(row.differences) - _MOST_DIFFERENCES
    parts = [*row.differences[:_MOST_DIFFERENCES], *([f"{more} more"] if more > 0 else [])]
    if row.fetched:
        staged = part_of(row.fetched, row.to_fetch) if row.to_fetch else size_in_words(row.fetched)
        partly = row.state is State.PARTLY_FETCHED
        parts = [staged, *parts] if partly else [*parts, f"{staged} fetched"]
    if row.fetching:
        parts.append("being fetched")
    return f"{row.state}: {'; '.join(parts)}" if parts else str(row.state)


def error_lines(error: CacheModelsError) -> list[str]:
    """Return the lines of an error: what failed and where, for which models, then the hint."""
    if isinstance(error, SeveralModelsError):
        return [line for one in error.errors for line in error_lines(one)]
    lines = f"error: {error.message}".split("\n")
    if isinstance(error, IntegrityError):
        lines += differences(error.verification)
    # A message that is more than the cause names the first of the models.
    if error.models if error.message == error.cause else error.models[1:]:
        lines.append(f"  models: {join_names(error.models, _MOST_MODELS)}")
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
        *(f"  changed  {escape(one.path)}   {_expected_and_found(one)}" for one in found.changed),
    ]


def _expected_and_found(changed: Changed) -> str:
    """Return what was pinned and what is there: sizes, which never look equal, or the beginnings of two hashes."""
    expected, found = changed.expected, changed.found
    if isinstance(expected, int) and isinstance(found, int):
        words = [size_in_words(expected), size_in_words(found)]
        if words[0] == words[1]:
            words = [f"{expected:,} bytes", f"{found:,} bytes"]
    else:
        words = [f"{one[:12]}…" if len(one) == _SHA256_LENGTH else one for one in (str(expected), str(found))]
    return f"expected {words[0]}  found {words[1]}"


def models(count: int) -> str:
    """Return "1 model" or "5 models"."""
    return f"{count} model{'s' * (count != 1)}"
