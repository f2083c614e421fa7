"""Attributes that Linux lets a process set: who ends with whom (prctl(2)), and the rights that it gives up for good."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from contextlib import suppress

from modelcache.system.syscalls import call

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 3, 4, 36
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
"""More than any kernel knows: the version above has two words of 32 bits."""


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


def drop_privileges() -> None:
    """Give up every capability for good, also those that a program could give back (capabilities(7)).

    A kernel that does not allow that is an OSError.
    """
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_CAPABILITIES):
        with suppress(OSError):  # of a user without capabilities the bounding set is of no use to anybody
            prctl(_PR_CAPBSET_DROP, capability)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    call("capset", ctypes.pointer(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.pointer(_Sets()))


def limit_files(size: int) -> None:
    """Let no file that this process writes grow beyond `size` bytes, and let it leave no memory dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = [limit for limit in resource.getrlimit(resource.RLIMIT_FSIZE) if limit != resource.RLIM_INFINITY]
    lowest = min([size, *limits])
    resource.setrlimit(resource.RLIMIT_FSIZE, (lowest, lowest))


def prctl(option: int, value: int) -> int:
    """Make the system call of that name; the C library has it for every architecture. OSError where it fails."""
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


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Effective, permitted and inheritable, for each of the two words: all empty."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)
