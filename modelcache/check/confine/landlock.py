"""Landlock (landlock(7)): restrict the file access of a process for good, without any privilege.

Seventy lines of our own: no library on PyPI has a release. Rights that a kernel does not know yet are left out, as
its documentation asks; `seccomp` refuses the calls that no version of Landlock sees.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from modelcache.system.syscalls import call

_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _DEVICE_IOCTL = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE_IOCTL
"""The rights that apply to a single file; the others apply to directories."""
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All file rights, by version: read, write, create, remove; then rename across directories, truncate, ioctl."""
_NEWEST_VERSION = 6
_TCP = 0b11
"""Bind and connect, since version 4."""
_SCOPES = 0b11
"""Abstract sockets and signals to processes outside, since version 6."""
_MAKING = sum(1 << right for right in (4, 5, 7, 8, 9, 10, 12, 13))
"""Remove directories and files; create directories, files, sockets, pipes and links; rename. No devices."""


def restrict(readable: Iterable[Path], writable: Iterable[Path], listed: Iterable[Path], *, tcp: bool) -> None:
    """Let this process and its children read, execute and list only what is `readable`, and write only to `writable`.

    Paths in `writable` can be read and executed, too: a compiler runs its trial programs there. Directories in `listed`
    can only be listed. A path that does not exist is left out. Without `tcp` no TCP connection is allowed. The process
    must have set no_new_privs.

    Raises:
        OSError: this kernel has no Landlock, or it is not enabled.

    """
    version = call("landlock_create_ruleset", None, 0, _GET_VERSION)
    known = min(version, _NEWEST_VERSION)
    rights = _RIGHTS[min(known, max(_RIGHTS))]
    # struct landlock_ruleset_attr: files, network, scopes; older versions have only the first ones
    wanted = struct.pack("=QQQ", rights, 0 if tcp else _TCP, _SCOPES)[: 8 if known < 4 else 16 if known < 6 else 24]
    ruleset = call("landlock_create_ruleset", wanted, len(wanted), 0)
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
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a path without a rule stays forbidden
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        if rights:
            call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
