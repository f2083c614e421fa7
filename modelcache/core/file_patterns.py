"""Patterns for files of a repository, as `include` and `exclude` of models.toml have them.

They are those of huggingface_hub's `allow_patterns` (utils/_paths.py, filter_repo_objects): `*` stands for any
characters, `/` too, and a pattern that ends with `/` for all below a folder. `**/` at the front stands for no folder,
too, as in a shell, and the name of a file for that file, whatever brackets it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

PATTERN_KEYS = ("include", "exclude")
"""The keys of models.toml that have patterns."""
MOST_PATTERNS = 100
_MOST_COMPARED = 5_000
_LONGEST = 1024
_ALIKE = 0.7
"""The least likeness of a name that is suggested: with less, modules.json would be one for model.onnx."""
_ANYWHERE = "**/"


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether any of the patterns names a file."""
    return any(_matches(path, pattern) for pattern in patterns)


def _matches(path: str, pattern: str) -> bool:
    whole = f"{pattern}*" if pattern.endswith("/") else pattern
    return (
        path == pattern
        or fnmatchcase(path, whole)
        or (whole.startswith(_ANYWHERE) and fnmatchcase(path, whole[len(_ANYWHERE) :]))
    )


def problem_with_pattern(pattern: str) -> str | None:
    """Return the problem with a pattern, or None: it is relative to the repository, with `/` between folders."""
    parts = pattern.removesuffix("/").split("/")
    if not pattern or len(pattern) > _LONGEST or not pattern.isprintable():
        return "is not a short name or pattern"
    if not {"", ".", ".."}.isdisjoint(parts) or "\\" in pattern:
        return "is not relative to the repository, with / between folders"
    return None


def nearest_names(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the files and folders that are spelt most like a pattern; at most three."""
    compared = list(islice(paths, _MOST_COMPARED))
    found: dict[str, None] = {}
    if any(path.startswith(f"{pattern}/") for path in compared):
        return [f"{pattern}/"]
    for part in (_whole, _name, _folder):
        known = {part(path).casefold(): f"{_folder(path)}/" if part is _folder else path for path in compared}
        known.pop("", None)
        found |= dict.fromkeys(
            known[near] for near in difflib.get_close_matches(part(pattern).casefold(), known, cutoff=_ALIKE)
        )
    return list(found)[:3]


def _whole(path: str) -> str:
    return path


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def unmatched(patterns: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return the patterns that name no file."""
    return [pattern for pattern in patterns if not any(_matches(path, pattern) for path in paths)]
