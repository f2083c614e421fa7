"""Giving up what a process may do beyond the rights of its user: capabilities, and all that a program could add."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

from modelcache.system.process import prctl
from modelcache.system.syscalls import call

_SET_NO_NEW_PRIVS, _CAPBSET_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64
"""More than any kernel knows: the version above has two words of 32 bits."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Effective, permitted and inheritable, for each of the two words: all empty."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)


def drop_privileges() -> None:
    """Give up every capability for good, also those that a program could give back (capabilities(7)).

    Raises:
        OSError: the kernel does not allow that.

    """
    prctl(_SET_NO_NEW_PRIVS, 1)
    for capability in range(_CAPABILITIES):
        with suppress(OSError):  # of a user without capabilities the bounding set is of no use to anybody
            prctl(_CAPBSET_DROP, capability)
    prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    call("capset", ctypes.pointer(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.pointer(_Sets()))


def limit_files(size: int) -> None:
    """Let no file that this process writes grow beyond `size` bytes, and let it leave no memory dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = [limit for limit in resource.getrlimit(resource.RLIMIT_FSIZE) if limit != resource.RLIM_INFINITY]
    lowest = min([size, *limits])
    resource.setrlimit(resource.RLIMIT_FSIZE, (lowest, lowest))
