"""Loads cached models as an application does, asks them a few things, and tells what it saw: a process of its own.

It is started by `check`, imports the libraries once, and forks into a sandbox for each model: a model that crashes,
hangs, or takes all memory, ends alone. It judges nothing; orders come in as one JSON object a line on stdin, and what
was seen goes out likewise on the descriptor that its argument names.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from modelcache.check.adapters import FailedError, ask_all, asker, prompts_of, tells_words_apart, ways_of
from modelcache.check.confinement import Confinement
from modelcache.check.isolation import EndedError, end_descendants, run_isolated
from modelcache.check.library_paths import library_paths
from modelcache.check.pip_packages import missing_packages
from modelcache.check.probes import TEXTS, Observation, observation_to_json, probe_from_json, probes_for
from modelcache.check.sandbox import Sandbox, refuse_sockets, unseen_packets
from modelcache.check.weight_coverage import (
    Loaded,
    absent_folders,
    compare_weights,
    needed_of,
    unreachable_tokens,
    watch_loading,
)
from modelcache.check.weight_tracing import settle
from modelcache.core.kinds import Kind
from modelcache.store.layout import Places
from modelcache.store.load import load
from modelcache.system.process import become_subreaper, die_with_parent, terminate_with_parent
from modelcache.system.trees import remove_tree

LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch", "huggingface_hub")

_SOON = 60.0
"""Seconds for a process that does nothing but enter the sandbox, on a machine that is busy."""

_LONGEST_ERROR = 10_000


def main() -> None:
    """Serve one run of `check`: in a child, so that all that it starts can be ended also where that child is killed."""
    out = int(sys.argv[1])
    run = json.loads(sys.stdin.readline())
    supervisor = os.getpid()
    become_subreaper()
    terminate_with_parent()
    examiner = os.fork()
    if not examiner:
        die_with_parent()
        if os.getppid() != supervisor:  # it ended before that was said
            os._exit(1)
        with os.fdopen(out, "w", buffering=1, encoding="utf-8") as answers:
            _serve(run, answers)
        return
    os.close(out)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:  # as nohup has it
            continue
        signal.signal(number, lambda number, _: _end(128 + number, Path(run["scratch"])))
    code = os.waitstatus_to_exitcode(os.waitpid(examiner, 0)[1])
    _end(code if code >= 0 else 128 - code, Path(run["scratch"]))


def _end(code: int, scratch: Path) -> None:
    """End this process after all that it has started, with nothing left behind; never return."""
    try:
        end_descendants()
        remove_tree(scratch)
    finally:
        os._exit(code)


def _serve(run: Mapping[str, Any], answers: TextIO) -> None:
    attempts = refuse_sockets()
    began = time.monotonic()
    gc.disable()  # there is no garbage in what is imported, and looking for it takes a sixth of the time
    try:
        import sentence_transformers  # noqa: F401  # here, so that every fork has it
    except ModuleNotFoundError as error:
        answers.write(json.dumps({"missing": error.name}) + "\n")
        return
    except (ImportError, MemoryError, OSError) as error:
        if isinstance(error, ImportError) and not str(error.path).endswith(".so"):
            raise  # of Python files that do not fit each other
        answers.write(json.dumps({"lacking": str(error) or "out of memory"}) + "\n")
        return
    gc.freeze()  # and forks shall share its memory
    gc.enable()
    seconds = time.monotonic() - began
    sandbox, confinement, reason = choose_sandbox(Path(run["scratch"]))
    ready = {"confinement": asdict(confinement), "reason": reason, "seconds": seconds}
    answers.write(json.dumps({**ready, "versions": {name: version(name) for name in LIBRARIES}}) + "\n")
    spoiled = ""
    for line in sys.stdin:
        order = {**json.loads(line), "root": run["root"]}
        answer = json.dumps(observation_to_json(Observation(error=f"it was not loaded: {spoiled}")))
        if not spoiled:
            try:
                answer = _examine_isolated(order, sandbox, confinement, attempts, run["limit"])
            except OSError as error:  # the next model must not meet anything that this one has left
                spoiled = f"{order['id']} could not be cleared away: {error}"
                answer = json.dumps(observation_to_json(Observation(error=spoiled)))
        answers.write(answer + "\n")


def choose_sandbox(scratch: Path) -> tuple[Sandbox, Confinement, str]:
    """Return the tightest sandbox in which the libraries can be read here, and what held a process that tried it.

    Where there are no namespaces, the reason is the third; else it is empty.

    Raises:
        EndedError: not even a plain process can be started.

    """
    libraries = library_paths()
    sandbox, reason = Sandbox(scratch, libraries, namespaces=True), ""
    try:
        tried = run_isolated(_try_out, sandbox, None, _SOON)
    except EndedError as error:
        sandbox, reason = Sandbox(scratch, libraries, namespaces=False), str(error)
        tried = run_isolated(_try_out, sandbox, None, _SOON)
    return sandbox, Confinement(**json.loads(tried)), reason


def _try_out(confinement: Confinement) -> str:
    """Do what every load does: read a library, write to the scratch directory."""
    import sentence_transformers

    Path(sentence_transformers.__file__).read_bytes()
    Path("tried").touch()
    return json.dumps(asdict(confinement))


def _examine_isolated(
    order: Mapping[str, Any], sandbox: Sandbox, promised: Confinement, attempts: list[str], limit: float
) -> str:
    """Examine one model in a process of its own, which is held as promised and cannot speak for the others."""
    home = _home(order)

    def job(confinement: Confinement) -> str:
        if confinement.steps != promised.steps:
            told = f"it was not loaded: it would be held by {', '.join(confinement.steps)} only"
            return json.dumps(observation_to_json(Observation(error=told)))
        try:
            seen = observe(order, attempts, namespaces=confinement.namespaces)
        except BaseException as error:  # noqa: BLE001  # whatever a model does, it is told and the next one follows
            seen = _seen_of_failure(error, order, attempts)
        return json.dumps(observation_to_json(seen))

    try:
        return run_isolated(job, sandbox, home, limit)
    except EndedError as error:
        return json.dumps(observation_to_json(Observation(error=str(error))))


def _seen_of_failure(error: BaseException, order: Mapping[str, Any], attempts: list[str]) -> Observation:
    """Say at which step a model failed, with which error and where, and which packages it misses."""
    doing = error.doing if isinstance(error, FailedError) else ""
    cause = (error.__cause__ if doing else None) or error
    where = traceback.extract_tb(cause.__traceback__)[-1]
    told = f"{type(cause).__name__}: {str(cause)[:_LONGEST_ERROR]} ({Path(where.filename).name}:{where.lineno})"
    lacking = missing_packages(cause, lambda: None if doing else _load(order))  # an answer is not asked twice
    return Observation(attempts, absent_folders(_home(order)), told, doing, lacking)


def _home(order: Mapping[str, Any]) -> Path:
    return Places.below(Path(order["root"])).home(Kind(order["kind"]), order["id"])


@contextmanager
def _after_loading() -> Iterator[None]:
    """Tell errors from now on as those of a model that does load."""
    try:
        yield
    except FailedError:
        raise
    except Exception as error:
        raise FailedError("examined") from error


def _load(order: Mapping[str, Any]) -> Any:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    kind = Kind(order["kind"])
    loader: Callable[..., Any] = CrossEncoder if kind is Kind.RERANKER else SentenceTransformer
    return load(kind, order["id"], Path(order["root"]), loader, {"device": "cpu"})


def _load_again(order: Mapping[str, Any]) -> Any:
    try:
        return _load(order)
    except Exception as error:
        raise FailedError("loaded a second time") from error


def observe(order: Mapping[str, Any], attempts: list[str], *, namespaces: bool) -> Observation:
    """Load one model and say what was seen of it; in a network namespace of its own native code is seen, too.

    Raises:
        FailedError: it loads, and a later step fails.

    """
    unseen = unseen_packets()
    _note_requests(attempts)
    loaded = watch_loading()
    began = time.monotonic()
    model = _load(order)
    seconds = time.monotonic() - began
    with _after_loading():
        seen = _look_at(model, order, loaded)
    reached = attempts or ["something that is not Python code"] * (namespaces and unseen_packets() > unseen)
    return replace(seen, attempts=reached, seconds=seconds)


def _look_at(model: Any, order: Mapping[str, Any], loaded: Sequence[Loaded]) -> Observation:
    kind, directory = Kind(order["kind"]), _home(order)
    limit = _natural(getattr(model, "max_seq_length", None))
    ask, ways = asker(model, kind), ways_of(model, kind)
    probes = [probe_from_json(entry) for entry in order["probes"]] or probes_for(kind, limit, ways)
    answers, unanswered = ask_all(ask, probes)
    weights = compare_weights(model, directory, loaded)
    settle(weights, model, partial(_load_again, order))
    precision = _precision(model)
    deaf = [way.way for way in ways if not tells_words_apart(ask, way)]
    # A Router's ways have weights of their own, so each of them has to be asked.
    needed = needed_of(model, weights.unfilled, lambda: [ask(replace(way, text=TEXTS[0])) for way in ways])
    return Observation(
        absent=absent_folders(directory),
        peak=_peak(),
        dimension=_dimension(model, kind) or len(answers[0].values),
        limit=limit,
        similarity=str(model.similarity_fn_name) if kind is Kind.EMBEDDING else "",
        precision=precision,
        fallback=kind is Kind.EMBEDDING and not (directory / "modules.json").exists(),
        unfilled=needed,
        harmless=[name for name in weights.unfilled if name not in needed],
        computed=weights.computed,
        lost=weights.lost,
        unused=sorted(weights.unused),
        deaf=deaf,
        beyond=unreachable_tokens(model),
        unanswered=unanswered,
        prompts=prompts_of(model),
        answers=answers,
    )


def _precision(model: Any) -> str:
    """Return the coarsest type of the model's parameters."""
    import torch

    kinds = {one.dtype for one in model.parameters() if one.is_floating_point()}
    return str(max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)).removeprefix("torch.")


def _dimension(model: Any, kind: Kind) -> int | None:
    return _natural(model.get_embedding_dimension()) if kind is Kind.EMBEDDING else None


def _note_requests(attempts: list[str]) -> None:
    """Note what is asked of the Hub, which HF_HUB_OFFLINE refuses before there is a socket."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    hooks["request"].insert(0, lambda request: attempts.append(str(request.url)))
    session.event_hooks = hooks


def _natural(number: object) -> int | None:
    return number if isinstance(number, int) and 0 < number < 1 << 24 else None


def _peak() -> int:
    """Return the most memory that this process had, in bytes; the libraries' own, which forks share, included."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
