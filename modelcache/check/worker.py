"""The process that loads cached models as an application does, asks each its probes, and reports observations.

The launcher starts it. It imports the libraries once and forks into a sandbox for each model: a model that crashes,
hangs, or takes all memory, ends alone. It judges nothing. Requests come in as one JSON object a line on stdin, and
observations go out likewise on the descriptor that its argument names.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from modelcache.check.adapters import ADAPTERS, FailedError
from modelcache.check.by_id import not_found_by_id, view_of
from modelcache.check.confine.isolation import EndedError, end_descendants, run_isolated
from modelcache.check.confine.library_paths import library_paths
from modelcache.check.confine.sandbox import Confinement, Sandbox, refuse_sockets, unseen_packets
from modelcache.check.pip_packages import missing_packages, torch_version
from modelcache.check.probes import TEXTS, Observation, Probe, observation_to_json, probe_from_json
from modelcache.check.weights.coverage import (
    LoadReport,
    compare_weights,
    missing_folders,
    outputs_depend_on,
    record_load_reports,
    unreachable_tokens,
)
from modelcache.check.weights.tracing import resolve_by_reloading
from modelcache.core.kinds import Kind
from modelcache.store.layout import Places
from modelcache.store.load import load
from modelcache.system.process import become_subreaper, die_with_parent, terminate_with_parent
from modelcache.system.remove_tree import remove_tree

LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch", "huggingface_hub")

_TRIAL_SECONDS = 60.0
"""Seconds for a process that does nothing but enter the sandbox, on a machine that is busy."""

_LONGEST_ERROR = 10_000


@dataclass(frozen=True, slots=True)
class _Request:
    """One model to be loaded, and its recorded probes; without them it gets the usual ones."""

    kind: Kind
    id: str
    root: Path
    probes: Sequence[Probe]
    has_view: bool
    """Whether its root has a Hub view of it."""

    @property
    def directory(self) -> Path:
        return Places.below(self.root).home(self.kind, self.id)

    def load(self) -> Any:
        """Load the model as an application does, on the processor."""
        import sentence_transformers

        model_class = getattr(sentence_transformers, self.kind.spec.model_class)
        return load(self.kind, self.id, self.root, model_class, {"device": "cpu"})

    def load_again(self) -> Any:
        try:
            return self.load()
        except Exception as error:
            raise FailedError("loaded a second time") from error


def main() -> None:
    """Serve one run of `check` in a child; this process ends all that the child starts, even if the child is killed."""
    out = int(sys.argv[1])
    run = json.loads(sys.stdin.readline())
    supervisor = os.getpid()
    become_subreaper()
    terminate_with_parent()
    loader = os.fork()
    if not loader:
        die_with_parent()
        if os.getppid() != supervisor:  # it ended before that took effect
            os._exit(1)
        with os.fdopen(out, "wb") as answers:
            _serve(run, answers)
        return
    os.close(out)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:  # as nohup has it
            continue
        signal.signal(number, lambda number, _: _end(128 + number, Path(run["scratch"])))
    code = os.waitstatus_to_exitcode(os.waitpid(loader, 0)[1])
    _end(code if code >= 0 else 128 - code, Path(run["scratch"]))


def _end(code: int, scratch: Path) -> None:
    """End this process after all that it has started, with nothing left behind; never return."""
    try:
        end_descendants()
        remove_tree(scratch)
    finally:
        os._exit(code)


def _serve(run: Mapping[str, Any], answers: IO[bytes]) -> None:
    """Import the libraries, report on them and on the sandbox, then answer one request after the other."""
    attempts = refuse_sockets()
    began = time.monotonic()
    gc.disable()  # there is no garbage in what is imported, and looking for it takes a sixth of the time
    try:
        import sentence_transformers  # noqa: F401  # here, so that every fork has it
    except ModuleNotFoundError as error:
        _send(answers, _json({"missing": error.name, "torch": bool(torch_version())}))
        return
    except (ImportError, MemoryError, OSError) as error:
        if isinstance(error, ImportError) and not str(error.path).endswith(".so"):
            raise  # of Python files that do not fit each other
        _send(answers, _json({"limit": str(error) or "out of memory"}))
        return
    gc.freeze()  # and forks shall share its memory
    gc.enable()
    seconds = time.monotonic() - began
    sandbox, confinement, reason = choose_sandbox(Path(run["scratch"]))
    ready = {"confinement": asdict(confinement), "reason": reason, "seconds": seconds}
    _send(answers, _json({**ready, "versions": {name: version(name) for name in LIBRARIES}}))
    refusal = ""
    for line in sys.stdin:
        entry = json.loads(line)
        probes = [probe_from_json(probe) for probe in entry["probes"]]
        request = _Request(Kind(entry["kind"]), entry["id"], Path(run["root"]), probes, entry["has_view"])
        answer = _line(Observation(error=f"it was not loaded: {refusal}"))
        if not refusal:
            try:
                answer = _observe_isolated(request, sandbox, confinement, attempts, run["limit"])
            except OSError as error:  # the next model must not meet files of this one
                refusal = f"{request.id} could not be cleared away: {error}"
                answer = _line(Observation(error=refusal))
        _send(answers, answer)


def _send(answers: IO[bytes], line: bytes) -> None:
    answers.write(line + b"\n")
    answers.flush()


def _json(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode()


def _line(observed: Observation) -> bytes:
    return _json(observation_to_json(observed))


def choose_sandbox(scratch: Path) -> tuple[Sandbox, Confinement, str]:
    """Return the tightest sandbox in which the libraries can be read here, and what confined a process that tried it.

    The third is why there are no namespaces; it is empty where there are some.

    Raises:
        EndedError: not even a plain process can be started.

    """
    libraries = library_paths()
    sandbox, reason = Sandbox(scratch, libraries, namespaces=True), ""
    try:
        tried = run_isolated(_try_out, sandbox, _TRIAL_SECONDS)
    except EndedError as error:
        sandbox, reason = Sandbox(scratch, libraries, namespaces=False), str(error)
        tried = run_isolated(_try_out, sandbox, _TRIAL_SECONDS)
    return sandbox, Confinement(**json.loads(tried)), reason


def _try_out(confinement: Confinement) -> bytes:
    """Do what every load does: read a library, write to the scratch directory."""
    import sentence_transformers

    Path(sentence_transformers.__file__).read_bytes()
    Path("tried").touch()
    return _json(asdict(confinement))


def _observe_isolated(
    request: _Request, sandbox: Sandbox, promised: Confinement, attempts: list[str], limit: float
) -> bytes:
    """Observe one model in a process of its own, confined as promised; return the observation as a line of JSON."""

    def job(confinement: Confinement) -> bytes:
        if confinement.steps != promised.steps:
            steps = ", ".join(confinement.steps)
            return _line(Observation(error=f"it was not loaded: it would be held by {steps} only"))
        try:
            return _line(observe(request, attempts, namespaces=confinement.namespaces))
        except BaseException as error:  # noqa: BLE001  # whatever a model does, it is reported and the next one follows
            return _line(_failure_of(error, request, attempts))

    try:
        own = [request.directory, *([view_of(request.root, request.id)] if request.has_view else [])]
        return run_isolated(job, replace(sandbox, readable=[*sandbox.readable, *own]), limit)
    except EndedError as error:
        return _line(Observation(error=str(error)))


def _failure_of(error: BaseException, request: _Request, attempts: list[str]) -> Observation:
    """Say at which step a model failed, with which error and where, and which packages it misses."""
    step = str(error) if isinstance(error, FailedError) else ""
    cause = (error.__cause__ if step else None) or error
    where = traceback.extract_tb(cause.__traceback__)[-1]
    message = f"{type(cause).__name__}: {str(cause)[:_LONGEST_ERROR]} ({Path(where.filename).name}:{where.lineno})"
    # A later step than loading is not repeated.
    packages = missing_packages(cause, lambda: None if step else request.load())
    return Observation(attempts, missing_folders(request.directory), message, step, packages)


def observe(request: _Request, attempts: list[str], *, namespaces: bool) -> Observation:
    """Load one model and observe it; in a network namespace of its own packets of native code are counted, too.

    Raises:
        FailedError: it loads, and a later step fails.

    """
    packets = unseen_packets()
    _note_requests(attempts)
    reports = record_load_reports()
    began = time.monotonic()
    model = request.load()
    seconds = time.monotonic() - began
    try:
        observed = _observe_loaded(model, request, reports)
    except FailedError:
        raise
    except Exception as error:
        raise FailedError("examined") from error
    reached = attempts or ["something that is not Python code"] * (namespaces and unseen_packets() > packets)
    return replace(observed, attempts=reached, seconds=seconds)


def _observe_loaded(model: Any, request: _Request, reports: Sequence[LoadReport]) -> Observation:
    adapter, directory = ADAPTERS[request.kind](model), request.directory
    templates = adapter.probe_templates()
    answers, unanswered = adapter.ask_all(request.probes or adapter.probes())
    weights = compare_weights(model, directory, reports)
    resolve_by_reloading(weights, model, request.load_again)
    dtype = _coarsest_dtype(model)
    constant = [template.label for template in templates if not adapter.distinguishes_words(template)]
    # Each route of a Router has weights of its own, so each of them is asked. This comes last: it spoils the model.
    in_use = bool(weights.missing) and outputs_depend_on(
        model, weights.missing, lambda: [adapter.ask(replace(template, text=TEXTS[0])) for template in templates]
    )
    return Observation(
        missing_folders=missing_folders(directory),
        peak_memory=_peak_memory(),
        dimension=adapter.dimension() or answers[0].width,
        max_seq_length=adapter.max_seq_length,
        similarity=adapter.similarity,
        dtype=dtype,
        default_pooling=request.kind.spec.pools and not (directory / "modules.json").exists(),
        not_found_by_id=not_found_by_id(request.id, directory, request.root) if request.has_view else [],
        newly_initialized=weights.missing if in_use else [],
        newly_initialized_unused=[] if in_use else weights.missing,
        computed=weights.computed,
        unexpected=weights.unexpected,
        unused=sorted(weights.unused),
        constant_prompts=constant,
        unreachable_tokens=unreachable_tokens(model),
        unanswered=unanswered,
        prompts=adapter.prompts(),
        answers=answers,
    )


def _coarsest_dtype(model: Any) -> str:
    import torch

    dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
    return str(max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)).removeprefix("torch.")


def _note_requests(attempts: list[str]) -> None:
    """Note what is asked of the Hub, which HF_HUB_OFFLINE refuses before there is a socket."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    hooks["request"].insert(0, lambda request: attempts.append(str(request.url)))
    session.event_hooks = hooks


def _peak_memory() -> int:
    """Return the most memory that this process had, in bytes; the libraries' own, which forks share, included."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
