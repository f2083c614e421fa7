"""TOML: documents read in bounded time, values written on one line."""

from __future__ import annotations

import json
import re
import tomllib
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

_DEEPEST = 32
# Strings and comments: what stands in them are no keys.
_WORDS = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*''',
    re.DOTALL,
)
# For a dotted key tomllib takes the square of its parts: one of 100 kB is minutes. No file of ours has any.
_DEEP_KEY = re.compile(rf"(?:(?<![\w-])[\w-]+[ \t]*\.[ \t]*){{{_DEEPEST}}}")


def text_of(content: bytes) -> str:
    """Return the text of a document. A byte order mark, which Notepad and PowerShell write, is no part of it.

    Line ends stay as they are: TOML knows both.

    Raises:
        UnicodeDecodeError: it is not UTF-8.

    """
    return content.removeprefix(BOM_UTF8).decode()


def parse_toml(text: str) -> dict[str, Any]:
    """Return a document.

    Raises:
        ValueError: it is no TOML, or its keys are nested without measure.

    """
    if _DEEP_KEY.search(_WORDS.sub(lambda found: "" if found[0][0] == "#" else "x", text)):
        raise ValueError(f"a key has more than {_DEEPEST} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested without measure") from None


def toml_value(value: object) -> str:
    """Return a value as it is written on one line; a string of TOML is one of JSON, but for one character."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
