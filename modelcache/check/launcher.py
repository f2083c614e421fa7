"""Having cached models looked at by a process of its own: `worker` is that process, `verdict` judges."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modelcache.check.confinement import Confinement
from modelcache.check.golden import GoldenFile, golden_of
from modelcache.check.probes import Observation, probe_to_json
from modelcache.check.verdict import Verdict, judge
from modelcache.check.worker_answer import read_observation
from modelcache.core.errors import CheckError, LimitError, PolicyError, UsageError
from modelcache.core.text import last_lines
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.system.files import storage_errors
from modelcache.system.process import set_dumpable
from modelcache.system.tempdirs import temporary_directory

_PROJECT = Path(__file__).resolve().parents[2]
# The place of this package is no place of a model's modules: beside it there are the user's own files.
_PROGRAM = "import sys; sys.path.append(sys.argv[2]); from modelcache.check.worker import main; sys.path.pop(); main()"
_LIMIT = 3600.0
"""Seconds that a model may take to load and answer: seven billion parameters on two slow cores need half of it."""
_LAST_WAIT = 60.0
"""Seconds for the process to end what it has started."""
# What the libraries need of the environment. Tokens and passwords are not among it: a model's own code is run.
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
_LAST_WORDS, _LAST_BYTES = 15, 10_000


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where the models are looked at."""

    confinement: Confinement
    reason: str
    """Why there are no namespaces, where there are none."""
    seconds: float
    """How long the libraries took to import."""
    versions: Mapping[str, str]


def check(
    models: Sequence[LockedModel], root: Path, golden: GoldenFile, *, unconfined: bool = False, limit: float = _LIMIT
) -> Generator[WorkerInfo | Verdict | PolicyError]:
    """Load each model below `root` in a sandbox: first tell where, then one verdict a model.

    Where code of a model could reach the network or other files, a model with code is refused instead, unless
    `unconfined` allows it. `limit` is in seconds, for each model.

    Raises:
        UsageError: sentence-transformers is not installed here.
        CheckError: the process ended before all was told.
        LimitError: this machine has no room for the libraries.
        StorageError: there is nowhere to write to.

    """
    with storage_errors("start the process that loads the models"), _worker(root, limit) as worker:
        ready = worker.read()
        if "missing" in ready:
            raise UsageError(
                f"check loads the models, and {ready['missing']} is not installed here",
                hint="Run it where the models are used, or `pip install sentence-transformers`.",
            )
        if "lacking" in ready:
            raise LimitError(
                f"cannot load the libraries: {ready['lacking']}",
                hint="Check the installation of torch, and the limits of open files and memory (torch alone: 400 MB).",
            )
        confinement = Confinement(**ready["confinement"])
        yield WorkerInfo(confinement, ready["reason"], ready["seconds"], ready["versions"])
        for model in models:
            if model.remote_code is RemoteCode.VENDORED and not (confinement.holds or unconfined):
                yield _refusal(model, confinement)
                continue
            known = golden_of(model, golden)
            probes = [probe_to_json(answer.probe) for answer in known.answers] if known else []
            worker.write({"kind": model.kind, "id": model.id, "probes": probes})
            yield judge(model, _seen(worker.read_line()), golden)


def _refusal(model: LockedModel, confinement: Confinement) -> PolicyError:
    steps = {
        "way to give up privileges": confinement.privileges,
        "seccomp": confinement.seccomp,
        "Landlock": confinement.landlock,
    }
    lacking = " and no ".join(step for step, taken in steps.items() if not taken)
    return PolicyError(
        f"{model.id} has code of its own, which cannot be confined here: no namespaces, no {lacking}",
        hint="Check it where namespaces, or both of the others, are permitted. With --unconfined it runs all the same.",
    )


def _seen(line: bytes) -> Observation:
    """Read what was seen; a model whose code answers in its place with something else has failed."""
    try:
        return read_observation(line)
    except ValueError as error:
        return Observation(error=str(error))


@dataclass(frozen=True, slots=True)
class _Worker:
    """The process that loads models: it is given one object a line, and answers each with one."""

    process: subprocess.Popen[bytes]
    answers: IO[bytes]
    printed: IO[bytes]

    def write(self, order: Mapping[str, Any]) -> None:
        """Send it an object."""
        if self.process.stdin:  # always
            with suppress(BrokenPipeError):  # it has ended, and `read_line` reports that
                self.process.stdin.write(json.dumps(order).encode() + b"\n")
                self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """Return its own answer, which no model has touched."""
        answer: dict[str, Any] = json.loads(self.read_line())
        return answer

    def read_line(self) -> bytes:
        """Return its next line.

        Raises:
            CheckError: it has ended.

        """
        if line := self.answers.readline():
            return line
        code = self.process.wait()  # its last words may still come
        self.printed.seek(max(0, self.printed.seek(0, os.SEEK_END) - _LAST_BYTES))
        words = last_lines(self.printed.read().decode(errors="replace"), _LAST_WORDS)
        memory = "; is there too little memory?" if code == _KILLED else ""
        raise CheckError(
            "\n  ".join([f"the process that loads the models has ended too early, with {code}{memory}", *words]),
            hint="Load a model by hand, as README shows, to see more.",
        )


@contextmanager
def _worker(root: Path, limit: float) -> Iterator[_Worker]:
    """Start the process that loads models; it ends with all that it has started."""
    with temporary_directory() as folder, tempfile.TemporaryFile() as printed:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as answers:
            try:
                process = subprocess.Popen(  # noqa: S603  # ourselves
                    [sys.executable, "-P", "-c", _PROGRAM, str(writing), str(_PROJECT)],
                    stdin=subprocess.PIPE,
                    stdout=printed,
                    stderr=printed,
                    cwd=folder,
                    env=_environment(str(folder)),
                    pass_fds=[writing],
                )
            finally:
                os.close(writing)
            before = set_dumpable(False)
            try:
                worker = _Worker(process, answers, printed)
                worker.write({"root": str(root), "temporary_directory": str(folder), "limit": limit})
                yield worker
            finally:
                _end(process)
                set_dumpable(before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process end what it has started, and itself; return when it has."""
    if process.stdin:  # always
        with suppress(BrokenPipeError):
            process.stdin.close()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_WAIT)
    process.kill()
    process.wait()


def _environment(home: str) -> dict[str, str]:
    """Return the environment of an application with an empty Hugging Face cache and no secrets."""
    kept = {name: value for name in _ENVIRONMENT.split() if (value := os.environ.get(name)) is not None}
    if "PYTHONPATH" in kept:  # an empty place would be where the process is, and a relative one is not meant from there
        places = [os.path.abspath(place) for place in kept["PYTHONPATH"].split(os.pathsep) if place]
        kept["PYTHONPATH"] = os.pathsep.join(places)
    if site.ENABLE_USER_SITE:  # it is found below the home, which is another one there
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
