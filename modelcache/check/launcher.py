"""Start the worker process, which loads cached models, and judge its observations, one a model."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from modelcache.check.confine.sandbox import Confinement
from modelcache.check.golden import GoldenFile, golden_of
from modelcache.check.pip_packages import missing_library
from modelcache.check.probes import Observation, probe_to_json
from modelcache.check.verdict import Verdict, judge
from modelcache.check.worker_answer import read_observation
from modelcache.core.errors import CheckError, LimitError, PolicyError
from modelcache.core.hub_view import HUB_NAME
from modelcache.core.text import last_lines
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.store.inspect_view import inspect_view
from modelcache.system.files import storage_errors
from modelcache.system.process import set_dumpable
from modelcache.system.remove_tree import temporary_directory
from modelcache.system.threads import ticking

_PROJECT = Path(__file__).resolve().parents[2]
# This project is on the path for that import only: a model's code must not import the user's files beside it.
_PROGRAM = "import sys; sys.path.append(sys.argv[2]); from modelcache.check.worker import main; sys.path.pop(); main()"
_TIMEOUT = 3600.0
"""Seconds that a model may take to load and answer: seven billion parameters on two slow cores need half of it."""
_GRACE_SECONDS = 60.0
"""For the worker to end all that it has started."""
# The variables that the libraries need. A token or a password is not among them: a model's own code is run.
_ENVIRONMENT = """
    PATH LANG LC_ALL LC_CTYPE LC_MESSAGES LC_NUMERIC TZ VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD
    PYTHONHOME PYTHONPATH PYTHONOPTIMIZE PYTHONWARNINGS PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONUTF8
    PYTHONNOUSERSITE PYTHONUSERBASE
    OMP_NUM_THREADS OMP_THREAD_LIMIT OMP_DYNAMIC OMP_PROC_BIND OMP_PLACES OMP_WAIT_POLICY OMP_STACKSIZE OMP_SCHEDULE
    KMP_AFFINITY KMP_BLOCKTIME KMP_DUPLICATE_LIB_OK GOMP_CPU_AFFINITY GOMP_SPINCOUNT OPENBLAS_NUM_THREADS
    MKL_NUM_THREADS MKL_DYNAMIC MKL_THREADING_LAYER MKL_CBWR ATEN_CPU_CAPABILITY DNNL_MAX_CPU_ISA ONEDNN_MAX_CPU_ISA
    DNNL_DEFAULT_FPMATH_MODE ONEDNN_DEFAULT_FPMATH_MODE OPENBLAS_CORETYPE
    CUDA_VISIBLE_DEVICES
"""
_KILLED = 128 + signal.SIGKILL
_LAST_LINES, _LAST_BYTES = 15, 10_000


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The worker process, as it reports itself."""

    confinement: Confinement
    reason: str
    """Why there are no namespaces; empty where there are some."""
    seconds: float
    """How long the libraries took to import."""
    versions: Mapping[str, str]


def check(
    models: Sequence[LockedModel],
    root: Path,
    golden: GoldenFile,
    *,
    unconfined: bool = False,
    limit: float = _TIMEOUT,
    waiting: Callable[[str, float], object] = lambda text, seconds: None,
) -> Generator[WorkerInfo | Verdict | PolicyError]:
    """Load each model below `root` in a sandbox; yield the facts of the worker, then one verdict a model.

    Where a model's code could reach the network or other files, a model with code gets a PolicyError instead, unless
    `unconfined` allows it. `limit` is in seconds, for each model. `waiting` is called every
    second with the step that is running, and its seconds so far.

    Raises:
        UsageError: sentence-transformers is not installed here.
        CheckError: the worker ended too early.
        LimitError: this machine has too little memory, or too few open files, for the libraries.
        StorageError: no directory is writable.

    """
    with storage_errors("start the process that loads the models"), _worker(root, limit) as worker:
        with ticking(partial(waiting, "importing sentence-transformers and torch")):
            ready = json.loads(worker.read_line())  # its own report, which no model's code has touched
        if "missing" in ready:
            raise missing_library(ready["missing"], "check", torch=ready["torch"])
        if "limit" in ready:
            raise LimitError(
                f"cannot load the libraries: {ready['limit']}",
                hint="Check the installation of torch, and the limits of open files and memory (torch alone: 400 MB).",
            )
        confinement = Confinement(**ready["confinement"])
        yield WorkerInfo(confinement, ready["reason"], ready["seconds"], ready["versions"])
        for number, model in enumerate(models, 1):
            if model.remote_code is RemoteCode.VENDORED and not (confinement.holds or unconfined):
                yield _refusal(model, confinement)
                continue
            known = golden_of(model, golden)
            probes = [probe_to_json(answer.probe) for answer in known.answers] if known else []
            has_view = inspect_view(root / HUB_NAME, model).there
            place = f" ({number} of {len(models)})" if len(models) > 1 else ""
            try:
                with ticking(partial(waiting, f"loading {model.id}{place}")):
                    worker.write({"kind": model.kind, "id": model.id, "probes": probes, "has_view": has_view})
                    observed = read_observation(worker.read_line(), model.kind.spec.output)
            except ValueError as error:  # written by the model's own code
                observed = Observation(error=str(error))
            yield judge(model, observed, golden)


def _refusal(model: LockedModel, confinement: Confinement) -> PolicyError:
    steps = {
        "way to give up privileges": confinement.privileges,
        "seccomp": confinement.seccomp,
        "Landlock": confinement.landlock,
    }
    missing = " and no ".join(step for step, taken in steps.items() if not taken)
    return PolicyError(
        f"{model.id} has code of its own, which cannot be confined here: no namespaces, no {missing}",
        hint="Run this where user namespaces, or both seccomp and Landlock, are permitted. With --unconfined the code"
        " runs without a sandbox.",
    )


@dataclass(frozen=True, slots=True)
class _Worker:
    """The worker process: it reads one JSON object a line, and answers each with one line."""

    process: subprocess.Popen[bytes]
    answers: IO[bytes]
    output: IO[bytes]

    def write(self, request: Mapping[str, Any]) -> None:
        """Send it a request."""
        if self.process.stdin:  # always
            with suppress(BrokenPipeError):  # it has ended, and `read_line` reports that
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()

    def read_line(self) -> bytes:
        """Return its next line.

        Raises:
            CheckError: it has ended.

        """
        if line := self.answers.readline():
            return line
        code = self.process.wait()  # until then it may print
        self.output.seek(max(0, self.output.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = last_lines(self.output.read().decode(errors="replace"), _LAST_LINES)
        memory = "; is there too little memory?" if code == _KILLED else ""
        raise CheckError(
            "\n  ".join(
                [f"the process that loads the models has ended too early, with exit code {code}{memory}", *lines]
            ),
            hint="Load a model by hand, as README shows, to see more.",
        )


@contextmanager
def _worker(root: Path, limit: float) -> Iterator[_Worker]:
    """Start the worker; at the end no process of it is left."""
    with temporary_directory() as folder, tempfile.TemporaryFile() as output:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as answers:
            try:
                process = subprocess.Popen(  # noqa: S603  # ourselves
                    [sys.executable, "-P", "-c", _PROGRAM, str(writing), str(_PROJECT)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                    env=_environment(str(folder)),
                    pass_fds=[writing],
                )
            finally:
                os.close(writing)
            before = set_dumpable(False)
            try:
                worker = _Worker(process, answers, output)
                worker.write({"root": str(root), "scratch": str(folder), "limit": limit})
                yield worker
            finally:
                _end(process)
                set_dumpable(before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the worker end all that it has started, and itself; return when it has."""
    if process.stdin:  # always
        with suppress(BrokenPipeError):
            process.stdin.close()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    process.kill()
    process.wait()


def _environment(home: str) -> dict[str, str]:
    """Return the environment of an application with an empty Hugging Face cache and no secrets."""
    kept = {name: value for name in _ENVIRONMENT.split() if (value := os.environ.get(name)) is not None}
    if "PYTHONPATH" in kept:  # the worker has another current directory, and an empty entry would mean that one
        paths = [os.path.abspath(path) for path in kept["PYTHONPATH"].split(os.pathsep) if path]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    if site.ENABLE_USER_SITE:  # it is below the home, and the worker has another one
        kept.setdefault("PYTHONUSERBASE", site.getuserbase())
    return {
        **kept,
        "HOME": home,
        "TMPDIR": home,
        "HF_HOME": f"{home}/hf",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
