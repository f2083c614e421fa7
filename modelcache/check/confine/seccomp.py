"""A seccomp filter (seccomp(2)): the system calls that a model's code may not make.

A filter of our own: the libraries for it are bindings to libseccomp, which slim images need not have, and the program
below is sixty lines of classic BPF. It is a deny-list, since torch and its libraries make some two hundred system
calls; a call that is newer than the table fails with ENOSYS, as on an older kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from modelcache.system.syscalls import AUDIT_ARCHITECTURE, CALL_NUMBERS, NEW_NAMESPACES, NEW_USERS, NEWEST_CALL, call

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # BPF: ld abs, and, jeq, jgt, ret
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4

# Mounts, namespaces, other processes, keys, the kernel itself: no library needs them to load a model. Most of them fail
# without a capability anyway; the others are open to every user.
_FORBIDDEN = """
    mount umount2 pivot_root chroot mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick setns unshare
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp migrate_pages move_pages
    keyctl add_key request_key bpf perf_event_open userfaultfd fanotify_init open_by_handle_at name_to_handle_at
    quotactl quotactl_fd acct swapon swapoff reboot kexec_load kexec_file_load init_module finit_module delete_module
    settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl ioperm modify_ldt syslog vhangup
    lookup_dcookie
"""
# Their arguments are in memory, which a filter cannot see; libraries then do without them.
_UNKNOWN = "io_uring_setup io_uring_enter io_uring_register clone3 openat2"
_SOCKETS = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6. Others are not bound to a network namespace (AF_VSOCK), or speak to the kernel."""
_DEVICE_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: used with any descriptor."""

# Without namespaces, calls that reach other processes or sockets. fork is among them: a process that forks faster than
# it is found could not be killed.
_FORBIDDEN_WITHOUT_NAMESPACES = """
    fork vfork
    connect bind listen accept accept4 sendmsg sendmmsg
    pidfd_open pidfd_send_signal setpriority ioprio_set
    sched_setattr sched_setparam sched_setscheduler
    shmget shmat shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink
    truncate inotify_add_watch listmount statmount
"""
_OPEN = {"open": 1, "openat": 2}
"""Which argument holds the flags."""
_O_TRUNC, _O_ACCMODE = 0o1000, 3
_UNSEEN_OPEN_FLAGS = (_O_TRUNC, _O_ACCMODE, _O_TRUNC | _O_ACCMODE)
"""O_TRUNC with O_RDONLY, which Landlock sees since Linux 6.2 only; and access mode 3: neither read nor write."""
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo prlimit64"
# Landlock does not see these (landlock(7)). They do nothing and report success: libraries copy modes and times along
# with files, and OpenMP binds its threads to processors (OMP_PROC_BIND) and ends the process if that fails.
_PRETENDED = "chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown sched_setaffinity"
_TIMES = {"utime": 1, "utimes": 1, "futimesat": 2, "utimensat": 2}
"""Which argument holds the times; null means now, and programs that get an error for it create the file."""
_ATTRIBUTES = """
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
"""
_SIGNAL_OWNERS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would send the signal in the owner's place."""
_LEASES = (1024, 1026)
"""F_SETLEASE, F_NOTIFY: they block other processes, or report their actions."""
_PARENT_DEATH = (1,)
"""PR_SET_PDEATHSIG: the process must end with the one that waits for it."""
_CLONE_THREAD = 0x10000
_SOCKET_OPTIONS = (1, 6)
"""SOL_SOCKET, IPPROTO_TCP; others join groups or connect, which sends packets."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The answer to one system call; without a condition always."""

    name: str
    errno: int = errno.EPERM
    argument: int = 0
    """The argument that the conditions compare, from 0; its lower 32 bits, as the kernel reads an int."""
    only: Sequence[int] = ()
    """The values that are allowed; empty: no condition."""
    never: Sequence[int] = ()
    """The values that are refused; empty: no condition."""
    mask: int = 0xFFFFFFFF
    """The bits of it that are compared."""
    null: bool = False
    """Only a null pointer is allowed."""
    allowed: int | None = None
    """The errno of an answer where a condition allows the call; None lets it through."""


def rules(*, namespaces: bool, process: int) -> Iterator[Rule]:
    """Yield the rules for `process` and its children; without `namespaces` also those that replace them."""
    yield from (Rule(name) for name in _FORBIDDEN.split())
    yield from (Rule(name, errno.ENOSYS) for name in _UNKNOWN.split())
    if namespaces:
        yield Rule("clone", mask=NEW_NAMESPACES | NEW_USERS, only=(0,))
    else:
        yield Rule("clone", mask=_CLONE_THREAD, never=(0,))
    yield Rule("fcntl", argument=1, never=_LEASES if namespaces else (*_LEASES, *_SIGNAL_OWNERS))
    yield Rule("socket", errno.EAFNOSUPPORT, only=_SOCKETS)
    yield Rule("ioctl", errno.ENOTTY, argument=1, only=_DEVICE_REQUESTS)
    if namespaces:
        return
    yield from (Rule(name) for name in _FORBIDDEN_WITHOUT_NAMESPACES.split())
    yield from (Rule(name, only=(0, process)) for name in _SIGNALS.split())
    yield from (Rule(name, errno=0) for name in _PRETENDED.split())
    for name, argument in _TIMES.items():
        yield Rule(name, errno=0, argument=argument, null=True, allowed=errno.EPERM)
    yield from (Rule(name, errno.ENOTSUP) for name in _ATTRIBUTES.split())
    for name, argument in _OPEN.items():
        yield Rule(name, argument=argument, mask=_O_TRUNC | _O_ACCMODE, never=_UNSEEN_OPEN_FLAGS)
    yield from (Rule(name, argument=1, only=_SOCKET_OPTIONS) for name in ("setsockopt", "getsockopt"))
    yield Rule("prctl", never=_PARENT_DEATH)
    # It fills a disk faster than the disk is scanned; libraries fall back to write.
    yield Rule("fallocate", errno.EOPNOTSUPP)
    yield Rule("sendto", argument=4, null=True)


def program(applied: Iterable[Rule], numbers: dict[str, int], architecture: int) -> bytes:
    """Return the filter as classic BPF: instructions of 8 bytes, `struct sock_filter`."""
    refuse_unknown = _instruction(_RETURN, _ERRNO | errno.ENOSYS)
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, architecture, 1, 0),
        refuse_unknown,  # 32-bit programs have other numbers
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER, NEWEST_CALL, 0, 1),
        refuse_unknown,  # x32 calls have higher numbers, too
    ]
    for rule in applied:
        if rule.name in numbers:
            answer = _answer(rule)
            code += [_instruction(_EQUAL, numbers[rule.name], 0, len(answer)), *answer]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def install(applied: Iterable[Rule]) -> None:
    """Filter the system calls of this process and of all that it starts, for good; it must have set no_new_privs.

    Raises:
        OSError: the kernel has no filters, or this architecture is not known here.

    """
    if AUDIT_ARCHITECTURE is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    filtered = _Program(program(applied, CALL_NUMBERS, AUDIT_ARCHITECTURE))
    # Without SPEC_ALLOW kernels before 5.16 slow down the whole process.
    call("seccomp", _SET_MODE_FILTER, _SPEC_ALLOW, ctypes.pointer(filtered))


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    def __init__(self, instructions: bytes) -> None:
        super().__init__(len(instructions) // 8, instructions)


def _answer(rule: Rule) -> list[bytes]:
    """Return the instructions for one call; every path ends in a return."""
    refuse = _instruction(_RETURN, _ERRNO | rule.errno)
    allow = _instruction(_RETURN, _ALLOW if rule.allowed is None else _ERRNO | rule.allowed)
    low = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * rule.argument), _instruction(_AND, rule.mask)]
    if values := rule.only or rule.never:
        match, otherwise = (allow, refuse) if rule.only else (refuse, allow)
        return [*low, *(one for value in values for one in (_instruction(_EQUAL, value, 0, 1), match)), otherwise]
    if rule.null:
        high = _instruction(_LOAD, _ARGUMENTS_AT + 8 * rule.argument + 4)
        return [*low, _instruction(_EQUAL, 0, 1, 0), refuse, high, _instruction(_EQUAL, 0, 1, 0), refuse, allow]
    return [refuse]


def _instruction(code: int, operand: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, operand)
