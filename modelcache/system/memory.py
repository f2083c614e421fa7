"""Memory that the allocator takes and does not use, and a reserve for when there is none."""

from __future__ import annotations

import ctypes
import resource

_M_ARENA_MAX = -8
_ARENAS = 2
_RESERVE = 1 << 20

_reserve: list[bytes] = []


def share_arenas() -> None:
    """Let all threads share two arenas of glibc: its default, one for each thread, holds 10 MiB and more here.

    Each but the first reserves 64 MiB of address space; if that is limited (`ulimit -v`, `-d`), there is only one.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        tune(_M_ARENA_MAX, _ARENAS if {*limits} == {resource.RLIM_INFINITY} else 1)


def give_back() -> None:
    """Return all free pages of the heap to the system; glibc itself returns only those at its end.

    To map each large block alone (M_MMAP_THRESHOLD of 1 MiB) bounds memory as well, but takes 23 % more CPU time with
    all-MiniLM-L6-v2: the kernel then clears new pages for each layer's tensors.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_reserve() -> None:
    """Reserve some address space, so that an out-of-memory error can still be reported."""
    if not _reserve:
        _reserve.append(bytes(_RESERVE))  # untouched pages take no memory


def use_reserve() -> None:
    """Release the reserve."""
    _reserve.clear()
