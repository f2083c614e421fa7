"""Cutting this process off: no network, and nothing to write to but one directory. Linux calls by ctypes.

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
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_RDONLY, _MS_PRIVATE, _AT_RECURSIVE, _AT_FDCWD = 1, 1 << 18, 0x8000, -100
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture
_MS_NOSUID, _MS_NODEV = 2, 4
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


@dataclass(slots=True)
class Cut:
    """How a process is cut off, and what it tried all the same."""

    network: str
    """In words, for people."""
    disk: str
    own_network: bool = False
    """Whether nothing else is in its network."""
    attempts: list[str] = field(default_factory=list)
    """`host` or `host:port` of what Python code tried to reach."""

    def unseen(self) -> int:
        """Count the packets that had nowhere to go, whoever of this process and its children sent them."""
        if not self.own_network:
            return 0
        try:
            names, values = Path("/proc/self/net/snmp").read_bytes().splitlines()[:2]
            return int(values.split()[names.split().index(b"OutNoRoutes")])
        except (OSError, ValueError):
            return 0


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def cut_off(scratch: Path) -> Cut:
    """Cut this process off for good; `scratch`, an empty directory, is all that it can write to.

    Has to be called before there are threads: a namespace of users is entered alone.
    """
    cut = Cut("a network namespace of its own", "as writable as it was", own_network=True)
    if _enter(_CLONE_NEWNS | _CLONE_NEWNET):
        cut.disk = _make_read_only(scratch)
    elif _enter(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET):
        if _map_user():  # without a name for the user, nothing could be created in memory mounted there
            cut.disk = _make_read_only(scratch)
    else:
        cut.own_network = False
        cut.network = f"{'' if _has_network() else 'no network here, and '}Python sockets that refuse"
    _refuse_sockets(cut)
    return cut


def _enter(namespaces: int) -> bool:
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    return unshare is not None and unshare(namespaces) == 0


def _map_user() -> bool:
    uid, gid = os.getuid(), os.getgid()
    try:
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_bytes(content.encode())
    except OSError:
        return False
    return True


def _has_network() -> bool:
    try:
        return bool({name for _, name in socket.if_nameindex()} - {"lo"})
    except OSError:
        return True


def _make_read_only(scratch: Path) -> str:
    """Mount memory over the one directory, and where shared memory is; make every other mount read-only."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long

    def change(place: bytes, flags: int, attributes: _MountAttributes) -> bool:
        size = ctypes.sizeof(attributes)
        return not libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, place, flags, ctypes.byref(attributes), size)

    writable = [os.fsencode(place) for place in (scratch, Path("/dev/shm")) if place.is_dir()]  # noqa: S108  # memory of our own goes over it
    if (
        change(b"/", _AT_RECURSIVE, _MountAttributes(propagation=_MS_PRIVATE))
        and not any(libc.mount(b"tmpfs", place, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0700") for place in writable)
        and change(b"/", _AT_RECURSIVE, _MountAttributes(attr_set=_RDONLY))
        and all(change(place, 0, _MountAttributes(attr_clr=_RDONLY)) for place in writable)
    ):
        return "read-only"
    return "as writable as it was"


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
