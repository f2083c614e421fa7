"""A new root directory for a process, with only the given files of the machine, read-only.

An allow-list, since a list of secret places is never complete. The mounts are made in namespaces of the process's own
(mount_namespaces(7), pivot_root(2)); nothing outside changes, and nothing has to be undone.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.system.syscalls import call

_AT_FDCWD, _AT_RECURSIVE, _DETACH = -100, 0x8000, 2
_NOSUID, _NODEV, _NOEXEC, _READ_ONLY, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 1, 4096, 16384, 1 << 18
_ATTRIBUTE_READ_ONLY, _ATTRIBUTE_NOSUID, _ATTRIBUTE_NODEV = 1, 2, 4
DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom"))
"""Devices that neither keep nor reveal anything."""
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # the process gets its own
_MASKED = """
    cmdline config.gz kallsyms kcore key-users keys kmsg kpagecgroup kpagecount kpageflags pagetypeinfo sched_debug
    slabinfo timer_list vmallocinfo
"""
"""Files of /proc about the machine and its other users; containers mask most of them, too."""
_MAX_LINKS = 40
"""Symbolic links in a path, as in the kernel."""


def enter_new_root(shown: Iterable[Path], proc_files: Iterable[Path], scratch: Path, size: int, inodes: int) -> None:
    """Let this process, the first one of its namespaces, see only the paths in `shown` and an empty `scratch`.

    `scratch` is a directory of the old root and keeps its path; a tmpfs of `size` bytes and `inodes` files is mounted
    there, and another one at /dev/shm. A path that cannot be reached is left out. /proc shows the processes of the
    namespace, or, where that mount is not permitted, only `proc_files`.

    Raises:
        OSError: the mounts are not permitted here.

    """
    _set_attributes(Path("/"), 0, _AT_RECURSIVE, propagation=_PRIVATE)
    _mount("tmpfs", scratch, _NOSUID | _NODEV, f"mode=0755,size={size},nr_inodes={inodes}")
    new = scratch  # until it is the root
    _make_devices(new, size, inodes)
    mounted: list[Path] = []
    for path in sorted({Path(os.path.realpath(path)) for path in shown}, key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(one) for one in mounted) and _bind_read_only(path, new):
            mounted.append(path)
    for path in shown:
        _link_as_outside(path, new)
    inside = _below(new, scratch)
    inside.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", inside, _NOSUID | _NODEV, f"mode=0700,size={size},nr_inodes={inodes}")
    processes = new / "proc"
    processes.mkdir(exist_ok=True)
    try:
        _mount("proc", processes, _READ_ONLY | _NOSUID | _NODEV | _NOEXEC)
        for name in _MASKED.split():
            if (processes / name).is_file():
                _mount("/dev/null", processes / name, _BIND)
    except OSError:  # parts of the old /proc are covered, as in a container
        for path in proc_files:
            _bind_read_only(path, new)
    _set_attributes(new, _ATTRIBUTE_READ_ONLY)
    os.chdir(new)
    call("pivot_root", b".", b".")
    call("umount2", b".", _DETACH)
    os.chdir(scratch)


def _bind_read_only(path: Path, new: Path) -> bool:
    """Bind-mount a file or a directory of the old root at the same path in the new one; return whether it exists."""
    place = _below(new, path)
    try:
        if os.path.isdir(path):
            place.mkdir(parents=True, exist_ok=True)
        else:
            os.stat(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount(str(path), place, _BIND | _RECURSIVE)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    _set_attributes(place, _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NOSUID | _ATTRIBUTE_NODEV, _AT_RECURSIVE)
    return True


def _link_as_outside(path: Path, new: Path) -> None:
    """Create the symbolic links along a path, so that it resolves as outside."""
    done, left = Path("/"), deque(path.parts[1:])
    for _ in range(_MAX_LINKS * len(path.parts)):
        if not left:
            return
        name = left.popleft()
        if name == "..":
            done = done.parent
            continue
        here, copy = done / name, _below(new, done / name)
        try:
            target = Path(os.readlink(here))
        except OSError:
            if left and here.is_dir():
                copy.mkdir(parents=True, exist_ok=True)  # a path may lead through it and back
            done = here
            continue
        if not os.path.lexists(copy):
            with suppress(OSError):  # the path is not there
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(target)
        left.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        done = Path("/") if target.is_absolute() else done


def _make_devices(new: Path, size: int, inodes: int) -> None:
    folder = _below(new, Path("/dev"))
    folder.mkdir(exist_ok=True)
    for device in filter(Path.exists, DEVICES):
        place = _below(new, device)
        place.touch()
        _mount(str(device), place, _BIND)
        _set_attributes(place, _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NOSUID)  # this protects its mode and times
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)
    memory = _below(new, SHARED_MEMORY)
    memory.mkdir()
    _mount("tmpfs", memory, _NOSUID | _NODEV, f"mode=1777,size={size},nr_inodes={inodes}")


def _below(new: Path, path: Path) -> Path:
    return new / path.relative_to("/")


def _mount(source: str, target: Path, flags: int, options: str = "") -> None:
    kind = source.encode() if source in ("tmpfs", "proc") else None
    call("mount", os.fsencode(source), os.fsencode(target), kind, flags, options.encode())


def _set_attributes(place: Path, added: int, flags: int = 0, propagation: int = 0) -> None:
    wanted = struct.pack("=QQQQ", added, 0, propagation, 0)  # struct mount_attr
    call("mount_setattr", _AT_FDCWD, os.fsencode(place), flags, wanted, len(wanted))
