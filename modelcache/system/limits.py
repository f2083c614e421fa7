"""Limits of this machine: memory, descriptors, processes. Each is reported as such, wherever it is met.

It is met in odd places: an import that cannot map a library, a lock that cannot be allocated, a name that cannot be
looked up for want of a descriptor. So it is looked for in the whole chain of an exception, and where that says
nothing, by asking for a little of what may lack.
"""

from __future__ import annotations

import errno
import os
import resource

from modelcache.core.errors import LimitError

_FOR_ALL = 12
_FOR_A_JOB = 4
_LITTLE = 32 << 20

_MEMORY = "Raise the memory limit (of the container, or ulimit -v), or lower --jobs."
_FILES = "Raise the limit of open files (ulimit -n), or lower --jobs."
_HINTS = {errno.ENOMEM: _MEMORY, errno.ENOBUFS: _MEMORY, errno.EMFILE: _FILES, errno.ENFILE: _FILES}


def out_of_memory(doing: str = "") -> LimitError:
    """Return the error that tells of too little memory; `doing` completes "cannot …"."""
    return _told(errno.ENOMEM, doing)


def limit_behind(error: BaseException, doing: str = "") -> LimitError | None:
    """Return the limit that an exception speaks of, at any depth of its chain."""
    for one in chain_of(error):
        if isinstance(one, MemoryError):
            return out_of_memory(doing)
        if isinstance(one, OSError) and one.errno in _HINTS:
            return _told(one.errno, doing, one.filename)
    return None


def limit_met(error: BaseException, doing: str = "") -> LimitError | None:
    """Return the limit behind an exception that may not know it: also when even a little is refused now."""
    if found := limit_behind(error, doing):
        return found
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        bytes(_LITTLE)
    except (OSError, MemoryError) as refused:
        return limit_behind(refused, doing)
    return None


def affordable(jobs: int) -> int:
    """Return how many transfers at the same time the limit of open files has room for, at the most `jobs`."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return jobs
    return max(1, min(jobs, (most - _FOR_ALL) // _FOR_A_JOB))


def _told(number: int, doing: str, where: object = None) -> LimitError:
    what = os.strerror(number) + (f": {where}" if where else "")
    return LimitError(f"cannot {doing}: {what}" if doing else what, hint=_HINTS[number])


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and all that led to it; urllib3 keeps some as an attribute or an argument."""
    found = [error]
    for one in found:
        told = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        found += [other for other in told if isinstance(other, BaseException) and other not in found]
    return found
