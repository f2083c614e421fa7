"""Cutting this process off: no network, nothing to write to but one directory, no secrets. Linux calls by ctypes.

As far as the machine allows, by namespaces of its own (unshare(2), mount_setattr(2)); they are the process's, so
nothing outside is changed and nothing has to be put back. Where the network cannot be cut so, Python's own sockets
refuse. What Python code tries is noted either way. Native code asks no Python: in a namespace of its own it gets
nowhere, and its IPv4 packets are counted; where there is none, it goes unseen.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modelcache.trees import remove_tree

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _MS_PRIVATE, _AT_RECURSIVE, _AT_FDCWD = 1, 1 << 18, 0x8000, -100
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 1, 2, 4, 8, 4096
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # memory of our own goes over it
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


@dataclass(slots=True)
class Cut:
    """How a process is cut off, and what it tried all the same."""

    scratch: Path
    network: str = "a network namespace of its own"
    """In words, for people."""
    disk: str = "read-only"
    namespaces: bool = True
    """Whether nothing else is in its network."""
    attempts: list[str] = field(default_factory=list)
    """`host` or `host:port` of what Python code tried to reach."""

    def unseen(self) -> int:
        """Count the packets that had nowhere to go, whoever of this process and its children sent them."""
        if not self.namespaces:
            return 0
        try:
            names, values = Path("/proc/self/net/snmp").read_bytes().splitlines()[:2]
            return int(values.split()[names.split().index(b"OutNoRoutes")])
        except (OSError, ValueError):
            return 0

    def enter_alone(self) -> bool:
        """Let the next fork be the first process of a namespace, with which all that it starts will end."""
        return self.namespaces and _enter(_CLONE_NEWPID | _CLONE_NEWNS)

    def see_no_others(self) -> None:
        """Let the first process of a namespace see only what is in it, so nobody's environment but its own."""
        _mount("proc", Path("/proc"), _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)

    def clear(self) -> None:
        """Empty the directory that can be written to: what one model leaves there is nothing to the next."""
        for left in self.scratch.iterdir():
            remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        if os.listdir(self.scratch):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self.scratch))


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def cut_off(scratch: Path, needed: Collection[Path] = (), secret: Iterable[Path] = ()) -> Cut:
    """Cut this process off for good; `scratch`, an empty directory, is all that it can write to.

    `needed` are directories that must stay to be seen; the files and directories of `secret` look empty from now on.
    Has to be called before there are threads: a namespace of users is entered alone.
    """
    cut = Cut(scratch)
    user, group = os.getuid(), os.getgid()  # in a new namespace nobody has a name
    if not _enter(_CLONE_NEWNS | _CLONE_NEWNET):
        cut.namespaces = _enter(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET)
        if cut.namespaces:
            _name_user(user, group)
    if not cut.namespaces:
        cut.network = f"{'' if _has_network() else 'no network here, and '}Python sockets that refuse"
    if not (cut.namespaces and _make_read_only(scratch, needed, secret)):
        cut.disk = "as writable as it was"
    _refuse_sockets(cut)
    return cut


def _enter(namespaces: int) -> bool:
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    return unshare is not None and unshare(namespaces) == 0


def _name_user(user: int, group: int) -> None:
    """Let the user be himself in his namespace; without a name nothing can be created in memory mounted there."""
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    try:
        for name, content in maps.items():
            Path(f"/proc/self/{name}").write_bytes(content.encode())
    except OSError:
        return  # then the memory cannot be used, and the disk stays as it was


def _has_network() -> bool:
    try:
        return bool({name for _, name in socket.if_nameindex()} - {"lo"})
    except OSError:
        return True


def _make_read_only(scratch: Path, needed: Collection[Path], secret: Iterable[Path]) -> bool:
    """Mount memory over the one directory, and where shared memory is; make every other mount read-only."""
    covered = [scratch]
    if _SHARED_MEMORY.is_dir() and not any(one.is_relative_to(_SHARED_MEMORY) for one in (scratch, *needed)):
        covered.append(_SHARED_MEMORY)
    return (
        _change(Path("/"), _AT_RECURSIVE, propagation=_MS_PRIVATE)
        and all(_hide(place) for place in secret)
        and all(_mount("tmpfs", place, _MS_NOSUID | _MS_NODEV, "mode=0700") for place in covered)
        and _change(Path("/"), _AT_RECURSIVE, attr_set=_RDONLY)
        and all(_change(place, 0, attr_clr=_RDONLY) for place in covered)
    )


def _hide(place: Path) -> bool:
    if os.path.isdir(place):  # False where we may not look, and where nobody needs to be kept from it
        return _mount("tmpfs", place, _MS_RDONLY, "mode=0755")
    return not os.path.exists(place) or _mount("/dev/null", place, _MS_BIND)


def _mount(what: str, where: Path, flags: int, options: str = "") -> bool:
    kind = what.encode() if what in ("tmpfs", "proc") else None
    mount = ctypes.CDLL(None, use_errno=True).mount
    return not mount(what.encode(), os.fsencode(where), kind, ctypes.c_ulong(flags), options.encode())


def _change(place: Path, flags: int, **attributes: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wanted = _MountAttributes(**attributes)
    size = ctypes.sizeof(wanted)
    return not libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), flags, ctypes.byref(wanted), size)


def _refuse_sockets(cut: Cut) -> None:
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _LOOKUPS:
            _refuse(cut, str(arguments[0]))
        elif event in _EVENTS and getattr(arguments[0], "family", None) in _INTERNET:
            address = arguments[1]
            _refuse(cut, ":".join(map(str, address[:2])) if isinstance(address, tuple) else str(address))

    sys.addaudithook(hook)


def _refuse(cut: Cut, where: str) -> None:
    cut.attempts.append(where)
    raise OSError(errno.ENETUNREACH, f"the network is cut, and something wants to reach {where}")
