"""Why a model is not shipped: each reason once, with the way out. Rules only.

A repository gives the words, and decides how many reasons there are; so each is one line, and of a flood some are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from modelcache.core.text import escape, first_lines

_MOST = 30


@dataclass(slots=True)
class Reasons:
    """The reasons for one model, in the order in which they were found."""

    _lines: dict[str, None] = field(default_factory=dict)

    def add(self, reason: str, way_out: str) -> None:
        """Note a reason."""
        if len(self._lines) <= _MOST:
            self._lines[f"{escape(reason, 600)}: {escape(way_out, 400)}"] = None

    def __len__(self) -> int:
        """Return how many there are; of a flood, one more than are told."""
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        """Yield a line each."""
        return iter(first_lines(iter(self._lines), _MOST))

    def told(self, what: str) -> str:
        """Return them below what they are the reasons for."""
        return "\n  ".join([f"{what}:", *self])
