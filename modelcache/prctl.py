"""What a process may say of itself to Linux (prctl(2)); elsewhere nothing is said."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let this process get a signal when its parent ends: nobody waits for the answer any more."""
    _prctl(_PR_SET_PDEATHSIG, number)


def become_subreaper() -> bool:
    """Let processes become this one's children whose parents, started by it, have ended; say whether they will."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def let_others_look(allowed: bool) -> None:  # as prctl has it
    """Say whether other processes may look into this one's memory and environment."""
    _prctl(_PR_SET_DUMPABLE, int(allowed))


def _prctl(option: int, value: int) -> bool:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl is not None and prctl(option, value, 0, 0, 0) == 0
