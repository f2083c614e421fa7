"""What keeps a model's code in: namespaces with a root of their own, no privileges, seccomp, Landlock.

Where namespaces are permitted, such code sees the libraries, its own model and a bounded scratch directory, and nothing
else: no other file, process, socket or network. Where they are not, as in most containers, seccomp refuses the network
and other processes, and Landlock the files. Each step that the kernel does not know or does not permit is left out, and
`Confinement` says which were taken.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.check import landlock, seccomp
from modelcache.check.confinement import Confinement
from modelcache.check.new_root import DEVICES, SHARED_MEMORY, enter_new_root
from modelcache.system.privileges import drop_privileges, limit_files
from modelcache.system.process import set_dumpable
from modelcache.system.syscalls import NEW_NAMESPACES, NEW_USERS, call
from modelcache.system.trees import remove_tree

_SIZE, _FILES = 256 << 20, 16_384
"""Bytes and files that a model's code may leave in its scratch directory; transformers copies that code there."""
_FACTS = """
    /proc/cpuinfo /proc/meminfo /proc/stat /proc/version /proc/vmstat /proc/loadavg /proc/uptime /proc/filesystems
    /proc/sys/vm/overcommit_memory /proc/sys/kernel/osrelease /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max
    /proc/sys/kernel/random/uuid
"""
"""What libraries ask of the machine: its memory, its processors, how busy it is."""
_OF_A_PROCESS = "cmdline comm environ exe fd fdinfo io limits maps oom_score_adj smaps smaps_rollup stat statm status"
"""What a process reads of itself. Not `net` and `mountinfo`: those are the machine's where there are no namespaces."""
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where a model's code is to run; entered in three steps, each by another process (see `isolation`)."""

    scratch: Path
    """An empty directory, to be written to; with namespaces memory is mounted over it, and shared memory is theirs."""
    libraries: Sequence[Path]
    namespaces: bool

    def enter_namespaces(self) -> None:
        """Let the next fork be the first process of new namespaces; all that it starts ends with it.

        Raises:
            OSError: they are not permitted here.

        """
        user, group = os.getuid(), os.getgid()
        try:
            call("unshare", NEW_NAMESPACES)
        except PermissionError:
            call("unshare", NEW_NAMESPACES | NEW_USERS)
            set_dumpable(True)  # else the files below belong to root; no code of a model runs here
            for name, content in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                Path(f"/proc/self/{name}").write_bytes(content.encode())
            set_dumpable(False)

    def enter_root(self, model: Path | None) -> None:
        """Let the first process of the namespaces see the libraries, one model and an empty scratch directory.

        Raises:
            OSError: mounts are not permitted here.

        """
        shown = [*self.libraries, *([model] if model else [])]
        enter_new_root(shown, map(Path, _FACTS.split()), self.scratch, _SIZE, _FILES)
        drop_privileges()

    def confine(self, model: Path | None) -> Confinement:
        """Give up, in the process that runs a model's code, all that it does not need; say what was done."""
        limit_files(_SIZE)
        # In namespaces there are no processes but those that this one starts, which read their own /proc/self.
        own = [f"/proc/{os.getpid()}/{name}" for name in _OF_A_PROCESS.split()]
        places = map(Path, [*_FACTS.split(), *(["/proc"] if self.namespaces else own)])
        readable = [*self.libraries, *places, *([model] if model else [])]
        writable = [self.scratch, *DEVICES, *([SHARED_MEMORY] if self.namespaces else [])]
        listed = [Path(place) for place in sys.path if os.path.isabs(place)]  # Python lists those it imports from
        rules = seccomp.rules(namespaces=self.namespaces, process=os.getpid())
        no_network = not _has_network()  # which the filter would not let it ask
        # Landlock and seccomp ask that no program could give privileges back; and seccomp comes last, since it refuses
        # calls that the others make.
        privileges = _succeeds(drop_privileges)
        landlocked = _succeeds(lambda: landlock.restrict(readable, writable, listed, tcp=self.namespaces))
        filtered = _succeeds(lambda: seccomp.install(rules))
        return Confinement(self.namespaces, privileges, filtered, landlocked, no_network=no_network)

    def overfull(self) -> bool:
        """Whether more was written than may be; with namespaces the kernel sees to that itself."""
        return not self.namespaces and _exceeds(self.scratch, _SIZE, _FILES)

    def clear(self) -> None:
        """Empty the scratch directory: what one model leaves there is nothing to the next."""
        for left in self.scratch.iterdir():
            remove_tree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        if os.listdir(self.scratch):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self.scratch))


def refuse_sockets() -> list[str]:
    """Let Python's sockets refuse every address of the internet, for good; return where the refused ones are noted.

    They come as `host` or `host:port`. Native code asks no Python: `unseen_packets` counts its packets.
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
        raise OSError(errno.ENETUNREACH, f"the network is cut, and something wants to reach {where}")

    sys.addaudithook(hook)
    return attempts


def unseen_packets() -> int:
    """Count the packets that had nowhere to go, of all processes in this network namespace."""
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
    """Whether there is more below a directory; also when it cannot be looked through."""
    folders = [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files -= 1
                    size -= _allotted(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if size < 0 or files < 0:
                        return True
        except FileNotFoundError:
            continue
        except OSError:  # too deep to be opened, or closed to its owner, so its files cannot be counted
            return True
    return False


def _allotted(entry: os.DirEntry[str]) -> int:
    """Return the bytes on disk of a file or a directory, 0 when it has gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
