"""Python processes that have torch already: each is forked from one that has imported it.

To import sentence-transformers takes five seconds of a processor, four of them for libraries that read none of an
application's settings. One process for each worker of the tests imports those. A fork of it becomes the program that
was asked for, with its own environment, directory, arguments and files; it imports huggingface_hub, transformers and
sentence_transformers itself, since they read their settings from the environment when they are imported.

`Popen` and `run` are those of `subprocess`, for a command that begins with `sys.executable`. A program that starts
`sys.executable` itself, as `check` does, forks there too. Such a process shares with its siblings the addresses of its
libraries, the seed of hashes and `/proc/self/environ`: a test of any of those uses `subprocess`. A process is started
as usual where coverage is measured, and where its environment has settings that Python or libc read when they start.

    python preloaded.py        the process that forks: it takes orders from the socket that is its stdin
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import inspect
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# These and what they import are all that sentence_transformers imports, but for the libraries of Hugging Face.
_LIBRARIES = (
    "scipy.stats",
    "sklearn.metrics.pairwise",
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.fx.experimental.symbolic_shapes",
)
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "OPENBLAS_", "MKL_", "COVERAGE_")
_READ_HERE = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUSERBASE"}
_SET_CHILD_SUBREAPER = 36
_LONGEST_ORDER = 1 << 17
_ORDERS = threading.Lock()
_UsualPopen = subprocess.Popen


class Popen(subprocess.Popen[Any]):
    """A process that is forked from one with torch, and is a child of this one all the same."""

    def _execute_child(self, *given: Any) -> None:
        """Do what `subprocess` does between making the pipes and knowing the process id."""
        usual = _UsualPopen._execute_child  # type: ignore[attr-defined]
        asked = inspect.signature(usual).bind(self, *given).arguments
        if not _can_fork(asked):
            usual(self, *given)
            return
        files = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        order = {
            "words": [os.fspath(word) for word in asked["args"][1:]],
            "folder": os.path.abspath(asked["cwd"] or "."),
            "env": dict(os.environ if asked["env"] is None else asked["env"]),
            "session": any(value for name, value in asked.items() if name.endswith("start_new_session")),
        }
        files = [usually if file < 0 else file for usually, file in enumerate(files)]
        self.pid = _fork_here(order, files, asked["pass_fds"]) if _is_a_fork() else _fork_there(order, files)
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end, as `subprocess.run` does."""
    capture, check = options.pop("capture_output", False), options.pop("check", False)
    sent, timeout = options.pop("input", None), options.pop("timeout", None)
    if capture:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if sent is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(sent, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _is_a_fork() -> bool:
    """Whether this process itself was forked so, and has torch."""
    return subprocess.Popen is Popen


def _can_fork(asked: Mapping[str, Any]) -> bool:
    """Whether a fork can be what is asked for."""
    command, env = asked["args"], asked["env"]
    settings = set((os.environ if env is None else env).items()) ^ set(os.environ.items())
    return (
        sys.platform == "linux"
        and not isinstance(command, str | bytes | os.PathLike)
        and command[0] == sys.executable
        and not any(asked[name] for name in ("shell", "preexec_fn"))
        and (_is_a_fork() or not asked["pass_fds"])
        and "COVERAGE_FILE" not in os.environ
        and not any(name.startswith(_READ_AT_START) and name not in _READ_HERE for name, _ in settings)
    )


# In the process of the tests.


@cache
def _parent() -> socket.socket:
    """Start the process that forks; return the socket on which it takes orders. It ends when this process does."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        _UsualPopen([sys.executable, __file__], stdin=there.fileno())
    return here


def _fork_there(order: Mapping[str, Any], files: Sequence[int]) -> int:
    """Let the process with torch fork; return the number of the fork, which becomes a child of this process."""
    with _ORDERS:
        parent = _parent()
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(parent, [json.dumps(order).encode()], files)
            return int(parent.recv(100))
        finally:
            libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# In the process that forks, and in its forks.


def _serve() -> None:
    """Take orders until there are no more."""
    del sys.path[0]  # the directory of this file is no program's
    for library in _LIBRARIES:
        importlib.import_module(library)
    orders = socket.socket(fileno=os.dup(0))
    while True:
        try:
            text, files, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 3)
        except KeyboardInterrupt:  # which is meant for the tests
            continue
        if not text:
            return
        reading, writing = os.pipe()
        # Its parent ends at once, so it becomes a child of the tests, and its exit code is theirs to read.
        if not (between := os.fork()):
            between = os.getpid()
            if grandchild := os.fork():
                os.write(writing, b"%d" % grandchild)
                os._exit(0)
            while os.getppid() == between:
                os.sched_yield()
            for file, number in enumerate(files):
                os.dup2(number, file)
            _be(json.loads(text), keep=())
        os.waitpid(between, 0)
        for number in (*files, writing):
            os.close(number)
        orders.send(os.read(reading, 100))
        os.close(reading)


def _fork_here(order: Mapping[str, Any], files: Sequence[int], keep: Sequence[int]) -> int:
    """Fork this process, for a program that it starts."""
    if pid := os.fork():
        return pid
    copies = [os.dup(number) for number in files]
    for file, number in enumerate(copies):
        os.dup2(number, file)
    atexit._clear()  # what this process does at its end is not the other's to do
    _be(order, keep)
    return 0  # never


def _be(order: Mapping[str, Any], keep: Sequence[int]) -> None:
    """Be the program that was ordered, to its end."""
    code = 1
    try:
        _become(order, keep)
        _execute(order["words"], order["env"])
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001  # as Python does
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code & 0xFF)


def _become(order: Mapping[str, Any], keep: Sequence[int]) -> None:
    first = 3
    for number in (*sorted(keep), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, number)
        first = number + 1
    if order["session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    tempfile.tempdir = None
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, closefd=False),  # noqa: SIM115
        open(1, "w", closefd=False),  # noqa: SIM115
        open(2, "w", errors="backslashreplace", buffering=1, closefd=False),  # noqa: SIM115
    )
    subprocess.Popen = Popen  # type: ignore[misc]


def _execute(words: Sequence[str], env: Mapping[str, str]) -> None:
    """Do what Python does with its command line."""
    rest = list(words)
    options = set()
    while rest[0] in ("-I", "-P"):
        options.add(rest.pop(0))
    places = [] if "-I" in options else [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = places
    way = rest.pop(0) if rest[0] in ("-c", "-m") else ""
    beside = {"-c": "", "-m": str(Path.cwd())}.get(way, str(Path(rest[0]).resolve().parent))
    if not options:
        sys.path.insert(0, beside)
    if way == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif way == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.__file__ = rest[0]
        exec(compile(Path(rest[0]).read_bytes(), rest[0], "exec"), vars(main))


if __name__ == "__main__":
    _serve()
