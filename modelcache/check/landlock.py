"""Landlock (landlock(7)): what a process may do with files, for good, without any privilege.

A hundred lines of our own: of the libraries on PyPI none has a release. Rights that a kernel does not know yet are left
out, as its documentation asks; `seccomp` refuses what no version of it sees.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from modelcache.system.syscalls import call

_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _DEVICE_IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_IOCTL
"""The rights that a single file can have; the others are those of directories."""
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights of files, by version: reading, writing, making, removing; then moving, cutting, asking devices."""
_NEWEST = 6
_TCP = 0b11
"""Binding and connecting, since version 4."""
_OTHERS = 0b11
"""Reaching abstract sockets and signalling processes outside, since version 6."""
_MAKING = sum(1 << right for right in (4, 5, 7, 8, 9, 10, 12, 13))
"""Removing directories and files; making directories, files, sockets, pipes and links; moving. No devices."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def restrict(readable: Iterable[Path], writable: Iterable[Path], listed: Iterable[Path], *, tcp: bool) -> None:
    """Let this process and its children read, execute and list only what is `readable`, and write only to `writable`.

    What is `writable` can be read and executed, too, as the trials of a compiler are. Of what is `listed` the
    names can be read. Each may hold files and directories; one that is not there is left out. Without `tcp` no
    connection is made. The process must have no new privileges.

    Raises:
        OSError: this kernel has no Landlock, or it is not enabled.

    """
    version = call("landlock_create_ruleset", None, 0, _GET_VERSION)
    known = min(version, _NEWEST)
    rights = _RIGHTS[min(known, max(_RIGHTS))]
    wanted = _Ruleset(rights, 0 if tcp or known < 4 else _TCP, 0 if known < 6 else _OTHERS)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = call("landlock_create_ruleset", ctypes.pointer(wanted), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, rights & (_EXECUTE | _READ_FILE | _READ_DIR))
        for path in writable:
            _allow(ruleset, path, rights & (_EXECUTE | _WRITE_FILE | _READ_FILE | _READ_DIR | _TRUNCATE | _MAKING))
        for path in listed:
            _allow(ruleset, path, rights & _READ_DIR)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be found needs no rule: it stays forbidden
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        if rights:
            call("landlock_add_rule", ruleset, _PATH_BENEATH, ctypes.pointer(_Beneath(rights, place)), 0)
    finally:
        os.close(place)
