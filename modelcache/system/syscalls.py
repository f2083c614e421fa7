"""System calls for which Python has no function, by number on x86-64 and on AArch64.

The numbers are those of Linux 6.10 (asm/unistd_64.h, asm-generic/unistd.h). Elsewhere every call fails with ENOSYS, as
on a kernel that does not know it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# Name, number on x86-64, number on AArch64; a minus where the architecture has no such call.
_TABLE = """
    accept 43 202   accept4 288 242   acct 163 89   add_key 248 217   adjtimex 159 171   bind 49 200
    bpf 321 280   capset 126 91   chmod 90 -   chown 92 -   chroot 161 51   clock_adjtime 305 266
    clock_settime 227 112   clone 56 220   clone3 435 435   connect 42 203   delete_module 176 106
    fallocate 285 47   fanotify_init 300 262   fchmod 91 52   fchmodat 268 53   fchmodat2 452 452
    fchown 93 55   fchownat 260 54   fcntl 72 25   fgetxattr 193 10   finit_module 313 273   flistxattr 196 13
    fork 57 -   fremovexattr 199 16   fsconfig 431 431   fsetxattr 190 7   fsmount 432 432   fsopen 430 430
    fspick 433 433   futimesat 261 -   getsockopt 55 209   getxattr 191 8   init_module 175 105
    inotify_add_watch 254 27   io_uring_enter 426 426   io_uring_register 427 427   io_uring_setup 425 425
    ioctl 16 29   ioperm 173 -   iopl 172 -   ioprio_set 251 30   kcmp 312 272   kexec_file_load 320 294
    kexec_load 246 104   keyctl 250 219   kill 62 129   landlock_add_rule 445 445
    landlock_create_ruleset 444 444   landlock_restrict_self 446 446   lchown 94 -   lgetxattr 192 9
    listen 50 201   listmount 458 458   listxattr 194 11   llistxattr 195 12   lookup_dcookie 212 18
    lremovexattr 198 15   lsetxattr 189 6   migrate_pages 256 238   modify_ldt 154 -   mount 165 40
    mount_setattr 442 442   move_mount 429 429   move_pages 279 239   mq_open 240 180   mq_unlink 241 181
    msgctl 71 187   msgget 68 186   msgrcv 70 188   msgsnd 69 189   name_to_handle_at 303 264   open 2 -
    open_by_handle_at 304 265   open_tree 428 428   openat 257 56   openat2 437 437   perf_event_open 298 241
    pidfd_getfd 438 438   pidfd_open 434 434   pidfd_send_signal 424 424   pivot_root 155 41   prctl 157 167
    prlimit64 302 261   process_madvise 440 440   process_mrelease 448 448   process_vm_readv 310 270
    process_vm_writev 311 271   ptrace 101 117   quotactl 179 60   quotactl_fd 443 443   reboot 169 142
    removexattr 197 14   request_key 249 218   rt_sigqueueinfo 129 138   rt_tgsigqueueinfo 297 240
    sched_setaffinity 203 122   sched_setattr 314 274   sched_setparam 142 118   sched_setscheduler 144 119
    seccomp 317 277   semctl 66 191   semget 64 190   semop 65 193   semtimedop 220 192   sendmmsg 307 269
    sendmsg 46 211   sendto 44 206   setdomainname 171 162   sethostname 170 161   setns 308 268
    setpriority 141 140   setsockopt 54 208   settimeofday 164 170   setxattr 188 5   shmat 30 196
    shmctl 31 195   shmget 29 194   socket 41 198   statmount 457 457   swapoff 168 225   swapon 167 224
    syslog 103 116   tgkill 234 131   tkill 200 130   truncate 76 45   umount2 166 39   unshare 272 97
    userfaultfd 323 282   utime 132 -   utimensat 280 88   utimes 235 -   vfork 58 -   vhangup 153 58
"""
NEW_USERS = 0x10000000
"""CLONE_NEWUSER: a namespace of users, in which its creator has every capability."""
NEW_NAMESPACES = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWPID, NEWNET: mounts, processes, memory and network of its own."""
NEWEST_CALL = 462
"""The highest number that is known here (Linux 6.10); later calls have not been considered."""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AUDIT_ARCHITECTURE = _ARCHITECTURES.get(platform.machine()) if sys.maxsize >> 32 else None
"""How seccomp names this architecture (linux/audit.h); None where the table holds no numbers for it."""


def _numbers() -> dict[str, int]:
    words = _TABLE.split()
    columns = zip(words[::3], words[1::3], words[2::3], strict=True)
    x86 = platform.machine() == "x86_64"
    known = {name: on_x86 if x86 else on_arm for name, on_x86, on_arm in columns}
    return {name: int(number) for name, number in known.items() if number != "-"}


CALL_NUMBERS = _numbers() if sys.platform == "linux" and AUDIT_ARCHITECTURE else {}
"""Number by name, of the calls that this architecture has."""


def call(name: str, *arguments: int | bytes | ctypes._Pointer[ctypes.Structure] | None) -> int:
    """Make a system call and return its result; ENOSYS where this architecture has no such call."""
    if name not in CALL_NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = syscall(ctypes.c_long(CALL_NUMBERS[name]), *words)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
