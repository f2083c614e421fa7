"""The seccomp filter, interpreted as the kernel does (linux/filter.h), for both architectures."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from modelcache.check.confine import seccomp
from modelcache.system.syscalls import CALL_NUMBERS

ARM = {
    "socket": 198,
    "fcntl": 25,
    "prctl": 167,
    "getsockopt": 209,
    "clone3": 435,
    "openat": 56,
    "clone": 220,
    "ioctl": 29,
    "kill": 129,
    "sendto": 206,
    "utimensat": 88,
    "mount": 40,
}


def answer_of(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter over one call; return the errno of its answer, 0 where it pretends, -1 where it lets it through."""
    words = struct.pack("<iIQ6Q", number, architecture, 0, *(*arguments, *[0] * (6 - len(arguments))))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        what, jump_true, jump_false, operand = code[at]
        at += 1
        if what == 0x20:
            (accumulator,) = struct.unpack_from("<I", words, operand)
        elif what == 0x54:
            accumulator &= operand
        elif what == 0x06:
            return -1 if operand == 0x7FFF0000 else operand & 0xFFFF
        else:
            true = {0x15: accumulator == operand, 0x25: accumulator > operand}[what]
            at += jump_true if true else jump_false


@pytest.mark.parametrize("numbers", [ARM, CALL_NUMBERS], ids=["aarch64", "here"])
@pytest.mark.parametrize(
    ("call", "arguments", "namespaces", "answer"),
    [
        ("mount", (), True, errno.EPERM),
        ("clone", (0x01200011,), True, -1),  # as fork does
        ("clone", (0x3D0F00,), True, -1),  # as pthread_create does
        ("clone", (0x10000011,), True, errno.EPERM),
        ("ioctl", (0, 0x5401), True, -1),
        ("ioctl", (0, 0x5412), True, errno.ENOTTY),
        ("ioctl", (0, 0x1_0000_5412), True, errno.ENOTTY),  # the kernel reads 32 bits
        ("kill", (1, 9), True, -1),
        ("kill", (1, 9), False, errno.EPERM),
        ("kill", (4711, 9), False, -1),
        ("kill", (0xFFFFFFFF, 9), False, errno.EPERM),  # everybody
        ("sendto", (0, 0, 0, 0, 0), False, -1),
        ("sendto", (0, 0, 0, 0, 0x1_0000_0000), False, errno.EPERM),
        ("sendto", (0, 0, 0, 0, 0x1), False, errno.EPERM),
        ("socket", (2, 1, 0), True, -1),
        ("socket", (40, 1, 0), True, errno.EAFNOSUPPORT),  # virtual machines' sockets
        ("fcntl", (0, 2, 1), False, -1),
        ("fcntl", (0, 8, 1), True, -1),
        ("fcntl", (0, 8, 1), False, errno.EPERM),
        ("fcntl", (0, 1024, 0), True, errno.EPERM),
        ("prctl", (1, 0), False, errno.EPERM),
        ("prctl", (15, 0), False, -1),
        ("getsockopt", (0, 132, 111), False, errno.EPERM),
        ("clone3", (0, 88), True, errno.ENOSYS),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), False, errno.EPERM),
        ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC | os.O_CREAT), False, -1),  # which Landlock sees
        ("openat", (0, 0, os.O_RDONLY), False, -1),
        ("openat", (0, 0, 3), False, errno.EPERM),
        ("openat", (0, 0, 3 | os.O_TRUNC), False, errno.EPERM),
        ("clone", (0x11,), False, errno.EPERM),
        ("clone", (0,), False, errno.EPERM),
        ("clone", (0x3D0F00,), False, -1),
        ("utimensat", (0, 0, 0x7FFF_0000_0000), False, 0),
        ("utimensat", (0, 0, 0), False, errno.EPERM),
    ],
)
def test_the_filter_answers(
    numbers: dict[str, int], call: str, arguments: tuple[int, ...], namespaces: bool, answer: int
) -> None:
    """Conditions look at the bits that the kernel looks at; a pointer has 64."""
    program = seccomp.program(seccomp.rules(namespaces=namespaces, process=4711), numbers, 0xC00000B7)
    assert answer_of(program, 0xC00000B7, numbers[call], *arguments) == answer


def test_other_architectures_and_newer_calls_are_unknown_to_the_filter() -> None:
    """A 32-bit program has other numbers for the same calls, and x32 others again."""
    program = seccomp.program(seccomp.rules(namespaces=False, process=4711), CALL_NUMBERS, 0xC000003E)
    assert answer_of(program, 0x40000003, 1) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 0x40000000 | 165) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 463) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 0) == -1


@pytest.mark.parametrize("namespaces", [True, False])
def test_every_rule_names_a_call_that_is_known(namespaces: bool) -> None:
    """A misspelled name would let its call through; AArch64 lacks only the old forms."""
    names = {rule.name for rule in seccomp.rules(namespaces=namespaces, process=1)}
    if CALL_NUMBERS.get("mount") == 165:
        assert names <= CALL_NUMBERS.keys()
