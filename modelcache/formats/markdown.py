"""Foreign words in a page of Markdown: text of a model card, a lock or a setting, in which Markdown obeys nothing."""

from __future__ import annotations

import re

from modelcache.core.redact import redact
from modelcache.core.text import escape, one_line

_BACKTICKS = re.compile("`+")
# No emphasis, no link, no address of a page or a person: Markdown shows them as they are.
_PLAIN = re.compile(r"(?!www\.)[A-Za-z0-9]+([.+/-][A-Za-z0-9]+|,? (?!www\.)[A-Za-z0-9]+)*")
# Behind `@` a site of git mentions the user of that name.
_ESCAPED = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_[]|#~$!"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@<!-- -->"}
)
# A site of git makes a link of an address that stands in plain text.
_ADDRESS = re.compile(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)")


def plain_text(text: str) -> str:
    """Return a text that quotes foreign words, for a line or a cell; nothing in it is Markdown, HTML or a link."""
    return _ADDRESS.sub("<!-- -->", escape(text).translate(_ESCAPED))


def foreign_words(text: str) -> str:
    """Return foreign words: as they are if they are as plain as the name of a licence, else in a code span."""
    return text if not text or _PLAIN.fullmatch(text) else code_span(text)


def table_cell(text: str, limit: int) -> str:
    """Return foreign words for a cell of a table, where a bar ends the cell even in a code span."""
    return foreign_words(one_line(text, limit)).replace("|", r"\|")


def code_span(text: str) -> str:
    """Return foreign words on one line, in more backticks than there are in a row within.

    Secrets are hidden here: hidden later, they would take the backticks behind them, too.
    """
    shown = one_line(redact(text)).strip()
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"
