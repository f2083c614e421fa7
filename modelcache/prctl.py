"""What a process may say of itself to Linux (prctl(2)); elsewhere nothing is said."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def die_with_parent() -> None:
    """Let this process end when its parent does: nobody waits for the answer any more."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def let_others_look(allowed: bool) -> None:  # as prctl has it
    """Say whether other processes may look into this one's memory and environment."""
    _prctl(_PR_SET_DUMPABLE, int(allowed))


def _prctl(option: int, value: int) -> None:
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(option, value, 0, 0, 0)
