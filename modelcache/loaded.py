"""A loaded model against the weight files in its directory: what its parameters are made of. Imports torch.

The names are compared by `weights`; here is what names alone do not tell: which folder belongs to which module, what
transformers renamed, joined or split while it loaded, what a model's own code calls otherwise, and whether it matters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcache.safetensors_header import tensor_names
from modelcache.weights import Comparison, compare


@dataclass(frozen=True, slots=True)
class Loaded:
    """What transformers itself says that it did not find in the files, or did not know what to do with."""

    model: Any
    missing: frozenset[str]
    unexpected: frozenset[str]


def watch_loading() -> list[Loaded]:
    """Note what transformers finds wrong, before it takes away what a class wants to be silent about."""
    from transformers import PreTrainedModel

    notes: list[Loaded] = []
    adjust = getattr(PreTrainedModel, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:  # a version that does it otherwise leaves the names to speak for themselves

        def watched(model: Any, found: Any) -> Any:  # noqa: ANN401
            notes.append(Loaded(model, frozenset(found.missing_keys), frozenset(found.unexpected_keys)))
            return adjust(model, found)

        PreTrainedModel._adjust_missing_and_unexpected_keys = watched
    return notes


def compare_weights(model: Any, directory: Path, loaded: Sequence[Loaded]) -> Comparison:  # noqa: ANN401
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
    return Comparison(tuple(unfilled), tuple(lost), tuple(sorted(unused)))


def _compare_part(part: Any, tensors: set[str], notes: Sequence[Loaded], folder: Path) -> Comparison:  # noqa: ANN401
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


def absent_folders(directory: Path) -> list[str]:
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


def needed_of(model: Any, unfilled: Sequence[str], differs: Callable[[], bool]) -> Sequence[str]:  # noqa: ANN401
    """Return the parameters without a weight if any number depends on them: a pooler that nobody asks does no harm.

    `differs` asks the model again and tells whether any answer is another one now. The model is spoiled by this.
    """
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in unfilled:
            parameters[name].fill_(float("nan"))
    return unfilled if unfilled and differs() else ()
