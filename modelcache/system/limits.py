"""Limits of this machine: memory, descriptors, processes. An error behind which one of them is says so.

A limit shows in odd places: an import cannot map a library, a lock cannot be allocated, a host name cannot be resolved
for want of a descriptor. So the whole chain of an exception is searched for it; if that shows none, a little memory and
one descriptor are requested as a test.
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
    """Return the error for too little memory; `doing` completes "cannot …"."""
    return _limit_error(errno.ENOMEM, doing)


def limit_behind(error: BaseException, doing: str = "") -> LimitError | None:
    """Return the limit that an exception names, at any depth of its chain."""
    for one in chain_of(error):
        if isinstance(one, MemoryError):
            return out_of_memory(doing)
        if isinstance(one, OSError) and one.errno in _HINTS:
            return _limit_error(one.errno, doing, one.filename)
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


def _limit_error(number: int, doing: str, where: object = None) -> LimitError:
    what = os.strerror(number) + (f": {where}" if where else "")
    return LimitError(f"cannot {doing}: {what}" if doing else what, hint=_HINTS[number])


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and all its causes; urllib3 keeps some as an attribute or an argument."""
    found = [error]
    for one in found:
        causes = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        found += [other for other in causes if isinstance(other, BaseException) and other not in found]
    return found
