"""A loaded model against the weight files in its directory: what its parameters are made of. Imports torch.

`weight_names` compares names. This module knows more than names tell: which folder belongs to which module, which
parameters transformers renamed, joined or split on loading, and which a model's own code renamed.
Where neither names nor transformers' own account decide, a doubt is left, which `weight_tracing` settles.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcache.check.weight_names import Network
from modelcache.core.safetensors_header import tensor_names


@dataclass(frozen=True, slots=True)
class Loaded:
    """What transformers itself says that it did not find in the files, or did not know what to do with."""

    model: Any
    missing: frozenset[str]
    """Before it takes away what a class wants to be silent about: such a parameter is random all the same."""
    unexpected: frozenset[str]
    """Afterwards: tensors that its class neither takes nor expects."""
    silent: frozenset[str]
    """Tensors that its class knows and does not need: it computes them itself, or they are of the other half of it."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One module that reads weight files itself, in which names do not tell what became of what."""

    module: str
    """Its name in the model."""
    networks: Sequence[Network]
    parameters: Sequence[str]
    """Those that no tensor has the name or the numbers of, as the module calls them."""
    tensors: Mapping[str, Path]
    """Those that no parameter has the name or the numbers of, each with its file."""


@dataclass(slots=True)
class Comparison:
    """What does not fit."""

    unfilled: list[str] = field(default_factory=list)
    """Parameters that nothing in the files fills, as the whole model calls them."""
    computed: list[str] = field(default_factory=list)
    """Parameters that are the same at every load, though no weight file fills them."""
    lost: list[str] = field(default_factory=list)
    """Tensors that no parameter takes, and that are not known to be needless."""
    unused: set[str] = field(default_factory=set)
    """Parts of the files that are known not to be needed, as a head of pre-training."""
    doubts: list[Doubt] = field(default_factory=list)

    def leave_over(self, tensors: Collection[str], networks: Sequence[Network]) -> None:
        """Note tensors that none of these networks takes; what one of them knows not to be needed is not lost."""
        judged = [network.left_over(tensors) for network in networks]
        self.lost += sorted(set(tensors).intersection(*(lost for lost, _ in judged)))
        self.unused.update(*(unused for _, unused in judged))


def watch_loading() -> list[Loaded]:
    """Note what transformers finds wrong in everything that it loads from now on."""
    from transformers import PreTrainedModel

    notes: list[Loaded] = []
    adjust = getattr(PreTrainedModel, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:  # a version that does it otherwise leaves the names to speak for themselves

        def watched(model: Any, found: Any) -> None:
            missing, unexpected = frozenset(found.missing_keys), frozenset(found.unexpected_keys)
            adjust(model, found)
            left = frozenset(found.unexpected_keys)
            notes.append(Loaded(model, missing, left, unexpected - left))

        PreTrainedModel._adjust_missing_and_unexpected_keys = watched
    return notes


def compare_weights(model: Any, directory: Path, loaded: Sequence[Loaded]) -> Comparison:
    """Compare every module of the model with the weight files of its folder."""
    found = Comparison()
    notes = {id(note.model): note for note in loaded}
    files_in: dict[Path, dict[str, Path]] = {}
    taken: dict[Path, set[str]] = defaultdict(set)
    parts = []
    for name, module, folder in _modules(model, directory):
        files = {tensor: file for file in sorted(folder.glob("*.safetensors")) for tensor in tensor_names(file)}
        networks = {place: (_network(part), notes.get(id(part))) for place, part in _transformers_in(module)}
        told = {place: (network, note) for place, (network, note) in networks.items() if note}
        own = _network(module, without=told)
        parts.append((name, module, folder, networks, told, own))
        files_in[folder] = files
        taken[folder].update(*(files.keys() - note.unexpected for _, note in told.values()))
    read_by_own = {folder for *_, folder, _, _, own in parts if own.parameters}
    for name, module, folder, networks, told, own in parts:
        files = files_in[folder]
        for place, (network, note) in told.items():  # it may have split, joined or renamed some weights on the way
            unfilled = [one for one in network.unfilled(files) if one in note.missing]
            found.unfilled += [".".join(filter(None, (name, place, one))) for one in unfilled]
            found.unused.update(map(network.part, note.silent))
        left = set.intersection(*(set(note.unexpected) for _, note in told.values())) if told else set(files)
        left -= taken[folder]  # several modules may lie in one folder
        if not own.parameters:
            if folder not in read_by_own:
                found.leave_over(left, [network for network, _ in networks.values()])
            continue
        rest = {place: network for place, (network, note) in networks.items() if not note}
        doubt = _doubt(name, module, {"": own, **rest}, {tensor: files[tensor] for tensor in left & files.keys()})
        if doubt.parameters or any(network.left_over(doubt.tensors)[0] for network in doubt.networks):
            found.doubts.append(doubt)
        else:
            found.leave_over(doubt.tensors, doubt.networks)
    return found


def _doubt(name: str, module: Any, networks: Mapping[str, Network], files: Mapping[str, Path]) -> Doubt:
    """Return what neither names nor numbers tell; a network in a module calls its parameters shorter than the module.

    The numbers are compared because code of a model's own may give names of its own.
    """
    whole = networks[""]
    unfilled = {f"{place}.{one}".lstrip(".") for place, network in networks.items() for one in network.unfilled(files)}
    filled = {
        f"{place}.{one}".lstrip(".")
        for place, network in networks.items()
        for one in set(network.parameters) - set(network.unfilled(files))
    }
    left = set.intersection(*(network.unnamed(files) for network in networks.values()))
    values = module.state_dict()
    alike = _alike({one: values[one] for one in unfilled - filled if one in values}, {one: files[one] for one in left})
    parameters = sorted((set(whole.parameters) & unfilled) - filled - alike.keys())
    tensors = {one: files[one] for one in sorted(left - set(alike.values()))}
    return Doubt(name, list(networks.values()), parameters, tensors)


def needed_of(model: Any, unfilled: Sequence[str], ask: Callable[[], object]) -> Sequence[str]:
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


def unreachable_tokens(model: Any) -> list[str]:
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


def _network(part: Any, without: Collection[str] = ()) -> Network:
    """Return the names of one network; what it saves beside its parameters is needed as they are.

    A part whose config.json names a class for labels of single tokens has a classifier beside the vectors, which are
    made without it: gte-multilingual-base makes its sparse vectors so.
    """
    buffers = dict(part.named_buffers())
    saved = {name for name in part.state_dict() if name in buffers and buffers[name].is_floating_point()}
    parameters = {name for name, _ in part.named_parameters()} | saved
    parameters = {one for one in parameters if not any(not place or one.startswith(f"{place}.") for place in without)}
    architectures = getattr(getattr(part, "config", None), "architectures", None) or ()
    labels = any(str(one).endswith("ForTokenClassification") for one in architectures)
    prefix = getattr(part, "base_model_prefix", "")
    return Network(parameters, buffers.keys() - saved, prefix, ("classifier",) if labels else ())


def _alike(parameters: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, str]:
    """Return which parameters have the numbers of which tensor."""
    import torch
    from safetensors import safe_open

    found: dict[str, str] = {}
    for tensor, file in files.items() if parameters else ():
        with safe_open(file, framework="pt") as tensors:
            shape = tensors.get_slice(tensor).get_shape()
            alike = [name for name, parameter in parameters.items() if list(parameter.shape) == shape]
            if alike:
                value = tensors.get_tensor(tensor)
                found |= {name: tensor for name in alike if torch.equal(parameters[name], value)}
    return found


def _listed(directory: Path) -> list[dict[str, Any]]:
    """Return what modules.json lists."""
    try:
        entries = json.loads((directory / "modules.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _modules(model: Any, directory: Path) -> Iterator[tuple[str, Any, Path]]:
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


def _transformers_in(module: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the outermost networks of transformers in a module, by their names in it."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        yield name, module
        return
    for below, child in module.named_children():
        yield from _transformers_in(child, f"{name}.{below}" if name else below)


def _rows_of(module: Any) -> int:
    """Return how many tokens a module has an embedding for; 0 where that is not to be seen."""
    tables: list[Any] = [getattr(module, "embedding", None)]
    for _, network in _transformers_in(module):
        with suppress(NotImplementedError):  # a model's own code need not say where it has its embeddings
            tables.append(network.get_input_embeddings())
    return min((int(table.weight.shape[0]) for table in tables if hasattr(table, "weight")), default=0)
