"""Limits of this machine: memory, descriptors, processes. An error that a limit has caused says so.

Memory is also saved where the allocator takes more than is used, and reserved for the report that there is none.

A limit shows in odd places: an import cannot map a library, a lock cannot be allocated, a host name cannot be resolved
for want of a descriptor. So the whole chain of an exception is searched for it; if that shows none, a little memory and
one descriptor are requested as a test.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

from modelcache.core.errors import LimitError

_FOR_ALL = 12
_FOR_A_JOB = 4
_LITTLE = 32 << 20
_M_ARENA_MAX = -8
_ARENAS = 2
_RESERVE = 1 << 20

_reserve: list[bytes] = []

_MEMORY = "Raise the memory limit (of the container, or ulimit -v), or lower --jobs."
_FILES = "Raise the limit of open files (ulimit -n), or lower --jobs."
_HINTS = {errno.ENOMEM: _MEMORY, errno.ENOBUFS: _MEMORY, errno.EMFILE: _FILES, errno.ENFILE: _FILES}


def limit_error(number: int, doing: str, where: object = None) -> LimitError:
    """Return the error for an errno of a limit; `doing` completes "cannot …"."""
    reason = os.strerror(number) + (f": {where}" if where else "")
    return LimitError(f"cannot {doing}: {reason}" if doing else reason, hint=_HINTS[number])


def limit_behind(error: BaseException, doing: str = "") -> LimitError | None:
    """Return the limit that an exception names, at any depth of its chain."""
    for cause in chain_of(error):
        if isinstance(cause, MemoryError):
            return limit_error(errno.ENOMEM, doing)
        if isinstance(cause, OSError) and cause.errno in _HINTS:
            return limit_error(cause.errno, doing, cause.filename)
    return None


def limit_met(error: BaseException, doing: str = "") -> LimitError | None:
    """Return the limit behind an exception, even if that does not name it: test for memory and a descriptor."""
    if found := limit_behind(error, doing):
        return found
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        bytes(_LITTLE)
    except (OSError, MemoryError) as refused:
        return limit_behind(refused, doing)
    return None


def affordable(jobs: int) -> int:
    """Return how many concurrent transfers the limit of open files allows, at most `jobs`."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return jobs
    return max(1, min(jobs, (most - _FOR_ALL) // _FOR_A_JOB))


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and all its causes; urllib3 keeps some as an attribute or an argument."""
    found = [error]
    for link in found:
        causes = (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args)
        found += [cause for cause in causes if isinstance(cause, BaseException) and cause not in found]
    return found


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
