"""Why a pickled file is not converted: told without its name, in words that a terminal can show."""

from __future__ import annotations


class RefusedError(Exception):
    """The reason, as the end of a sentence that begins with the file's name."""


def quoted(text: str | bytes) -> str:
    """Show what a file says without letting it speak to the terminal, or at length."""
    return ascii(text[:200])
