"""Which parameters of a loaded model got a weight, and which weights got a parameter. Imports torch.

`names` compares names. This module knows more than names: which folder belongs to which module, which
parameters transformers renamed, joined or split on loading, and which a model's own code renamed. Where neither names
nor transformers' own report decide, a module stays unclear, and `tracing` loads the model again.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcache.check.weights.names import Network
from modelcache.core.safetensors_header import tensor_names


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The keys that transformers itself reports of one network that it loads."""

    model: Any
    missing: frozenset[str]
    """Also those that the class is silent about (`_keys_to_ignore_on_load_missing`): they are random all the same."""
    unexpected: frozenset[str]
    ignored: frozenset[str]
    """Tensors that the class knows and does not need (`_keys_to_ignore_on_load_unexpected`)."""


@dataclass(frozen=True, slots=True)
class UnclearModule:
    """A module that reads weight files itself, where names do not show which tensor went into which parameter."""

    name: str
    """As the whole model has it."""
    networks: Sequence[Network]
    parameters: Sequence[str]
    """Those without a tensor of their name or of their values, by their names in the module."""
    tensors: Mapping[str, Path]
    """Those without a parameter of their name or of their values, each with its file."""


@dataclass(slots=True)
class Comparison:
    """The keys that do not fit."""

    missing: list[str] = field(default_factory=list)
    """Parameters without a weight, by their names in the whole model: newly initialised, so random."""
    computed: list[str] = field(default_factory=list)
    """Parameters without a weight that are the same at every load."""
    unexpected: list[str] = field(default_factory=list)
    """Tensors without a parameter, that may be needed."""
    unused: set[str] = field(default_factory=set)
    """Parts of the files that are known not to be needed, as a head of pre-training."""
    unclear: list[UnclearModule] = field(default_factory=list)

    def add_unmatched(self, tensors: Collection[str], networks: Sequence[Network]) -> None:
        """Note tensors that no network takes: unused where one of the networks does not need them, else unexpected."""
        judged = [network.unexpected_keys(tensors) for network in networks]
        self.unexpected += sorted(set(tensors).intersection(*(unexpected for unexpected, _ in judged)))
        self.unused.update(*(unused for _, unused in judged))


def record_load_reports() -> list[LoadReport]:
    """Record what transformers reports of every network that it loads from now on."""
    from transformers import PreTrainedModel

    reports: list[LoadReport] = []
    adjust = getattr(PreTrainedModel, "_adjust_missing_and_unexpected_keys", None)
    if adjust is not None:  # with a version that has no such method only the names count

        def recorded(model: Any, keys: Any) -> None:
            missing, unexpected = frozenset(keys.missing_keys), frozenset(keys.unexpected_keys)
            adjust(model, keys)
            left = frozenset(keys.unexpected_keys)
            reports.append(LoadReport(model, missing, left, unexpected - left))

        PreTrainedModel._adjust_missing_and_unexpected_keys = recorded
    return reports


def compare_weights(model: Any, directory: Path, reports: Sequence[LoadReport]) -> Comparison:
    """Compare every module of the model with the weight files of its folder."""
    comparison = Comparison()
    report_of = {id(report.model): report for report in reports}
    files_in: dict[Path, dict[str, Path]] = {}
    taken: dict[Path, set[str]] = defaultdict(set)
    parts = []
    for name, module, folder in _modules(model, directory):
        files = {tensor: file for file in sorted(folder.glob("*.safetensors")) for tensor in tensor_names(file)}
        networks = {place: (_network(part), report_of.get(id(part))) for place, part in _transformers_in(module)}
        reported = {place: (network, report) for place, (network, report) in networks.items() if report}
        own = _network(module, without=reported)
        parts.append((name, module, folder, networks, reported, own))
        files_in[folder] = files
        taken[folder].update(*(files.keys() - report.unexpected for _, report in reported.values()))
    read_by_own = {folder for *_, folder, _, _, own in parts if own.parameters}
    for name, module, folder, networks, reported, own in parts:
        files = files_in[folder]
        for place, (network, report) in reported.items():  # transformers may have split, joined or renamed weights
            missing = [key for key in network.missing_keys(files) if key in report.missing]
            comparison.missing += [".".join(filter(None, (name, place, key))) for key in missing]
            comparison.unused.update(map(network.part_of, report.ignored))
        left = (
            set.intersection(*(set(report.unexpected) for _, report in reported.values())) if reported else set(files)
        )
        left -= taken[folder]  # several modules may lie in one folder
        if not own.parameters:
            if folder not in read_by_own:
                comparison.add_unmatched(left, [network for network, _ in networks.values()])
            continue
        rest = {place: network for place, (network, report) in networks.items() if not report}
        unclear = _unclear(name, module, {"": own, **rest}, {tensor: files[tensor] for tensor in left & files.keys()})
        if unclear.parameters or any(network.unexpected_keys(unclear.tensors)[0] for network in unclear.networks):
            comparison.unclear.append(unclear)
        else:
            comparison.add_unmatched(unclear.tensors, unclear.networks)
    return comparison


def _unclear(name: str, module: Any, networks: Mapping[str, Network], files: Mapping[str, Path]) -> UnclearModule:
    """Return the parameters and tensors that match neither by name nor by value.

    A network in a module has shorter names for its parameters than the module. Values are compared because a model's
    own code may use other names.
    """
    missing, matched = set(), set()
    for place, network in networks.items():
        keys = set(network.missing_keys(files))
        missing |= {f"{place}.{key}".lstrip(".") for key in keys}
        matched |= {f"{place}.{key}".lstrip(".") for key in set(network.parameters) - keys}
    left = set.intersection(*(network.unmatched(files) for network in networks.values()))
    values = module.state_dict()
    equal = _equal_tensors(
        {key: values[key] for key in missing - matched if key in values}, {tensor: files[tensor] for tensor in left}
    )
    parameters = sorted((set(networks[""].parameters) & missing) - matched - equal.keys())
    tensors = {tensor: files[tensor] for tensor in sorted(left - set(equal.values()))}
    return UnclearModule(name, list(networks.values()), parameters, tensors)


def outputs_depend_on(model: Any, parameters: Sequence[str], outputs: Callable[[], object]) -> bool:
    """Whether any output depends on these parameters: a pooler that is not called does no harm. Spoils the model."""
    import torch

    before, values = outputs(), model.state_dict()
    with torch.no_grad():
        for name in parameters:
            values[name].fill_(float("nan"))  # the model's own memory
    return outputs() != before


def unreachable_tokens(model: Any) -> list[str]:
    """Say which tokenizers know more tokens than there are embeddings: a text with one of those ends in an error."""
    found = []
    for name, module in model.named_modules():
        rows = _embedding_rows(module)
        tokens = getattr(getattr(module, "tokenizer", None), "get_vocab", dict[str, int])()
        if rows and isinstance(tokens, dict) and (highest := max(tokens.values(), default=0)) >= rows:
            found.append(f"the tokenizer of {name or 'the model'} goes up to {highest}, its embeddings to {rows - 1}")
    return found


def missing_folders(directory: Path) -> list[str]:
    """Return the folders that modules.json names for modules of the library's own, and that are not there.

    Of these modules only Normalize saves nothing. A malformed modules.json names none; the loader reports it.
    """
    named = [
        str(module.get("path", ""))
        for module in _listed_modules(directory)
        if str(module.get("type")).startswith("sentence_transformers.") and not module["type"].endswith(".Normalize")
    ]
    outside = {path for path in named if path.startswith("/") or ".." in path.split("/")}
    return [path for path in named if path in outside or not os.path.isdir(directory / path)]


def _network(part: Any, without: Collection[str] = ()) -> Network:
    """Return the names in one network; buffers that it saves are needed as parameters are.

    A network whose config.json names a class for token classification has a classifier beside its vectors, which do
    not go through it: gte-multilingual-base computes sparse vectors with it.
    """
    buffers = dict(part.named_buffers())
    saved = buffers.keys() & part.state_dict().keys()
    counters = {name for name in saved if not buffers[name].is_floating_point()}
    parameters = {name for name, _ in part.named_parameters()} | saved - counters
    parameters = {key for key in parameters if not any(not place or key.startswith(f"{place}.") for place in without)}
    architectures = getattr(getattr(part, "config", None), "architectures", None) or ()
    labels = any(str(one).endswith("ForTokenClassification") for one in architectures)
    prefix = getattr(part, "base_model_prefix", "")
    return Network(parameters, buffers.keys() - saved, prefix, ("classifier",) if labels else (), counters)


def _equal_tensors(parameters: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, str]:
    """Return, by parameter, the tensor that has its values."""
    import torch
    from safetensors import safe_open

    found: dict[str, str] = {}
    for tensor, file in files.items() if parameters else ():
        with safe_open(file, framework="pt") as tensors:
            shape = tensors.get_slice(tensor).get_shape()
            candidates = [name for name, parameter in parameters.items() if list(parameter.shape) == shape]
            if candidates:
                value = tensors.get_tensor(tensor)
                found |= {name: tensor for name in candidates if torch.equal(parameters[name], value)}
    return found


def _listed_modules(directory: Path) -> list[dict[str, Any]]:
    """Return the entries of modules.json; none if it is absent or malformed."""
    try:
        entries = json.loads((directory / "modules.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _modules(model: Any, directory: Path) -> Iterator[tuple[str, Any, Path]]:
    """Yield each module that has parameters, also those of a Router, with its name in the model and its folder.

    Which folder is whose is sentence-transformers' rule: modules.json in base/model.py (_load_modules), the Router's
    `structure` in base/modules/router.py (load). `resolver.model_modules` has it for files that are not loaded yet.
    """
    paths = {str(module["name"]): str(module["path"]) for module in _listed_modules(directory)}
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
    for child_name, child in module.named_children():
        yield from _transformers_in(child, f"{name}.{child_name}" if name else child_name)


def _embedding_rows(module: Any) -> int:
    """Return how many tokens a module has an embedding for; 0 where that is unknown."""
    tables: list[Any] = [getattr(module, "embedding", None)]
    for _, network in _transformers_in(module):
        with suppress(NotImplementedError):  # a model's own code need not have that method
            tables.append(network.get_input_embeddings())
    return min((int(table.weight.shape[0]) for table in tables if hasattr(table, "weight")), default=0)
