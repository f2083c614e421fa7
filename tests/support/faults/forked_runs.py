"""Runs of the tool, each forked from one process that has imported everything.

A run costs milliseconds instead of the third of a second that imports take, so each point of its life can be tried.
It is a process like any other: it can be killed, stopped, and broken at its n-th call by the library (preload.c).

    python -m tests.support.faults.forked_runs        takes orders and tells results, one JSON object a line
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.faults.preload import breaking
from tests.support.policy_defaults import set_limits, shorten_pauses

PROJECT = Path(__file__).parents[3]
# Seconds after which a run counts as hanging.
TOO_LONG = 60.0


@dataclass(frozen=True)
class Fault:
    """What befalls a run: see preload.c. `reads` is a directory whose readers are struck instead of the writers."""

    at: int = 0
    do: str = ""
    onwards: bool = False
    reads: str = ""
    no_flock: bool = False
    bad_flock: bool = False
    no_exchange: bool = False
    stale_after: float = 0.0
    """Seconds after which a holder that does not count is overtaken, instead of the 60 s of the tool."""
    segment: int = 0
    """Bytes of a file that are asked for at once, instead of the 32 MiB of the tool."""
    refuses: str = ""
    """Which calls are always refused, of those that a file system may lack."""
    refused: int = 0
    """With which errno."""
    user: int = 0
    """Who runs it, when that is not root."""
    group: int = 0
    """The group of that user, when it has not the same number."""
    shares: int = 0
    """Another group that the user is in."""
    umask: int = -1
    """The umask of this process, when it is not that of the tests."""
    largest_file: int = 0
    """Bytes that a file of this process may have (ulimit -f), when there is such a limit."""
    processes: int = 0
    """Processes and threads that its user may have (ulimit -u), when there is such a limit; root knows none."""


WELL = Fault()


@dataclass(frozen=True)
class End:
    """How a run ended: its exit code, or the negative number of the signal that killed it."""

    code: int
    err: str
    calls: int
    seconds: float


class Run:
    """A run that has been started."""

    def __init__(self, runs: ForkedRuns, pid: int, number: int) -> None:
        self.pid = pid
        self._forks = runs
        self._number = number
        self._began = time.monotonic()

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stands_still(self) -> bool:
        """Wait until it is stopped; False when it has ended instead."""
        stat = Path(f"/proc/{self.pid}/stat")
        while (state := stat.read_text().rpartition(")")[2].split()[0]) not in "TZ":
            time.sleep(0.005)
        return state == "T"

    def end(self, timeout: float = TOO_LONG) -> End:
        """Wait until it has ended; one that hangs is killed, and fails the test."""
        told = self._forks.order({"wait": self.pid, "number": self._number, "timeout": timeout})
        err = (self._forks.folder / f"{self._number}.err").read_text(errors="replace")
        if told["code"] is None:
            raise AssertionError(f"a run hangs:\n{err}")
        return End(told["code"], err, told["calls"], time.monotonic() - self._began)


@dataclass
class ForkedRuns:
    """The process that runs are forked from."""

    library: Path
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cache-models-forks-")))

    def __post_init__(self) -> None:
        self._runs = 0
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.faults.forked_runs", str(self.folder)],
            cwd=PROJECT,
            env={**os.environ, **breaking(self.library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, folder: Path, *words: str, fault: Fault = WELL, env: Mapping[str, str] | None = None) -> Run:
        """Begin a run of the tool in a folder."""
        self._runs += 1
        asked = {**os.environ, **(env or {})}
        order = {"words": words, "folder": str(folder), "number": self._runs, "fault": asdict(fault), "env": asked}
        return Run(self, self.order(order)["pid"], self._runs)

    def run(self, folder: Path, *words: str, fault: Fault = WELL, env: Mapping[str, str] | None = None) -> End:
        """Run the tool in a folder, to its end."""
        return self.start(folder, *words, fault=fault, env=env).end()

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give an order and return what is told about it."""
        with self._lock:
            to, back = self._process.stdin, self._process.stdout
            assert to
            assert back
            print(json.dumps(order), file=to, flush=True)
            told: dict[str, Any] = json.loads(back.readline())
            return told

    def close(self) -> None:
        """End the process that runs are forked from."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()


def serve(folder: Path, orders: IO[str], results: IO[str]) -> None:
    """Take orders until there are no more."""
    running: set[int] = set()
    for line in orders:
        order = json.loads(line)
        if "wait" in order:
            told = _wait(folder, **order)
            running.discard(order["wait"])
        elif pid := os.fork():
            told = {"pid": pid}
            running.add(pid)
        else:
            _be(folder, order)
        print(json.dumps(told), file=results, flush=True)
    for pid in running:  # of tests that failed; some stand still, and would for ever
        os.kill(pid, signal.SIGKILL)


def _wait(folder: Path, *, wait: int, number: int, timeout: float) -> dict[str, Any]:
    end = os.pidfd_open(wait)
    ended, _, _ = select.select([end], [], [], timeout)
    os.close(end)
    if not ended:
        os.kill(wait, signal.SIGKILL)
    _, status = os.waitpid(wait, 0)
    calls = folder / f"{number}.calls"
    count = int((calls.exists() and calls.read_text()) or 0)
    return {"code": os.waitstatus_to_exitcode(status) if ended else None, "calls": count}


def _be(folder: Path, order: Mapping[str, Any]) -> None:
    """Be the run that was ordered, to its end."""
    from cache_models import main
    from modelcache.store.leases import Leases

    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    os.environ.clear()
    os.environ.update(order["env"])
    fault = Fault(**order["fault"])
    for name in ("no_flock", "bad_flock", "no_exchange"):
        if getattr(fault, name):
            os.environ[f"FAULT_{name.upper()}"] = "1"
    if fault.refuses:
        os.environ |= {"FAULT_REFUSES": fault.refuses, "FAULT_REFUSED": str(fault.refused)}
    if fault.stale_after:
        (Leases.__init__.__kwdefaults__ or {})["stale_after"] = fault.stale_after
    if fault.segment:
        set_limits(segment=fault.segment, first_connections=8)  # all segments at once, as over a slow line
    said = os.open(folder / f"{order['number']}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    calls = os.open(folder / f"{order['number']}.calls", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, 2)
    os.dup2(said, 1)
    os.close(said)
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    os.chdir(order["folder"])
    if fault.largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file, fault.largest_file))
    if fault.umask >= 0:
        os.umask(fault.umask)
    if fault.processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (fault.processes, fault.processes))
    if fault.user:
        os.setgroups([fault.shares] if fault.shares else [])
        os.setgid(fault.group or fault.user)
        os.setuid(fault.user)
    library.fault_arm(ctypes.c_long(fault.at), fault.do.encode(), ctypes.c_int(fault.onwards), os.fsencode(fault.reads))
    code = main([*order["words"]])
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()  # as Python does before a process ends
    library.fault_calls.restype = ctypes.c_long
    count = library.fault_calls()
    library.fault_arm(ctypes.c_long(0), b"", ctypes.c_int(0), b"")
    os.write(calls, b"%d" % count)
    os._exit(code)


if __name__ == "__main__":
    from modelcache.cli.parser import COMMANDS

    # What the tool imports on its way; a run as another user may not be able to.
    for name in (
        "encodings.ascii",
        "encodings.idna",
        "encodings.utf_8_sig",
        "huggingface_hub.utils._auth",
        "huggingface_hub.utils._http",
        "modelcache.cli.main",
        *(f"modelcache.cli.commands.{name}" for name in COMMANDS),
        "modelcache.sources.hub_api",
        "yaml",
    ):
        importlib.import_module(name)
    shorten_pauses()
    serve(Path(sys.argv[1]), sys.stdin, sys.stdout)
