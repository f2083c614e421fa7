"""Having cached models looked at by a process that is cut off: `examine` is that process, `verdict` judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from modelcache.disk import storage_errors
from modelcache.errors import CheckError, LimitError, UsageError
from modelcache.golden import GoldenFile, golden_of
from modelcache.prctl import let_others_look
from modelcache.probes import probe_to_json, seen_from_json
from modelcache.records import LockedModel
from modelcache.scratch import scratch
from modelcache.verdict import Verdict, judge

_PROJECT = Path(__file__).resolve().parent.parent
_PROGRAM = "import sys; sys.path.append(sys.argv[2]); from modelcache.examine import main; main()"
_LIMIT = 3600.0
"""Seconds that a model may take to load and answer: seven billion parameters on two slow cores need half of it."""
# What the libraries need of the environment. Tokens and passwords are not among it: a model's own code is run.
_ENVIRONMENT = """
    PATH LANG LC_ALL LC_CTYPE LC_MESSAGES LC_NUMERIC TZ VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD
    PYTHONHOME PYTHONPATH PYTHONOPTIMIZE PYTHONWARNINGS PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONUTF8
    PYTHONNOUSERSITE PYTHONUSERBASE
    OMP_NUM_THREADS OMP_THREAD_LIMIT OMP_DYNAMIC OMP_PROC_BIND OMP_PLACES OMP_WAIT_POLICY OMP_STACKSIZE OMP_SCHEDULE
    KMP_AFFINITY KMP_BLOCKTIME KMP_DUPLICATE_LIB_OK GOMP_CPU_AFFINITY GOMP_SPINCOUNT OPENBLAS_NUM_THREADS
    MKL_NUM_THREADS MKL_DYNAMIC MKL_THREADING_LAYER MKL_CBWR ATEN_CPU_CAPABILITY DNNL_MAX_CPU_ISA
    CUDA_VISIBLE_DEVICES
"""
_LAST_WORDS = 15


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the models were looked at."""

    network: str
    """How the network was cut."""
    disk: str
    seconds: float
    """How long the libraries took to import."""
    versions: Mapping[str, str]


def check(
    models: Sequence[LockedModel],
    root: Path,
    golden: GoldenFile,
    *,
    secret: Iterable[Path] = (),
    limit: float = _LIMIT,
) -> Iterator[Surroundings | Verdict]:
    """Load each model below `root` in a process that is cut off: first tell where, then one verdict a model.

    Of what lies in the places of `secret` a model's code sees nothing, where a namespace can be had; `limit` is in
    seconds, for each model.

    Raises:
        UsageError: sentence-transformers is not installed here.
        CheckError: the process ended before all was told.
        LimitError: this machine has no room for the libraries.
        StorageError: there is nowhere to write to.

    """
    orders = []
    for model in models:
        known = golden_of(model, golden)
        probes = [probe_to_json(answer.probe) for answer in known.answers] if known else []
        orders.append({"kind": model.kind, "id": model.id, "probes": probes})
    told = {"root": str(root), "secret": [str(place) for place in secret], "limit": limit, "models": orders}
    with storage_errors("start the process that loads the models"), _probing(told, len(models)) as lines:
        ready = next(lines)
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
        yield Surroundings(**ready)
        for model, seen in zip(models, lines, strict=True):
            yield judge(model, seen_from_json(seen), golden)


@contextmanager
def _probing(order: Mapping[str, Any], count: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Start the process that looks at the models; give what it tells, one object for itself and one a model."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as lines,
        scratch() as folder,
        tempfile.TemporaryFile() as said,
    ):
        try:
            process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-P", "-c", _PROGRAM, str(writing), str(_PROJECT)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd=folder,
                env=_environment(str(folder)),
                pass_fds=[writing],
            )
        finally:
            os.close(writing)
        try:
            let_others_look(allowed=False)
            if process.stdin:  # always
                with suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(json.dumps({**order, "scratch": str(folder)}).encode())
            yield _read(lines, process, said, count + 1)
        finally:
            let_others_look(allowed=True)
            process.kill()
            process.wait()


def _read(lines: IO[bytes], process: subprocess.Popen[bytes], said: IO[bytes], count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        line = lines.readline()
        if not line:
            process.wait()  # its last words may still come
            said.seek(0)
            words = said.read().decode(errors="replace").splitlines()[-_LAST_WORDS:]
            raise CheckError(
                "the process that loads the models has ended too early:\n  " + "\n  ".join(words),
                hint="Load a model by hand, as README shows, to see more.",
            )
        yield json.loads(line)


def _environment(home: str) -> dict[str, str]:
    """Return the environment of an application with an empty Hugging Face cache and no secrets."""
    kept = {name: value for name in _ENVIRONMENT.split() if (value := os.environ.get(name)) is not None}
    return {
        **kept,
        "HOME": home,
        "TMPDIR": home,
        "HF_HOME": f"{home}/hf",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
