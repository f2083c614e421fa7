"""Loads cached models as an application does, asks them a few things, and tells what it saw: a process of its own.

It is started by `check`, cuts itself off, imports the libraries once, and forks for each model: a model that crashes,
or takes all memory, ends alone. This is the one module that imports torch. It judges nothing but names; orders come in
as JSON on stdin, and what was seen goes out as one JSON object a line on the descriptor that its argument names.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelcache.cut import Cut, cut_off
from modelcache.load import load
from modelcache.probes import Answer, Probe, probe_from_json, probes_for, to_json
from modelcache.records import Kind
from modelcache.safetensors_header import tensor_names
from modelcache.weights import Comparison, compare

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
            seen = _failed(order, f"{type(error).__name__}: {error} ({place})", cut.attempts)
        with os.fdopen(writing, "w") as out:
            json.dump(seen, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not text:
        number = os.waitstatus_to_exitcode(status)
        memory = "; is there too little memory?" if number == -signal.SIGKILL else ""
        return _failed(order, f"its process ended with {number}{memory}", cut.attempts)
    told_of: dict[str, Any] = json.loads(text)
    return told_of


def _failed(order: Mapping[str, Any], error: str, attempts: Sequence[str]) -> dict[str, Any]:
    return {"error": error, "attempts": attempts, "absent": _absent(Path(order["directory"]))}


def examine(order: Mapping[str, Any], cut: Cut) -> dict[str, Any]:
    """Load one model and say what was seen of it."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    kind, directory = Kind(order["kind"]), Path(order["directory"])
    unseen = cut.unseen()
    _note_requests(cut)
    loaded = _watch_loading()
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
    weights = _compare_weights(model, directory, loaded)
    needed = _needed(model, weights.unfilled, ask, answers[0])
    if model_default := getattr(model, "default_prompt_name", None):
        prompts[""] = model_default
    return {
        "seconds": seconds,
        "dimension": model.get_embedding_dimension() if kind is Kind.EMBEDDING else len(answers[0].values),
        "limit": limit,
        "similarity": str(model.similarity_fn_name) if kind is Kind.EMBEDDING else "",
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts": prompts,
        "answers": [to_json(answer) for answer in answers],
        "unfilled": needed,
        "harmless": sorted(set(weights.unfilled) - set(needed)),
        "lost": weights.lost,
        "unused": weights.unused,
        "absent": _absent(directory),
        "fallback": kind is Kind.EMBEDDING and not (directory / "modules.json").exists(),
        "attempts": cut.attempts or ["something that is not Python code"] * (cut.unseen() > unseen),
        "peak": _peak(),
    }


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


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What transformers itself says that it did not find in the files, or did not know what to do with."""

    model: Any
    missing: frozenset[str]
    unexpected: frozenset[str]


def _watch_loading() -> list[_Loaded]:
    """Note what transformers finds wrong, before it takes away what a class wants to be silent about."""
    from transformers import PreTrainedModel

    notes: list[_Loaded] = []
    adjust = getattr(PreTrainedModel, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:  # a version that does it otherwise leaves the names to speak for themselves

        def watched(model: Any, found: Any) -> Any:  # noqa: ANN401
            notes.append(_Loaded(model, frozenset(found.missing_keys), frozenset(found.unexpected_keys)))
            return adjust(model, found)

        PreTrainedModel._adjust_missing_and_unexpected_keys = watched
    return notes


def _compare_weights(model: Any, directory: Path, loaded: Sequence[_Loaded]) -> Comparison:  # noqa: ANN401
    """Compare every module of the model with the weight files of its folder."""
    unfilled: list[str] = []
    lost: list[str] = []
    unused: set[str] = set()
    for name, module, folder in _modules(model, directory):
        tensors = {tensor for file in folder.glob("*.safetensors") for tensor in tensor_names(file)}
        parts = list(_transformers_in(module))
        for place, part in [*parts, *([("", module)] if not parts else [])]:
            found = _compare_part(part, tensors, [note for note in loaded if note.model is part], folder)
            where = ".".join(filter(None, (name, place)))
            unfilled += [f"{where}.{parameter}" for parameter in found.unfilled]
            lost += found.lost
            unused.update(found.unused)
    shared = _filled_by_another_name(model, unfilled)
    return Comparison(tuple(name for name in unfilled if name not in shared), tuple(lost), tuple(sorted(unused)))


def _compare_part(part: Any, tensors: set[str], notes: Sequence[_Loaded], folder: Path) -> Comparison:  # noqa: ANN401
    """Compare one network with the names of its files; what was filled another way than by name is filled."""
    parameters, buffers = dict(part.named_parameters()), dict(part.named_buffers())
    prefix = getattr(part, "base_model_prefix", "")
    found = compare(parameters.keys(), tensors, buffers=buffers.keys(), prefix=prefix)
    if notes:  # transformers loaded it, and may have split, joined or renamed some weights on the way
        missing, unexpected = notes[-1].missing, notes[-1].unexpected
        unfilled = tuple(name for name in found.unfilled if name in missing)
        return Comparison(unfilled, tuple(name for name in found.lost if name in unexpected), found.unused)
    by_value = _filled_by_value({name: parameters[name] for name in found.unfilled}, folder)
    return Comparison(tuple(name for name in found.unfilled if name not in by_value), found.lost, found.unused)


def _filled_by_value(parameters: Mapping[str, Any], folder: Path) -> set[str]:
    """Return which parameters have the numbers of some tensor: code of a model's own may give names of its own."""
    import torch
    from safetensors import safe_open

    filled: set[str] = set()
    for file in folder.glob("*.safetensors") if parameters else ():
        with safe_open(file, framework="pt") as tensors:
            for tensor in tensors.keys():  # noqa: SIM118  # no mapping
                shape = tensors.get_slice(tensor).get_shape()
                alike = [name for name, parameter in parameters.items() if list(parameter.shape) == shape]
                filled.update(name for name in alike if torch.equal(parameters[name], tensors.get_tensor(tensor)))
    return filled


def _listed(directory: Path) -> list[dict[str, Any]]:
    """Return what modules.json lists."""
    listed = directory / "modules.json"
    return list(json.loads(listed.read_bytes())) if listed.exists() else []


def _absent(directory: Path) -> list[str]:
    """Return the folders that modules.json names and that are not there; Normalize needs none."""
    named = [module["path"] for module in _listed(directory) if not module["type"].endswith(".Normalize")]
    return [path for path in named if not (directory / path).is_dir()]


def _modules(model: Any, directory: Path) -> Iterator[tuple[str, Any, Path]]:  # noqa: ANN401
    """Yield each module that has parameters, a Router's own among them, by its name in the model, with its folder."""
    paths = {str(module["name"]): str(module["path"]) for module in _listed(directory)}
    queue = [(name, module, directory / paths.get(name, "")) for name, module in model.named_children()]
    for name, module, folder in queue:  # grows while it is walked
        routes = getattr(module, "sub_modules", None)
        if routes is None:
            if any(True for _ in module.parameters()):
                yield name, module, folder
            continue
        config = next(path for path in (folder / "router_config.json", folder / "config.json") if path.exists())
        structure = json.loads(config.read_bytes())["structure"]
        queue += [
            (f"{name}.sub_modules.{route}.{number}", child, folder / structure[route][int(number)])
            for route, modules in routes.items()
            for number, child in modules.named_children()
        ]


def _transformers_in(module: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the outermost networks of transformers in a module, by their names in it."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        yield name, module
        return
    for below, child in module.named_children():
        yield from _transformers_in(child, f"{name}.{below}" if name else below)


def _filled_by_another_name(model: Any, unfilled: Sequence[str]) -> set[str]:  # noqa: ANN401
    """Return which of these share their numbers with a parameter that is filled: tied weights are in a file once."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled = {tensor.data_ptr() for name, tensor in parameters.items() if name not in set(unfilled)}
    return {name for name in unfilled if parameters[name].data_ptr() in filled}


def _needed(model: Any, unfilled: Sequence[str], ask: Callable[[Probe], array[float]], before: Answer) -> list[str]:  # noqa: ANN401
    """Return the parameters without a weight if any number depends on them: a pooler that nobody asks does no harm."""
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in unfilled:
            parameters[name].fill_(float("nan"))
    return list(unfilled) if unfilled and ask(before.probe) != before.values else []


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


if __name__ == "__main__":
    main()
