"""Doing one thing in a process that may crash, hang, or leave others behind: nothing of it stays. Imports no torch."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from modelcache.cut import Cut
from modelcache.prctl import die_with_parent

_CHUNK = 1 << 16


class EndedError(Exception):
    """The process ended, or had to be ended, before it had an answer."""


def apart(job: Callable[[], str], cut: Cut, limit: float) -> str:
    """Return what `job` returns, one line, called in a fork; whatever that process started has ended, too.

    Three processes: this one's child goes into a namespace, its child is the first one in there and waits, and the
    third does the work. With the first one ends the namespace; a signal that kills is no use against a first one.

    Raises:
        EndedError: it crashed, or did not answer within `limit` seconds.

    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.setpgid(0, 0)
        die_with_parent()
        if cut.enter_alone():
            _wait_for_fork()
            cut.see_no_others()
        _write_line(str(_ending_of_fork(job, writing)), writing)
        os._exit(0)
    os.close(writing)
    with suppress(PermissionError):  # it was faster
        os.setpgid(child, child)
    try:
        line = _read_line(reading, time.monotonic() + limit)
    finally:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        cut.clear()
    if line is None:
        raise EndedError(f"it gave no answer within {limit:.0f} s")
    if line.startswith("{"):
        return line
    number = int(line or -signal.SIGKILL)
    memory = "; is there too little memory?" if number == -signal.SIGKILL else ""
    raise EndedError(f"its process ended with {number}{memory}")


def _wait_for_fork() -> None:
    """Fork; only the child returns."""
    if child := os.fork():
        os.waitpid(child, 0)
        os._exit(0)
    die_with_parent()


def _ending_of_fork(job: Callable[[], str], writing: int) -> int:
    """Do the job in a fork, which writes its answer; return what it ended with."""
    child = os.fork()
    if not child:
        die_with_parent()
        _write_line(job(), writing)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _write_line(text: str, writing: int) -> None:
    left = memoryview(f"{text}\n".encode())
    while left:
        left = left[os.write(writing, left) :]


def _read_line(reading: int, deadline: float) -> str | None:
    """Return a line without its end, "" if nobody is left to write one, None if it takes too long.

    The end of the line is enough: what a model started may hold the pipe open as long as it likes.
    """
    line = bytearray()
    while b"\n" not in line:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        if not (chunk := os.read(reading, _CHUNK)):
            return ""
        line += chunk
    return line.partition(b"\n")[0].decode()
