"""Why a model is not shipped: each reason once, with a hint. Rules only.

A repository decides how many reasons there are, and gives some of their words. So each is one short line, and their
number has a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from modelcache.core.text import escape, first_lines

BROKEN = "tell the owner that the repository is broken"
"""A hint."""

_MOST = 30


class Refuse(Protocol):
    """Takes a reason, a hint, and the key of models.toml that removes the reason, if there is one."""

    def __call__(self, reason: str, hint: str, key: str = "", /) -> None:
        """Take them."""


@dataclass(slots=True)
class Reasons:
    """The reasons for one model, in the order in which they were found."""

    _lines: dict[str, None] = field(default_factory=dict)
    _keys: dict[str, None] = field(default_factory=dict)

    def add(self, reason: str, hint: str, key: str = "", /) -> None:
        """Add a reason, what to do about it, and the key of models.toml that does it, if there is one."""
        self._keys[key] = None
        if len(self._lines) <= _MOST:
            self._lines[f"{escape(reason, 600)}: {escape(hint, 400)}"] = None

    @property
    def settings(self) -> tuple[str, ...]:
        """The keys that remove all of these reasons; none where one of them has no key."""
        return () if "" in self._keys else tuple(self._keys)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._lines)

    def message(self, heading: str) -> str:
        """Return all of them below a heading."""
        return "\n  ".join([f"{heading}:", *first_lines(iter(self._lines), _MOST)])
