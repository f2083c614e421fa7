"""A loaded model against the weight files in its directory: what its parameters are made of. Imports torch.

The names are compared by `weights`; here is what names alone do not tell: which folder belongs to which module, what
transformers renamed, joined or split while it loaded, what a model's own code calls otherwise, and whether it matters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcache.safetensors_header import tensor_names
from modelcache.weights import Network


@dataclass(frozen=True, slots=True)
class Loaded:
    """What transformers itself says that it did not find in the files, or did not know what to do with."""

    model: Any
    missing: frozenset[str]
    """Before it takes away what a class wants to be silent about: such a parameter is random all the same."""
    unexpected: frozenset[str]
    """Afterwards: what a class is silent about here, it computes itself or never needs."""


@dataclass(slots=True)
class Comparison:
    """What does not fit."""

    unfilled: list[str] = field(default_factory=list)
    """Parameters that no tensor has the name of, as the whole model calls them."""
    lost: list[str] = field(default_factory=list)
    """Tensors of a part that the model has, which has no such parameter."""
    unused: set[str] = field(default_factory=set)
    """Parts that the files have and the model has not, by their first name: a head that is not needed here."""


def watch_loading() -> list[Loaded]:
    """Note what transformers finds wrong in everything that it loads from now on."""
    from transformers import PreTrainedModel

    notes: list[Loaded] = []
    adjust = getattr(PreTrainedModel, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:  # a version that does it otherwise leaves the names to speak for themselves

        def watched(model: Any, found: Any) -> None:  # noqa: ANN401
            missing = frozenset(found.missing_keys)
            adjust(model, found)
            notes.append(Loaded(model, missing, frozenset(found.unexpected_keys)))

        PreTrainedModel._adjust_missing_and_unexpected_keys = watched
    return notes


def compare_weights(model: Any, directory: Path, loaded: Sequence[Loaded]) -> Comparison:  # noqa: ANN401
    """Compare every module of the model with the weight files of its folder."""
    found = Comparison()
    notes = {id(note.model): note for note in loaded}
    for name, module, folder in _modules(model, directory):
        tensors = {tensor for file in folder.glob("*.safetensors") for tensor in tensor_names(file)}
        for place, part in list(_transformers_in(module)) or [("", module)]:
            network = _network(part)
            unfilled = network.unfilled(tensors)
            if note := notes.get(id(part)):  # it may have split, joined or renamed some weights on the way
                unfilled = [one for one in unfilled if one in note.missing]
                left_over = network.left_over(note.unexpected)
            else:
                by_value = _filled_by_value({one: part.state_dict()[one] for one in unfilled}, folder)
                unfilled = [one for one in unfilled if one not in by_value]
                left_over = network.left_over(tensors)
            found.unfilled += [".".join(filter(None, (name, place, one))) for one in unfilled]
            found.lost += left_over[0]
            found.unused.update(left_over[1])
    return found


def needed_of(model: Any, unfilled: Sequence[str], ask: Callable[[], object]) -> Sequence[str]:  # noqa: ANN401
    """Return the parameters without a weight if any number depends on them: a pooler that nobody asks does no harm.

    `ask` gives all numbers that count. The model is spoiled by this.
    """
    import torch

    if not unfilled:
        return ()
    before, values = ask(), model.state_dict()
    with torch.no_grad():
        for name in unfilled:
            values[name].fill_(float("nan"))  # the model's own memory
    return unfilled if ask() != before else ()


def unreachable_tokens(model: Any) -> list[str]:  # noqa: ANN401
    """Say which tokenizers know more tokens than there are embeddings: a text with one of those ends in an error."""
    found = []
    for name, module in model.named_modules():
        rows, tokens = _rows_of(module), getattr(getattr(module, "tokenizer", None), "get_vocab", dict[str, int])()
        if rows and isinstance(tokens, dict) and (highest := max(tokens.values(), default=0)) >= rows:
            found.append(f"the tokenizer of {name or 'the model'} goes up to {highest}, its embeddings to {rows - 1}")
    return found


def absent_folders(directory: Path) -> list[str]:
    """Return the folders that modules.json names for modules of the library's own, and that are not there.

    Of these only Normalize saves nothing. A modules.json that makes no sense names none; the loader says more of it.
    """
    named = [
        str(module.get("path", ""))
        for module in _listed(directory)
        if str(module.get("type")).startswith("sentence_transformers.") and not module["type"].endswith(".Normalize")
    ]
    return [path for path in named if not _is_folder_of(directory, path)]


def _is_folder_of(directory: Path, path: str) -> bool:
    """Whether a path leads to a directory of this model; one that leads elsewhere, or cannot be one, does not."""
    if path.startswith("/") or ".." in path.split("/"):
        return False
    try:
        return (directory / path).is_dir()
    except (OSError, ValueError):  # too long, or with a character that no path has
        return False


def _network(part: Any) -> Network:  # noqa: ANN401
    """Return the names of one network; what it saves beside its parameters is needed as they are."""
    buffers = dict(part.named_buffers())
    saved = {name for name in part.state_dict() if name in buffers and buffers[name].is_floating_point()}
    parameters = {name for name, _ in part.named_parameters()} | saved
    return Network(parameters, buffers.keys() - saved, getattr(part, "base_model_prefix", ""))


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
    try:
        entries = json.loads((directory / "modules.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


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


def _rows_of(module: Any) -> int:  # noqa: ANN401
    """Return how many tokens a module has an embedding for; 0 where that is not to be seen."""
    tables: list[Any] = [getattr(module, "embedding", None)]
    for _, network in _transformers_in(module):
        with suppress(NotImplementedError):  # a model's own code need not say where it has its embeddings
            tables.append(network.get_input_embeddings())
    return min((int(table.weight.shape[0]) for table in tables if hasattr(table, "weight")), default=0)
