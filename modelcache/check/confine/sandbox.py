"""The sandbox for a model's code: namespaces with a root of their own, no privileges, seccomp, Landlock.

Where namespaces are permitted, the code sees the libraries, its own model, a bounded scratch directory, and no other
file, process, socket or network. Where they are not, as in most containers, seccomp refuses the network and other
processes, and Landlock the files. A step that the kernel does not know or does not permit is left out; `Confinement`
says which were taken.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelcache.check.confine import landlock, seccomp
from modelcache.check.confine.new_root import DEVICES, SHARED_MEMORY, enter_new_root
from modelcache.system.process import drop_privileges, limit_files, set_dumpable
from modelcache.system.remove_tree import remove_tree
from modelcache.system.syscalls import NEW_NAMESPACES, NEW_USERS, call

_MAX_BYTES, _MAX_FILES = 256 << 20, 16_384
"""Of the scratch directory; transformers copies a model's code there."""
_MACHINE_FILES = """
    /proc/cpuinfo /proc/meminfo /proc/stat /proc/version /proc/vmstat /proc/loadavg /proc/uptime /proc/filesystems
    /proc/sys/vm/overcommit_memory /proc/sys/kernel/osrelease /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max
    /proc/sys/kernel/random/uuid
"""
"""Libraries read these: memory, processors, load."""
_PROCESS_FILES = "cmdline comm environ exe fd fdinfo io limits maps oom_score_adj smaps smaps_rollup stat statm status"
"""Below /proc/self. Not `net` and `mountinfo`: without namespaces those are the machine's."""
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


@dataclass(frozen=True, slots=True)
class Confinement:
    """The steps that confine a process, each true only if the kernel has accepted it."""

    namespaces: bool = False
    """Its own network, mounts, processes and memory."""
    privileges: bool = False
    """It has no capability and gets none."""
    seccomp: bool = False
    landlock: bool = False
    subreaper: bool = False
    """Every process that it starts can be found and killed."""
    no_network: bool = False
    """The machine has no network but loopback."""

    @property
    def holds(self) -> bool:
        """Whether a model's code can reach neither the network nor files that are not its own."""
        return self.privileges and (self.namespaces or (self.seccomp and self.landlock))

    @property
    def network(self) -> str:
        """How the network is cut."""
        if self.namespaces:
            return "a network namespace of its own"
        return f"{'no network here, and ' * self.no_network}{'seccomp and ' * self.seccomp}blocked Python sockets"

    @property
    def disk(self) -> str:
        """How files are kept from it."""
        if self.namespaces:
            return "read-only"
        return "only the libraries and the model, read-only" if self.landlock else "not restricted"

    @property
    def steps(self) -> list[str]:
        """The steps that were taken."""
        steps = {
            "namespaces": self.namespaces,
            "no privileges": self.privileges,
            "seccomp": self.seccomp,
            "Landlock": self.landlock,
            "a subreaper": self.subreaper,
            "a clean environment": True,
        }
        return [step for step, taken in steps.items() if taken]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where a model's code runs; entered in three steps, each by another process (see `isolation`)."""

    scratch: Path
    """An empty writable directory; with namespaces a tmpfs is mounted over it, and /dev/shm is their own."""
    readable: Sequence[Path]
    """The libraries, and the model."""
    namespaces: bool
    subreaper: bool = False
    """Whether the process that starts it inherits its orphans."""

    def enter_namespaces(self) -> None:
        """Make the next fork the first process of new namespaces; all that it starts ends with it.

        Raises:
            OSError: namespaces are not permitted here.

        """
        user, group = os.getuid(), os.getgid()
        try:
            call("unshare", NEW_NAMESPACES)
        except PermissionError:
            call("unshare", NEW_NAMESPACES | NEW_USERS)
            set_dumpable(True)  # else root owns the files below; no model's code runs in this process
            for name, content in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path(f"/proc/self/{name}").write_bytes(content.encode())
            set_dumpable(False)

    def enter_root(self) -> None:
        """Show the first process of the namespaces only what is readable and an empty scratch directory.

        Raises:
            OSError: mounts are not permitted here.

        """
        enter_new_root(self.readable, map(Path, _MACHINE_FILES.split()), self.scratch, _MAX_BYTES, _MAX_FILES)
        drop_privileges()

    def confine(self) -> Confinement:
        """Confine the process that runs a model's code; return the steps that the kernel accepted."""
        limit_files(_MAX_BYTES)
        # In namespaces there are only the processes that this one starts; each reads its own /proc/self.
        own = [f"/proc/{os.getpid()}/{name}" for name in _PROCESS_FILES.split()]
        proc_files = [*_MACHINE_FILES.split(), *(["/proc"] if self.namespaces else own)]
        readable = [*self.readable, *map(Path, proc_files)]
        writable = [self.scratch, *DEVICES, *([SHARED_MEMORY] if self.namespaces else [])]
        listed = [Path(place) for place in sys.path if os.path.isabs(place)]  # Python lists those it imports from
        rules = seccomp.rules(namespaces=self.namespaces, process=os.getpid())
        no_network = not _has_network()  # asked before the filter refuses that
        # Landlock and seccomp need `no_new_privs`. seccomp comes last: it refuses calls that the others make.
        privileges = _succeeds(drop_privileges)
        landlocked = _succeeds(lambda: landlock.restrict(readable, writable, listed, tcp=self.namespaces))
        filtered = _succeeds(lambda: seccomp.install(rules))
        return Confinement(self.namespaces, privileges, filtered, landlocked, self.subreaper, no_network)

    def overfull(self) -> bool:
        """Whether too much was written; with namespaces the kernel enforces the bound itself."""
        return not self.namespaces and _exceeds(self.scratch, _MAX_BYTES, _MAX_FILES)

    def clear(self) -> None:
        """Empty the scratch directory, so that no model sees files of another."""
        for left in self.scratch.iterdir():
            remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        if os.listdir(self.scratch):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self.scratch))


def refuse_sockets() -> list[str]:
    """Make Python's sockets refuse every internet address; return the list in which each attempt is noted.

    An attempt is `host` or `host:port`. Native code bypasses this hook; `unseen_packets` counts its packets.
    """
    attempts: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _LOOKUPS:
            refuse(str(arguments[0]))
        elif event in _EVENTS and getattr(arguments[0], "family", None) in _INTERNET:
            address = arguments[1]
            refuse(":".join(map(str, address[:2])) if isinstance(address, tuple) else str(address))

    def refuse(where: str) -> None:
        attempts.append(where)
        raise OSError(errno.ENETUNREACH, f"network access to {where} is refused here")

    sys.addaudithook(hook)
    return attempts


def unseen_packets() -> int:
    """Count the packets without a route, of all processes in this network namespace."""
    try:
        names, values = Path("/proc/self/net/snmp").read_bytes().splitlines()[:2]
        return int(values.split()[names.split().index(b"OutNoRoutes")])
    except (OSError, ValueError):
        return 0


def _succeeds(step: Callable[[], object]) -> bool:
    try:
        step()
    except OSError:
        return False
    return True


def _has_network() -> bool:
    try:
        return bool({name for _, name in socket.if_nameindex()} - {"lo"})
    except OSError:
        return True


def _exceeds(folder: Path, size: int, files: int) -> bool:
    """Whether a directory holds more; also if it cannot be scanned."""
    folders = [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files -= 1
                    with suppress(FileNotFoundError):  # it has been removed
                        size -= entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if size < 0 or files < 0:
                        return True
        except FileNotFoundError:
            continue
        except OSError:  # too deep to open, or not readable for its owner, so its files cannot be counted
            return True
    return False
