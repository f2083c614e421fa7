"""`lock --diff`: the difference of two locks, for a pull request; as text, as Markdown, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum

from modelcache.cli.changes_text import block, change_rows, difference_fields, meaning, text_lines
from modelcache.cli.messages import short_commit
from modelcache.core.errors import UsageError
from modelcache.core.pin_change import PinChange
from modelcache.core.text import escape, size_in_words
from modelcache.core.types import LARGEST_TEXT, LockedModel, RemoteCode
from modelcache.formats.lockfile import parse_lock
from modelcache.formats.markdown import plain_text
from modelcache.pipeline.lock_diff import PinDifference
from modelcache.system.files import absolute, read_bytes


class DiffFormat(StrEnum):
    """The values of --format."""

    TEXT = "text"
    MARKDOWN = "md"
    JSON = "json"


_HINT = "`git show main:models.lock | cache-models lock --diff -` takes it from version control."


def read_old_lock(name: str) -> tuple[LockedModel, ...]:
    """Read the lock to compare with, from a file or from stdin (`-`), as `git show main:models.lock` gives it.

    Raises:
        UsageError: there is none; LockfileError: it is no lock.

    """
    if not name:
        raise UsageError("--diff names no file", hint=_HINT)
    if name == "-":
        stdin = getattr(sys.stdin, "buffer", None)
        content = stdin.read(LARGEST_TEXT + 1) if stdin else b""
        if len(content) > LARGEST_TEXT:
            raise UsageError(f"stdin has more than {size_in_words(LARGEST_TEXT)}", hint=_HINT)
        return parse_lock(content, old_lock_name(name), hint=_HINT)
    content = read_bytes(absolute(name))
    if content is None:
        raise UsageError(f"there is no {old_lock_name(name)}", hint=_HINT)
    return parse_lock(content, old_lock_name(name), hint=_HINT)


def old_lock_name(name: str) -> str:
    """Return the name of the lock to compare with, for messages."""
    return "stdin" if name == "-" else escape(name)


def diff_lines(differences: Sequence[PinDifference], form: DiffFormat) -> Iterator[str]:
    """Yield the lines of a difference in a format; models that have not changed are in none but JSON."""
    lines: Mapping[DiffFormat, Callable[[Sequence[PinDifference]], Iterator[str]]] = {
        DiffFormat.TEXT: _text,
        DiffFormat.MARKDOWN: _markdown,
        DiffFormat.JSON: _json,
    }
    return lines[form]([one for one in differences if one.word != PinChange.UNCHANGED or form is DiffFormat.JSON])


def _text(differences: Sequence[PinDifference]) -> Iterator[str]:
    for one in differences:
        lines = text_lines(one.difference, one.kind) if one.difference else ()
        yield from block(one.word, one.kind, one.id, [_commits(one), *lines])


def _markdown(differences: Sequence[PinDifference]) -> Iterator[str]:
    if not differences:
        yield "No pin has changed."
        return
    yield "| model | commit | changes | meaning |"
    yield "|---|---|---|---|"
    for one in differences:
        rows = change_rows(one.difference) if one.difference else ()
        changes = [f"**{word}** {plain_text(text)}" for word, text in rows]
        means = f"**{meaning(one.difference, one.kind)}**" if one.difference else one.word
        yield f"| `{one.id}` ({one.kind}) | {plain_text(_commits(one))} | {'<br>'.join(changes)} | {means} |"


def _json(differences: Sequence[PinDifference]) -> Iterator[str]:
    yield json.dumps([_fields(one) for one in differences], indent=1)


def _fields(one: PinDifference) -> dict[str, object]:
    old, new = one.old, one.new
    return {
        "kind": str(one.kind),
        "id": one.id,
        "state": str(one.word),
        "old_commit": old.commit if old else "",
        "commit": new.commit if new else "",
        "old_bytes": old.size if old else 0,
        "bytes": new.size if new else 0,
        **difference_fields(one.difference, one.kind),
    }


def _commits(one: PinDifference) -> str:
    """Return the commits of a model; of a new one also its size, its licence and its code."""
    commits = dict.fromkeys(short_commit(pin) for pin in (one.old, one.new) if pin)
    brings = [_brings(one.new)] if one.new and not one.old else []
    return ", ".join([" → ".join(commits), *brings])


def _brings(new: LockedModel) -> str:
    words = [f"{len(new.files)} files", size_in_words(new.size), f"licence {new.licence or 'unknown'}"]
    words += ["gated"] if new.gated else []
    words += ["code of its own"] if new.remote_code is RemoteCode.VENDORED else []
    words += ["made from a pickle"] if new.has_pickles else []
    return ", ".join(words)
