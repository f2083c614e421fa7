"""TOML: documents read in bounded time, values written on one line."""

from __future__ import annotations

import json
import re
import tomllib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from typing import Any

from modelcache.core.text import quote

_MOST_KEY_PARTS = 32
_LINE_OF_ERROR = re.compile(r"\(at line ([0-9]+), column [0-9]+\)$")
"""tomllib has it in the text only, until Python 3.14."""
# No keys stand in these.
_STRINGS_AND_COMMENTS = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*''',
    re.DOTALL,
)
# tomllib takes time quadratic in the parts of a dotted key: minutes for one of 100 kB. No file of ours has any.
_LONG_DOTTED_KEY = re.compile(rf"(?:(?<![\w-])[\w-]+[ \t]*\.[ \t]*){{{_MOST_KEY_PARTS}}}")


def decode_text(content: bytes) -> str:
    """Decode a document. A byte order mark, which Notepad and PowerShell write, is dropped.

    Line ends stay as they are: TOML knows both. ValueError if it is not UTF-8, with the line.
    """
    try:
        return content.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise ValueError("it is UTF-16, as PowerShell writes it with >; save it as UTF-8") from error
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} has a byte that is not UTF-8; save it as UTF-8") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a document in bounded time; ValueError if it is no TOML, or nested too deeply."""
    if _LONG_DOTTED_KEY.search(_STRINGS_AND_COMMENTS.sub(lambda found: "" if found[0][0] == "#" else "x", text)):
        raise ValueError(f"a key has more than {_MOST_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _LINE_OF_ERROR.search(str(error))
        line = f": {quote(text.split(chr(10))[int(found[1]) - 1].strip(), 100)}" if found else ""
        raise ValueError(f"{error}{line}") from error
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
