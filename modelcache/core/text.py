"""Text from outside, made safe to print: names, sentences, the end of an output. Nothing is printed here."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence, Sized
from itertools import islice

_SPACES = re.compile(r"\s+")
_HEAD = re.compile(r"  \S{1,9} +")
"""The name of the event that a row begins with."""
_WORDS = re.compile(r"((?:`[^`]*`|[^\s`]|`)+)(\s*)")
"""A word, or a command in backticks with what touches it, and the space behind it."""
_COLUMNS = re.compile(r"((?:\S| (?! ))+)( {2,}|$)")
"""A cell of a row, and the two spaces or more behind it."""


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape(text: str, limit: int = 1000) -> str:
    """Return a name for use within a line: control characters as Python escapes, at most `limit` characters.

    Of a run of spaces only the first stays one: a long run would move what follows to where a row begins.
    """
    safe = _printable(text[: limit + 1]).replace("  ", " \\x20")
    return safe if len(safe) <= limit else f"{safe[: limit - 1]}…"


def one_line(text: str, limit: int = 1000) -> str:
    """Return sentences on one line, escaped, with one space between two words."""
    return escape(_SPACES.sub(" ", text), limit)


def sentence(clause: str) -> str:
    """Return a clause with a capital letter and a full stop; nothing stays nothing."""
    return f"{clause[0].upper()}{clause[1:]}." if clause else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the known word that is spelt much like this one, whatever its capitals; or nothing.

    The dashes of options do not count: they would make any two of them alike.
    """
    plain = {one.casefold().lstrip("-"): one for one in known}
    near = difflib.get_close_matches(word.casefold().lstrip("-"), plain, 1)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""


def size_in_words(count: float, *, round_up: bool = False) -> str:
    """Return a number of bytes in decimal units, as on the Hub; of bytes that are needed, at least as many."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{_decimal(count, 0 if unit == 'B' or abs(count) >= 99.95 else 1, round_up)} {unit}"
        count /= 1000
    return f"{_decimal(count, 2, round_up)} GB"


def _decimal(number: float, digits: int, round_up: bool) -> str:
    return f"{math.ceil(number * 10**digits) / 10**digits if round_up else number:.{digits}f}"


def part_of(count: int, whole: int) -> str:
    """Return "45.2 of 91.6 MB"; the unit stands once where it is the same."""
    (part, unit), (all_of_it, other) = size_in_words(count).split(" "), size_in_words(whole).split(" ")
    return f"{part}{'' if unit == other else f' {unit}'} of {all_of_it} {other}"


def duration_in_words(seconds: float) -> str:
    """Return a duration as precise as it matters: "6 s", "3 min 20 s", "42 min" or "1 h 20 min"."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shorten(text: str, width: int) -> str:
    """Return a name in at most `width` characters: its beginning and its end, which tell one from another."""
    if len(text) <= width:
        return text
    end = max(0, width - 1) // 2
    return f"{text[: max(0, width - 1 - end)]}…{text[len(text) - end :]}"


def fold(line: str, width: int) -> str:
    """Break a line that is wider than a terminal, and indent the rest of it.

    A row is broken between its columns, a sentence between its words, and neither within a command in backticks: it
    can be copied. A word that is wider than the terminal stays whole.
    """
    if len(line) <= width:
        return line
    found = _HEAD.match(line)
    head, indent = (found[0], len(found[0])) if found else ("", 2)
    body = line[len(head) :]
    columns = _COLUMNS.findall(body) if "  " in body.strip() else [(body, "")]
    cells = [
        (word, gap or space)
        for cell, space in columns
        for word, gap in (_WORDS.findall(cell) if len(columns) == 1 or len(cell) > width - indent else [(cell, space)])
    ]
    lines, gap = [head], ""
    for cell, space in cells:
        if lines[-1].strip() and len(lines[-1]) + len(gap) + len(cell) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * min(indent, max(2, width - len(cell))))
            gap = ""
        lines[-1] += gap + cell
        gap = space
    return "\n".join(lines)


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Return names on one line, escaped: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(escape(name, 200) for name in names[:most]) + more


def first_lines(sentences: Iterable[str], most: int = 30) -> list[str]:
    """Return sentences; of more than `most` the first ones, and a line that says how many more, if that is known."""
    found = list(islice(sentences, most + 1))
    if len(found) <= most:
        return found
    count = f"{len(sentences) - most} " if isinstance(sentences, Sized) else ""
    return [*found[:most], f"and {count}more like these"]


def last_lines(text: str, count: int) -> list[str]:
    """Return the last lines of a program's output, each behind a bar, so that none looks like a row of ours."""
    return [f"| {one_line(line)}" for line in text.splitlines()[-count:]]


def quote(text: str, limit: int = 200) -> str:
    """Return a stranger's text in quotes, short, and without what a terminal would obey."""
    return f'"{escape(text, limit)}"'


# A CI server obeys its commands in a log: `##[name]` and `##vso[name]` anywhere, `::name::` where a line begins.
_COMMAND = re.compile(r"#(?=#\w*\[)|^ *:(?=:)", re.MULTILINE)


def escape_lines(text: str) -> str:
    """Return lines without what a terminal or a CI server would obey; a JSON object keeps its value."""
    lines = "\n".join(map(_printable, text.split("\n")))
    return _COMMAND.sub(lambda found: f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}", lines)
