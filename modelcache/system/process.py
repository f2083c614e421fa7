"""What a process may tell Linux about itself (prctl(2)); elsewhere nothing is told."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 3, 4, 36


def die_with_parent() -> None:
    """Let this process be killed when its parent ends: its answer is not wanted any more."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def terminate_with_parent() -> None:
    """Let this process get SIGTERM when its parent ends, so that it can end what it has started."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def become_subreaper() -> bool:
    """Let processes become this one's children whose parents, started by it, have ended; say whether they will."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def set_dumpable(allowed: bool) -> bool:  # as prctl has it
    """Say whether other processes may look into this one's memory and environment; return whether they might before."""
    before = _prctl(_PR_GET_DUMPABLE, 0)
    _prctl(_PR_SET_DUMPABLE, int(allowed))
    return before != 0


def _prctl(option: int, value: int) -> int:
    """Return what prctl returns, -1 where there is none."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return -1 if prctl is None else int(prctl(option, value, 0, 0, 0))
