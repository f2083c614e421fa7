"""Attributes of this process that Linux lets it set (prctl(2)); elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import errno
import os
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


def prctl(option: int, value: int) -> int:
    """Make the system call of that name; the C library has it for every architecture.

    Raises:
        OSError: it failed, or this system has none.

    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    result = -1 if function is None else int(function(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))
    if result == -1:
        number = ctypes.get_errno() if function else errno.ENOSYS
        raise OSError(number, f"prctl: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int) -> int:
    """Return the result of prctl, -1 where it fails."""
    try:
        return prctl(option, value)
    except OSError:
        return -1
