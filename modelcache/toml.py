"""TOML, read in bounded time."""

from __future__ import annotations

import re
import tomllib
from typing import Any

_DEEPEST = 32
# Strings and comments: what stands in them are no keys.
_WORDS = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*''',
    re.DOTALL,
)
# For a dotted key tomllib takes the square of its parts: one of 100 kB is minutes. No file of ours has any.
_DEEP_KEY = re.compile(rf"(?:(?<![\w-])[\w-]+[ \t]*\.[ \t]*){{{_DEEPEST}}}")


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
