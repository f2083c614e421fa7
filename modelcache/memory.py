"""Memory that the allocator takes and does not use. Knows the C library, and nothing of models."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
_ARENAS = 2


def share_arenas() -> None:
    """Let all threads share two of glibc's arenas: one a thread, as it likes them, holds 10 MiB and more here."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_ARENA_MAX, _ARENAS)
