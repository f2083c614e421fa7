"""Run a job in a forked child with a timeout; kill its whole process tree. Imports no torch."""

from __future__ import annotations

import os
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelcache.check.confine.sandbox import Confinement, Sandbox
from modelcache.system.process import become_subreaper, die_with_parent, set_dumpable

LONGEST_ANSWER = 1 << 24
"""Bytes that an answer may have: the numbers of 700 probes with 4,096 dimensions."""
_CHUNK = 1 << 16
_KEPT_OUTPUT = 2_000
"""Bytes that are kept of what a process printed."""
_SCAN_INTERVAL = 0.2
"""Seconds between two looks at the scratch directory."""
_KILL_TIMEOUT = 30.0
"""Seconds that killed processes may take to end: large memory takes its time."""


class EndedError(Exception):
    """The process ended, or was killed, before it gave an answer."""


@dataclass(slots=True)
class _Pipe:
    """A pipe to this process; its writing end is closed here as soon as the other process has it."""

    reading: int
    writing: int
    content: bytearray = field(default_factory=bytearray)


def run_isolated(job: Callable[[Confinement], bytes], sandbox: Sandbox, limit: float) -> bytes:
    """Call `job` in a sandboxed process and return its result, one line; every process that it started has ended.

    `job` gets its confinement. There are three processes: the child of this one enters the namespaces, its own child
    is the first process in there and waits, and the third does the work. The namespace ends with its first process.
    Without namespaces there is no such process; this one is the subreaper of all and kills them one by one. Each job
    has pipes of its own, which no other process ever had.

    Raises:
        EndedError: it did not start, crashed, gave no answer within `limit` seconds, or answered or wrote too much.
        OSError: its files cannot be removed.

    """
    sandbox = replace(sandbox, subreaper=become_subreaper())
    set_dumpable(False)
    caller = os.getpid()
    with _pipes(3) as pipes:
        answer, output, ending = pipes
        try:
            supervisor = os.fork()
        except OSError as error:
            raise EndedError(f"no process can be started: {error.strerror}") from error
        if not supervisor:
            _supervise(job, sandbox, caller, pipes)
        for pipe in pipes:
            os.close(pipe.writing)
            pipe.writing = -1
        try:
            problem = _read_pipes(answer, output, ending, sandbox, time.monotonic() + limit)
        finally:
            end_descendants()
            sandbox.clear()
    if b"\n" in answer.content:
        return bytes(answer.content.partition(b"\n")[0])
    problem = problem or f"it gave no answer within {limit:g} s"
    printed = output.content.decode(errors="replace").strip()
    raise EndedError(f"{problem}; it printed last: {printed}" if printed else problem)


def _supervise(job: Callable[[Confinement], bytes], sandbox: Sandbox, caller: int, pipes: Sequence[_Pipe]) -> None:
    """Enter the namespaces, run the job in a child, say in words how that ended; never return."""
    answer, output, ending = (pipe.writing for pipe in pipes)
    try:
        die_with_parent()
        if os.getppid() != caller:  # it ended before that took effect
            return
        _be_killed_first()
        if sandbox.namespaces:
            sandbox.enter_namespaces()
            if first := os.fork():
                os.waitpid(first, 0)
                return
            die_with_parent()
            sandbox.enter_root()
        supervisor = os.getpid()
        worker = os.fork()
        if not worker:
            _work(job, sandbox, supervisor, answer, output)
        os.close(answer)
        os.close(output)
        while (ended := os.wait())[0] != worker:  # the first process of a namespace gets the orphans
            pass
        _write_line(_ended_with(os.waitstatus_to_exitcode(ended[1])).encode(), ending)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other end of the pipe reports it
        with suppress(OSError):
            _write_line(f"it cannot be confined: {str(error) or type(error).__name__}".encode(errors="replace"), ending)
    finally:
        os._exit(0)


def _ended_with(code: int) -> str:
    how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
    return f"its process ended {how}{'; is there too little memory?' * (code == -signal.SIGKILL)}"


def _be_killed_first() -> None:
    """Let the kernel kill this process and its children before all others when memory runs out."""
    set_dumpable(True)  # else the file belongs to root; no code of a model runs here
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    set_dumpable(False)


def _work(job: Callable[[Confinement], bytes], sandbox: Sandbox, supervisor: int, answer: int, output: int) -> None:
    """Run the job with no descriptor but its pipes, in a session of its own; never return."""
    code = 1
    try:
        die_with_parent()
        if os.getppid() != supervisor:  # it ended before that took effect
            return
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, to in enumerate((nothing, output, output)):
            os.dup2(to, number)
        os.dup2(answer, 3, inheritable=False)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        os.chdir(sandbox.scratch)
        set_dumpable(True)  # as any program: libraries read their own /proc/self
        _write_line(job(sandbox.confine()), 3)
        code = 0
    except BaseException:  # noqa: BLE001  # the output of a failed process is reported
        traceback.print_exc()
    finally:
        os._exit(code)


def _read_pipes(answer: _Pipe, output: _Pipe, ending: _Pipe, sandbox: Sandbox, deadline: float) -> str:
    """Read all pipes until there is an answer; return why there is none, empty when it took too long."""
    scanned = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for pipe in (answer, output, ending):
            selector.register(pipe.reading, selectors.EVENT_READ, pipe)
        while (now := time.monotonic()) < deadline:
            ready = [key.data for key, _ in selector.select(min(deadline - now, _SCAN_INTERVAL))]
            closed = [pipe for pipe in ready if not _read(pipe)]
            for pipe in closed:
                selector.unregister(pipe.reading)
            del output.content[:-_KEPT_OUTPUT]
            if b"\n" in answer.content:
                return ""
            if len(answer.content) > LONGEST_ANSWER:
                return f"its answer is longer than {LONGEST_ANSWER >> 20} MiB"
            if ending in closed:
                for pipe in (
                    answer,
                    output,
                ):  # read only the bytes that are there: other processes may hold the pipe open forever
                    while len(pipe.content) <= LONGEST_ANSWER and _read(pipe):
                        pass
                # Nothing was written there if the supervisor was killed, too.
                reason = ending.content.decode().strip() or _ended_with(-signal.SIGKILL)
                return "" if b"\n" in answer.content else reason
            if time.monotonic() - scanned > _SCAN_INTERVAL:
                if sandbox.overfull():
                    return "it wrote more files than it may"
                scanned = time.monotonic()
    return ""


def _read(pipe: _Pipe) -> bool:
    """Read once, without waiting; return whether more may come."""
    try:
        chunk = os.read(pipe.reading, _CHUNK)
    except BlockingIOError:
        return False
    pipe.content += chunk
    return bool(chunk)


@contextmanager
def _pipes(count: int) -> Iterator[list[_Pipe]]:
    pipes = [_Pipe(*os.pipe()) for _ in range(count)]
    try:
        for pipe in pipes:
            os.set_blocking(pipe.reading, False)
        yield pipes
    finally:
        for pipe in pipes:
            for end in (pipe.reading, pipe.writing):
                if end >= 0:
                    os.close(end)


def end_descendants() -> None:
    """Kill all processes that this one and its children have started; return when none is left.

    A subreaper inherits orphans, so this goes on until it has no child.

    Raises:
        TimeoutError: some did not end within half a minute.

    """
    until = time.monotonic() + _KILL_TIMEOUT
    while time.monotonic() < until:
        for child in _children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        os.sched_yield()  # and no sleep: a storm of forks has to be outrun
    raise TimeoutError(f"its processes did not end within {_KILL_TIMEOUT:g} s")


def _children() -> Iterable[int]:
    """Return the processes whose parent is this one."""
    me = os.getpid()
    with suppress(OSError):
        lists = [path.read_text() for path in Path(f"/proc/{me}/task").glob("*/children")]
        if lists:
            return [int(child) for numbers in lists for child in numbers.split()]
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _parent_of(name) == me]


def _parent_of(process: str) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _write_line(line: bytes, writing: int) -> None:
    left = memoryview(line + b"\n")
    while left:
        left = left[os.write(writing, left) :]
