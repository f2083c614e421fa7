"""The width of a terminal, and its colours."""

from __future__ import annotations

import os
import re
from typing import TextIO

from modelcache.core.text import escape_lines, fold

_DEFAULT_WIDTH = 80
_GREEN, _YELLOW, _RED, _BOLD = "32", "33", "31", "1"
_NAME = re.compile(r"^  (\S+)")
_OF_TROUBLE = {"failed": _RED, "error": _RED}
_OF_WARNING = dict.fromkeys(("warning", "retry", "again", "wait", "unpinned", "unproven", "note", "needs"), _YELLOW)
_COLOURS = {"ready": _BOLD, "checked": _BOLD, **_OF_TROUBLE, **_OF_WARNING}


def width_of(out: TextIO) -> int:
    """Return the columns of a terminal."""
    try:
        return os.get_terminal_size(out.fileno()).columns or _DEFAULT_WIDTH
    except (OSError, ValueError):
        return _DEFAULT_WIDTH


def folded(text: str, out: TextIO) -> str:
    """Return lines that are not wider than a terminal, and none of which a CI server takes for a command."""
    width = width_of(out)
    return escape_lines("\n".join(fold(line, width) for line in escape_lines(text).split("\n")))


def is_terminal(out: TextIO | None) -> bool:
    """Whether a stream is a terminal that knows how to move its cursor."""
    return out is not None and out.isatty() and os.environ.get("TERM") != "dumb"


def has_colours() -> bool:
    """Whether a terminal may be sent colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR")


def coloured(row: str, event: str) -> str:
    """Return a row with the name of its event in colour; a last line, which has none, is bold."""
    if not has_colours():
        return row
    if not row.startswith("  "):
        return f"\x1b[{_COLOURS[event]}m{row}\x1b[0m" if event in _COLOURS else row
    colour = _COLOURS.get(event, _GREEN)
    return _NAME.sub(lambda name: f"  \x1b[{colour}m{name[1]}\x1b[0m", row)


def coloured_error(line: str) -> str:
    """Return a line of an error with "error:" or "hint:" in colour."""
    word, colon, rest = line.partition(":")
    colour = {"error": _RED, "hint": _YELLOW}.get(word)
    return f"\x1b[{colour}m{word}{colon}\x1b[0m{rest}" if colour and has_colours() else line
