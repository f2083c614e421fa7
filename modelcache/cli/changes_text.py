"""The difference between two versions of a model as text: for a terminal, for Markdown, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any

from modelcache.core.changes import Change, Difference, Part
from modelcache.core.effect import effect_sentence
from modelcache.core.kinds import Kind
from modelcache.core.text import escape, first_lines, join_names

NOTHING = "nothing that is shipped"
_MOST_SETTINGS = 10
_LONGEST_VALUE = 60
_CONTEXT = 20
_NOTES = {Part.FORMAT: " (other files than before: the numbers may be equal)"}


def change_rows(difference: Difference) -> Iterator[tuple[str, str]]:
    """Yield a word and a text for each part that has changed: files on one line, settings on one each.

    Of many settings those with the largest effect come first, since not all are shown.
    """
    for part in difference.parts:
        changes = [change for change in difference.changes if change.part is part]
        if files := [_file(change) for change in changes if change.is_file]:
            yield str(part), join_names(files) + _NOTES.get(part, "")
        settings = [_setting(change) for change in sorted(changes, key=_by_effect) if not change.is_file]
        yield from ((str(part), text) for text in first_lines(settings, _MOST_SETTINGS))
    if difference.unread:
        yield (
            "unread",
            f"{join_names(difference.unread)}: not readable in both versions, so their settings are not compared",
        )


def meaning(difference: Difference, kind: Kind) -> str:
    """Return what a difference means for an index, or for scores; the same sentence in every command."""
    return NOTHING if difference.is_empty else effect_sentence(difference.effect, kind.spec.output)


def difference_fields(difference: Difference | None, kind: Kind) -> dict[str, Any]:
    """Return a difference for JSON, with every change; the fields are empty where no two versions were compared."""
    if difference is None:
        return {"changes": [], "unread": [], "effect": "", "meaning": ""}
    return {
        "changes": [_change_fields(change) for change in difference.changes],
        "unread": list(difference.unread),
        "effect": difference.effect.name.lower(),
        "meaning": meaning(difference, kind),
    }


def block(word: str, kind: Kind, model_id: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield the block of a model: a word, its kind and its id, and below them the lines, indented."""
    yield f"{word:<10} {kind:<12} {model_id}"
    yield from (f"{'':<10} {line}" for line in lines)


def text_lines(difference: Difference, kind: Kind) -> Iterator[str]:
    """Yield the lines of a difference for a terminal; the last one is its meaning."""
    yield from (f"{word:<10} {text}" for word, text in change_rows(difference))
    yield meaning(difference, kind)


def _file(change: Change) -> str:
    state = "" if change.old and change.new else " (new)" if change.new else " (gone)"
    return f"{change.name}{state}"


def _setting(change: Change) -> str:
    name = "" if change.name == change.part else f"{escape(change.name, 200)} "
    old, new = (escape(value, _LONGEST_VALUE) if value else "unset" for value in _from_difference(change))
    return f"{name}{old} → {new}"


def _from_difference(change: Change) -> Iterator[str]:
    """Yield both values; long ones that begin alike from shortly before they differ."""
    pairs = zip(change.old, change.new, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) - _CONTEXT
    is_cut = alike > 0 and max(len(change.old), len(change.new)) > _LONGEST_VALUE
    yield from (f"…{value[alike:]}" if is_cut else value for value in (change.old, change.new))


def _by_effect(change: Change) -> int:
    return -change.effect


def _change_fields(change: Change) -> dict[str, Any]:
    named = {"path": change.name} if change.is_file else {"setting": change.name}
    return {
        "part": str(change.part),
        **named,
        "old": change.old,
        "new": change.new,
        "effect": change.effect.name.lower(),
    }
