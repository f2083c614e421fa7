"""Loads cached models as an application does, asks them a few things, and tells what it saw: a process of its own.

It is started by `check`, cuts itself off, imports the libraries once, and forks for each model: a model that crashes,
or takes all memory, ends alone. It judges nothing; orders come in as JSON on stdin, and what was seen goes out as one
JSON object a line on the descriptor that its argument names.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import sys
import time
import traceback
from array import array
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelcache.cut import Cut, cut_off
from modelcache.layout import Places
from modelcache.load import load
from modelcache.loaded import absent_folders, compare_weights, needed_of, watch_loading
from modelcache.probes import Answer, Probe, Seen, probe_from_json, probes_for, seen_to_json
from modelcache.records import Kind

_PR_SET_PDEATHSIG = 1
LIBRARIES = ("sentence-transformers", "transformers", "tokenizers", "torch", "huggingface_hub")


def main() -> None:
    """Serve one run of `check`."""
    _end_with_parent()
    orders = json.load(sys.stdin)
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as out:
        cut = cut_off(Path(orders["scratch"]))
        began = time.monotonic()
        try:
            import sentence_transformers  # noqa: F401  # here, so that every fork has it
        except ModuleNotFoundError as error:
            out.write(json.dumps({"missing": error.name}) + "\n")
            return
        gc.freeze()  # what was imported is never garbage, and forks shall share its memory
        ready = {
            "network": cut.network,
            "disk": cut.disk,
            "seconds": time.monotonic() - began,
            "versions": {name: version(name) for name in LIBRARIES},
        }
        for seen in (ready, *(_apart(order, cut) for order in orders["models"])):
            out.write(json.dumps(seen) + "\n")


def _apart(order: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """Examine one model in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _end_with_parent()
        os.close(reading)
        try:
            seen = examine(order, cut)
        except BaseException as error:  # noqa: BLE001  # whatever a model does, it is told and the next one follows
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            seen = _not_loaded(order, f"{type(error).__name__}: {error} ({place})", cut.attempts)
        with os.fdopen(writing, "w") as out:
            json.dump(seen_to_json(seen), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    if text and os.WIFEXITED(status):
        told_of: dict[str, Any] = json.loads(text)
        return told_of
    number = os.waitstatus_to_exitcode(status)
    memory = "; is there too little memory?" if number == -signal.SIGKILL else ""
    return seen_to_json(_not_loaded(order, f"its process ended with {number}{memory}", cut.attempts))


def _not_loaded(order: Mapping[str, Any], error: str, attempts: Sequence[str]) -> Seen:
    return Seen(attempts, absent_folders(_home(order)), error)


def _home(order: Mapping[str, Any]) -> Path:
    return Places.below(Path(order["root"])).home(Kind(order["kind"]), order["id"])


def examine(order: Mapping[str, Any], cut: Cut) -> Seen:
    """Load one model and say what was seen of it."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    kind, directory = Kind(order["kind"]), _home(order)
    unseen = cut.unseen()
    _note_requests(cut)
    loaded = watch_loading()
    began = time.monotonic()
    loader: Callable[..., Any] = CrossEncoder if kind is Kind.RERANKER else SentenceTransformer
    model = load(kind, order["id"], Path(order["root"]), loader, {"device": "cpu"})
    seconds = time.monotonic() - began
    limit = _natural(model.max_seq_length)
    prompts = {name: text for name, text in model.prompts.items() if text}
    ways = [] if kind is Kind.RERANKER else _ways(model, prompts)
    probes = [probe_from_json(entry) for entry in order["probes"]] or probes_for(kind, limit, ways)
    ask = _asker(model, kind)
    answers = [Answer(probe, ask(probe)) for probe in probes]
    weights = compare_weights(model, directory, loaded)
    # One probe for each prompt: a Router's ways have weights of their own.
    first = {answer.probe.prompt: answer for answer in reversed(answers)}
    needed = needed_of(model, weights.unfilled, lambda: any(ask(one.probe) != one.values for one in first.values()))
    if model_default := getattr(model, "default_prompt_name", None):
        prompts[""] = model_default
    return Seen(
        attempts=cut.attempts or ["something that is not Python code"] * (cut.unseen() > unseen),
        absent=absent_folders(directory),
        seconds=seconds,
        peak=_peak(),
        dimension=model.get_embedding_dimension() if kind is Kind.EMBEDDING else len(answers[0].values),
        limit=limit,
        similarity=str(model.similarity_fn_name) if kind is Kind.EMBEDDING else "",
        fallback=kind is Kind.EMBEDDING and not (directory / "modules.json").exists(),
        unfilled=needed,
        harmless=[name for name in weights.unfilled if name not in needed],
        lost=weights.lost,
        unused=weights.unused,
        prompts=prompts,
        answers=answers,
    )


def _ways(model: Any, prompts: Mapping[str, str]) -> list[str]:  # noqa: ANN401  # what the library makes
    """Return the prompts to ask under; a Router knows no other ways than its own."""
    from sentence_transformers.base.modules import Router

    if isinstance(model[0], Router):
        return ["query", "document"]
    return ["", *sorted(prompts)]


def _asker(model: Any, kind: Kind) -> Callable[[Probe], array[float]]:  # noqa: ANN401  # what the library makes
    """Return how a probe is put to this model; one at a time, since a batch would change the last bits."""

    def ask(probe: Probe) -> array[float]:
        if kind is Kind.RERANKER:
            found = model.predict([(probe.query, probe.spelled())], show_progress_bar=False)
        elif probe.prompt in ("query", "document"):
            encode = model.encode_query if probe.prompt == "query" else model.encode_document
            found = encode([probe.spelled()], show_progress_bar=False)
        else:
            found = model.encode([probe.spelled()], prompt_name=probe.prompt or None, show_progress_bar=False)
        return array("f", found.astype("float32").reshape(-1).tobytes())

    return ask


def _note_requests(cut: Cut) -> None:
    """Note what is asked of the Hub, which HF_HUB_OFFLINE refuses before there is a socket."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    hooks["request"].insert(0, lambda request: cut.attempts.append(str(request.url)))
    session.event_hooks = hooks


def _end_with_parent() -> None:
    """Die when the parent does: nobody waits for the answer any more."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _natural(number: object) -> int | None:
    return number if isinstance(number, int) and 0 < number < 1 << 24 else None


def _peak() -> int:
    """Return the most memory that this process had, in bytes; the libraries' own, which forks share, included."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
