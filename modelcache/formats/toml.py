"""TOML: documents read in bounded time, values written on one line."""

from __future__ import annotations

import json
import re
import tomllib
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

_MOST_KEY_PARTS = 32
# No keys stand in these.
_STRINGS_AND_COMMENTS = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*''',
    re.DOTALL,
)
# tomllib takes time quadratic in the parts of a dotted key: minutes for one of 100 kB. No file of ours has any.
_LONG_DOTTED_KEY = re.compile(rf"(?:(?<![\w-])[\w-]+[ \t]*\.[ \t]*){{{_MOST_KEY_PARTS}}}")


def decode_text(content: bytes) -> str:
    """Decode a document. A byte order mark, which Notepad and PowerShell write, is dropped.

    Line ends stay as they are: TOML knows both.
    """
    return content.removeprefix(BOM_UTF8).decode()


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a document in bounded time; ValueError if it is no TOML, or nested too deeply."""
    if _LONG_DOTTED_KEY.search(_STRINGS_AND_COMMENTS.sub(lambda found: "" if found[0][0] == "#" else "x", text)):
        raise ValueError(f"a key has more than {_MOST_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_value(value: object) -> str:
    """Write a value on one line; TOML's strings are those of JSON, but for one character."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key} = {toml_value(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
