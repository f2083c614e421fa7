"""The code of hostile models: one function tries one door. This file is copied into each of them.

A function is told where the door is, since its model was made for this attack. It returns True where it got something
that it should not have; harm that can be seen from outside is looked for there. A door that is shut raises OSError.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import mmap
import os
import select
import signal
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Callable
from contextlib import suppress

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = _libc.shmat.restype = ctypes.c_long
_MEGABYTE = b"\0" * (1 << 20)
_NEWNS, _NEWUSER, _NEWNET = 0x20000, 0x10000000, 0x40000000


def _must(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _loopback(port: int) -> bytes:
    """Return 127.0.0.1 as the kernel reads it: a native call asks no audit hook of Python."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))


# Files


def clears_the_covers(marker: str) -> None:
    """Make every mount writable and take covers away, also as the root of a new namespace; write into the home."""

    class Attributes(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace"))

    def try_it() -> bool:
        with suppress(OSError):
            open(marker, "w").close()
            return True
        return False

    def clear() -> None:
        with open("/proc/self/mountinfo", encoding="utf-8") as lines:
            places = ["/", *(line.split()[4] for line in lines)]
        writable = Attributes(clear=1)
        for place in places:
            _libc.syscall(442, -100, place.encode(), 0, ctypes.byref(writable), ctypes.sizeof(writable))
        while places and not try_it():
            _libc.umount2(places.pop().encode(), 2)

    clear()
    if not (child := os.fork()):
        _libc.unshare(_NEWUSER | _NEWNS)
        clear()
        os._exit(0)
    os.waitpid(child, 0)


def overwrites_another_model(path: str) -> None:
    """Change one byte of a file that was verified already, and put its time back."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def changes_modes_and_times(path: str) -> None:
    """Alter a file without opening it: Landlock knows of no such thing."""
    changes: tuple[Callable[[], object], ...] = (
        lambda: os.chmod(path, 0o777),
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.hostile", b"x"),
        lambda: os.truncate(path, 0),
        lambda: os.link(path, f"{path}.link"),
        lambda: os.rename(path, f"{path}.moved"),
    )
    for change in changes:
        with suppress(OSError):
            change()


def leaves_files(folders: list[str], name: str) -> None:
    """Leave a file wherever one can be left."""
    for folder in folders:
        with suppress(OSError):
            open(f"{folder}/{name}", "w").close()


def digs_deep(name: str, levels: int) -> None:
    """Leave directories that no path reaches the end of, one of them and the first of all closed to their owner."""
    top = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tempfile.gettempdir())
        for level in range(levels):
            os.mkdir(name)
            os.chdir(name)
            if level == levels // 2:
                middle = os.open(".", os.O_RDONLY)
        os.fchmod(middle, 0)
        os.chmod(tempfile.gettempdir(), 0)
    finally:
        os.fchdir(top)


def swaps_the_scratch(folder: str) -> None:
    """Put a link to somebody's directory in the place of the one that will be emptied."""
    os.rename(tempfile.gettempdir(), f"{tempfile.gettempdir()}-gone")
    os.symlink(folder, tempfile.gettempdir())


def fills_the_scratch(megabytes: int) -> bool:
    """Write more files than anything needs, where files may be written."""
    for number in range(megabytes // 64):
        with open(f"{tempfile.gettempdir()}/full-{number}", "wb", buffering=0) as file:
            for _ in range(64):
                if file.write(_MEGABYTE) != len(_MEGABYTE):
                    return False
    return True


def floods_stdout(megabytes: int) -> bool:
    """Print without an end, into whatever collects what is printed."""
    for number in (1, 2):
        for _ in range(megabytes):
            os.write(number, _MEGABYTE)
    return any(os.fstat(number).st_size >= megabytes << 20 for number in (1, 2))


# Secrets


def reads_the_token(mark: str) -> bool:
    """Look for the token in the environment of every process, also below a cover over /proc."""
    _libc.umount2(b"/proc", 2)
    found = False
    for path in glob.glob("/proc/[0-9]*/environ"):
        with suppress(OSError), open(path, "rb") as file:
            found = found or mark.encode() in file.read()
    return found


def reads_credentials(paths: list[str], mark: str) -> bool:
    """Read the files in which people have passwords, whether they stand in a list of such files or not."""
    found = False
    for path in paths:
        _libc.umount2(path.encode(), 2)
        with suppress(OSError), open(path, encoding="utf-8") as file:
            found = found or mark in file.read()
    return found


def reads_a_key(number: int, mark: str) -> bool:
    """Ask the kernel's keyring, which a session hands on to whatever it starts."""
    buffer = ctypes.create_string_buffer(100)
    call = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    _must(_libc.syscall(call, 11, number, buffer, len(buffer)))  # keyctl(KEYCTL_READ)
    return mark.encode() in buffer.raw


def reads_a_device(path: str) -> bool:
    """Read from a device: as the superuser that is the memory, the disks, what the kernel tells."""
    return len(os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 8192)) > 0


# The network, and sockets that need none


def connects(port: int) -> None:
    """Connect over TCP, natively."""
    _must(_libc.connect(_must(_libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)), _loopback(port), 16))


def sends_a_datagram(port: int) -> None:
    """Send over UDP, natively."""
    sending = _must(_libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0))
    _must(_libc.sendto(sending, b"x", 1, 0, _loopback(port), 16))


def joins_the_network(port: int) -> None:
    """Enter the network namespace of any other process, and connect there."""
    _libc.umount2(b"/proc", 2)
    for path in glob.glob("/proc/[0-9]*/ns/net"):
        with suppress(OSError):
            _must(_libc.setns(os.open(path, os.O_RDONLY), _NEWNET))
            connects(port)


def connects_by_io_uring(port: int) -> None:
    """Have the kernel make a socket and connect it, in the order book that no filter of system calls sees."""
    answer = ctypes.create_string_buffer(120)
    ring = _must(_libc.syscall(425, 4, answer))  # io_uring_setup
    numbers = struct.unpack("30I", answer.raw)
    tail, mask, slots, finished = numbers[11], numbers[12], numbers[16], numbers[25]
    orders = mmap.mmap(ring, 4096)
    entries = mmap.mmap(ring, 4096, offset=0x10000000)

    def ask(operation: int, descriptor: int, offset: int, address: int) -> int:
        (number,) = struct.unpack_from("I", orders, tail)
        slot = number & struct.unpack_from("I", orders, mask)[0]
        struct.pack_into("=BBHiQQ40x", entries, 64 * slot, operation, 0, 0, descriptor, offset, address)
        struct.pack_into("I", orders, slots + 4 * slot, slot)
        struct.pack_into("I", orders, tail, number + 1)
        _must(_libc.syscall(426, ring, 1, 1, 1, None, 0))  # io_uring_enter, and wait for one to be done
        return int(struct.unpack_from("Qi", orders, finished + 16 * number)[1])

    where = ctypes.create_string_buffer(_loopback(port))
    ask(16, ask(45, socket.AF_INET, socket.SOCK_STREAM, 0), 16, ctypes.addressof(where))


def calls_an_agent(path: str) -> None:
    """Connect to a socket that is a file, as those of Docker, D-Bus and ssh-agent are."""
    calling = socket.socket(socket.AF_UNIX)
    calling.connect(path)
    calling.sendall(b"x")


def sends_to_a_log(path: str) -> None:
    """Send a datagram to a socket that is a file, as that of syslog is."""
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", path)


def connects_a_pair_to_a_log(path: str) -> None:
    """Take one of two sockets that are connected with each other, and connect it with another one."""
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.connect(path)
    one.send(b"x")


def calls_by_an_abstract_name(name: str) -> None:
    """Connect to a socket that has a name and no file."""
    socket.socket(socket.AF_UNIX).connect(f"\0{name}")


def writes_to_a_fifo(path: str) -> None:
    """Write into a FIFO: a file system that is read-only allows it."""
    os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"x")


# Other processes


def alters_shared_memory(path: str) -> None:
    """Change what processes share below /dev/shm."""
    _libc.umount2(b"/dev/shm", 2)
    with open(path, "r+b") as file:
        file.write(b"X")


def alters_a_segment(number: int) -> None:
    """Change what processes share as System V has it, which is no file."""
    ctypes.memset(_must(_libc.shmat(number, None, 0)), ord("X"), 1)


def kills_a_process(number: int) -> None:
    """Send a signal to a process of the same user."""
    os.kill(number, signal.SIGKILL)


def kills_by_owning_a_socket(number: int) -> None:
    """Have the kernel send the signal: to the owner of a socket at which something arrives."""
    one, other = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, number)
    fcntl.fcntl(one, 10, signal.SIGKILL)  # F_SETSIG
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    other.send(b"x")


def squeezes_a_process(number: int) -> None:
    """Take files, processors and its turn from a process of the same user."""
    changes: tuple[Callable[[], object], ...] = (
        lambda: _must(_libc.prlimit(number, 7, struct.pack("QQ", 3, 3), None)),  # RLIMIT_NOFILE
        lambda: os.setpriority(os.PRIO_PROCESS, number, 19),
        lambda: os.sched_setscheduler(number, os.SCHED_IDLE, os.sched_param(0)),
    )
    for change in changes:
        with suppress(OSError):
            change()


def traces_a_process(number: int) -> None:
    """Become the tracer of a process, with which it ends."""
    if not (child := os.fork()):
        _libc.ptrace(0x4206, number, None, ctypes.c_void_p(0x100000))  # PTRACE_SEIZE, PTRACE_O_EXITKILL
        os._exit(0)
    os.waitpid(child, 0)


def writes_into_memory(number: int, address: int) -> None:
    """Change the memory of a process of the same user."""
    text = ctypes.create_string_buffer(b"X")
    here, there = (struct.pack("PN", place, 1) for place in (ctypes.addressof(text), address))
    _must(_libc.process_vm_writev(number, here, 1, there, 1, 0))


def takes_a_descriptor(number: int, descriptor: int) -> None:
    """Take an open file from a process of the same user, and write into it."""
    process = _must(_libc.syscall(434, number, 0))  # pidfd_open
    os.write(_must(_libc.syscall(438, process, descriptor, 0)), b"x")  # pidfd_getfd


def leaves_a_daemon(name: str, seconds: int) -> None:
    """Leave a process behind, in a session of its own, that nothing above waits for."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    os.setsid()
    if not os.fork():
        _libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        _libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
        os.closerange(0, 1024)
        time.sleep(seconds)
    os._exit(0)


def keeps_filling(name: str, seconds: int) -> None:
    """Leave a process that is another one every few milliseconds, and makes files again that somebody removes."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    os.setsid()
    until = time.monotonic() + seconds
    while not os.fork() and time.monotonic() < until:
        _libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        _libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
        for number in range(10):
            with suppress(OSError):
                open(f"{tempfile.gettempdir()}/{name}-{number}", "w").close()
        time.sleep(0.005)
    os._exit(0)


# The verdict, and who writes it


def kills_the_check(end: int) -> None:
    """Kill whatever process is above this one, up to the one that started the check."""
    number = os.getppid()
    while number not in (0, 1, end):
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            above = int(file.read().rpartition(")")[2].split()[1])
        with suppress(OSError):
            os.kill(number, signal.SIGKILL)
        number = above


def speaks(text: str, times: int, end: int) -> bool:
    """Write an answer into every pipe: of this process, and of those above it up to the one that started the check."""
    until = time.monotonic() + 15
    places, number = ["/proc/self/fd"], os.getppid()
    with suppress(OSError):
        while number not in (0, end):
            places.append(f"/proc/{number}/fd")
            with open(f"/proc/{number}/stat", encoding="utf-8") as file:
                number = int(file.read().rpartition(")")[2].split()[1])
    for place in places:
        with suppress(OSError):
            for name in os.listdir(place):
                _write_into(place, name, text.encode("utf-8", "surrogateescape"), times, until)
    return time.monotonic() > until


def _write_into(place: str, name: str, text: bytes, times: int, until: float) -> None:
    with suppress(OSError):
        if not os.readlink(f"{place}/{name}").startswith("pipe:") or (place == "/proc/self/fd" and int(name) <= 2):
            return
        # A descriptor of this process may be one that no path opens again.
        opened = int(name) if place == "/proc/self/fd" else os.open(f"{place}/{name}", os.O_WRONLY)
        for _ in range(times):
            left = memoryview(text)
            while left and time.monotonic() < until:
                if not select.select([], [opened], [], 2.0)[1]:
                    return  # nobody reads
                left = left[os.write(opened, left[: select.PIPE_BUF]) :]


def forges_rows(text: str) -> None:
    """Fail to load, with words that look like a verdict and that a terminal obeys."""
    raise ValueError(text)


def types_on_the_terminal(text: str) -> None:
    """Write on the terminal from which the check was started, and type a command into it."""
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    with suppress(OSError):
        os.write(terminal, f"\n{text}\n".encode())
    for letter in f"{text}\n":
        fcntl.ioctl(terminal, termios.TIOCSTI, letter.encode())


# The machine


def renames_the_host(name: str) -> None:
    """Change the name of the machine."""
    socket.sethostname(name)


def sets_the_kernel(path: str, number: int) -> None:
    """Change a setting of the kernel, in a /proc of its own where that of all is read-only."""
    _libc.mount(b"proc", b"/proc", b"proc", 0, None)
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(number))
