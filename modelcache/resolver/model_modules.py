"""Which modules a model is put together from, and in which folders they lie. Rules only; no network, no disk.

sentence_transformers/base/model.py reads modules.json, and base/modules/router.py the routes of a Router.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelcache.core.text import escape, join_names

MAX_MODULES = 256
SENTENCE_TRANSFORMERS_CONFIG = "config_sentence_transformers.json"
"""Saved by sentence-transformers beside modules.json, not always with a `model_type`."""
FROM_CONFIG = ("Pooling", "Dense", "SparseAutoEncoder", "SpladePooling", "MultiVectorMask", "HierarchicalTokenPooling")
"""Modules that the library does not make without their config.json, or makes with other settings."""
_WITH_WEIGHTS = """
    Transformer MLMTransformer CLIPModel Dense StaticEmbedding SparseStaticEmbedding SparseAutoEncoder WordEmbeddings
    LSTM CNN LayerNorm WeightedLayerPooling
"""
WITH_WEIGHTS = frozenset(_WITH_WEIGHTS.split())
"""Modules that do not load without weights."""

ReadJson = Callable[[str], Mapping[str, Any]]
"""Returns a JSON file of a repository as a mapping, a list under "entries"; empty where there is none."""

PYLATE_DENSE = "pylate.models.Dense.Dense"
"""PyLate's name of a module that the library takes for its own (multi_vector_encoder/model.py, _CLASS_REF_ALIASES)."""

_LIBRARY = "sentence_transformers."
_ROUTERS = ("Router", "Asym")
# Their config.json is all they have: the words of a vocabulary, each with its weight.
_WORD_LISTS = ("BoW", "WordWeights")
_OLD_TYPE = re.compile(r"sentence_transformers\.(sparse_encoder\.)?models\.")
_NEW_IN_6 = "sentence_transformers.base.modules.normalize."
_OLD_KEYS = {"pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_lasttoken"}
# These are made from their configuration alone (base/modules/module.py, load); a weight file beside it is not opened.
_OF_SETTINGS = ("Pooling", "SpladePooling", "Normalize", "Dropout", "LogitScore", "MultiVectorMask")
_WITHOUT_WEIGHTS = (*_WORD_LISTS, *_OF_SETTINGS, "HierarchicalTokenPooling")


@dataclass(frozen=True, slots=True)
class Module:
    """One module; `folder` is relative to the model, and the root is ``""``."""

    folder: str
    type: str
    """The class as the configuration names it; empty where there is no modules.json, and the root is the one module."""
    named_in: str = "modules.json"

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.type.rpartition(".")[2]

    @property
    def is_router(self) -> bool:
        """Whether it only routes to other modules."""
        return self.name in _ROUTERS

    @property
    def opens_no_weights(self) -> bool:
        """Whether the library makes it from its configuration alone."""
        return self.is_library(*_WITHOUT_WEIGHTS)

    def is_library(self, *names: str) -> bool:
        """Whether it is one of the modules of the library with these names."""
        return (self.type.startswith(_LIBRARY) or self.type == PYLATE_DENSE) and self.name in names


def modules_of(files: Container[str], read_json: ReadJson) -> list[Module]:
    """Return the modules that a repository names, a Router before its routes, and hardly more than `MAX_MODULES`."""
    if "modules.json" not in files:
        return [Module("", "")]
    entries = read_json("modules.json").get("entries")
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    found = [
        _module(str(entry.get("path") or ""), entry.get("type", ""), "modules.json")
        for entry in named[: MAX_MODULES + 1]
    ]
    for module in found:  # grows while it is walked: a Router's route may be a Router again
        for route in () if module.is_library(*_WORD_LISTS) else _routes(module.folder, read_json):
            if len(found) <= MAX_MODULES and route not in found:
                found.append(route)
    return found


def has_word_list(modules: Sequence[Module]) -> bool:
    """Whether the config.json in the folder of these modules is a vocabulary alone, perhaps too large to be read."""
    return bool(modules) and all(module.is_library(*_WORD_LISTS) for module in modules)


def is_bag_of_words(modules: Sequence[Module]) -> bool:
    """Whether a model is a bag of words, and none of its modules opens weights."""
    loaded = [module for module in modules if not module.is_router]
    return any(module.name == "BoW" for module in loaded) and all(module.opens_no_weights for module in loaded)


def note_on_schema(modules: Sequence[Module], read_json: ReadJson) -> str | None:
    """Name the files that only the newest sentence-transformers reads, or None.

    Version 5.4 gave the classes of modules new names and the pooling a new form, and 6 moved one class
    (util/deprecated_import.py). The old schema is read by all versions.
    """
    new = [one for one in modules if one.type.startswith(_LIBRARY) and not _OLD_TYPE.match(one.type)]
    named = {one.named_in for one in new}
    since = "6" if any(one.type.startswith(_NEW_IN_6) for one in new) else "5.4"
    paths = {join(module.folder, "config.json") for module in modules if module.name == "Pooling"}
    pooling = {path for path in paths if "pooling_mode" in (keys := read_json(path)) and not _OLD_KEYS & keys.keys()}
    if not (files := sorted(named | pooling)):
        return None
    return (
        f"only sentence-transformers {since} and later read the schema of {join_names(files)};"
        " text-embeddings-inference does not"
    )


def problems_with_activations(modules: Sequence[Module], read_json: ReadJson) -> Iterator[tuple[str, str]]:
    """Yield each activation that a loader would replace by its own default with only a warning, and a hint.

    They replace every one that is not torch's (base/modules/dense.py, load; cross_encoder/model.py,
    _resolve_activation_fn).
    """
    config = read_json("config.json")
    saved = config.get("sentence_transformers")
    named = [
        ("config.json", config.get("sbert_ce_default_activation_function")),
        ("config.json", saved.get("activation_fn") if isinstance(saved, dict) else None),
        (SENTENCE_TRANSFORMERS_CONFIG, read_json(SENTENCE_TRANSFORMERS_CONFIG).get("activation_fn")),
    ]
    for folder in sorted({module.folder for module in modules if module.name == "Dense"}):
        path = join(folder, "config.json")
        named.append((path, read_json(path).get("activation_function")))
    for path, name in named:
        if isinstance(name, str) and not name.startswith("torch."):
            yield (
                f"{path} names the activation {escape(name)}, and the loader would use another one with only a warning",
                "ask the owner to name one of torch's",
            )


def _routes(folder: str, read_json: ReadJson) -> Iterator[Module]:
    for path in (join(folder, "router_config.json"), join(folder, "config.json")):  # the latter: Routers of old
        if config := read_json(path):
            types = config.get("types")
            for name, module_type in types.items() if isinstance(types, dict) else ():
                yield _module(join(folder, str(name)), module_type, path)
            return


def _module(folder: str, module_type: object, named_in: str) -> Module:
    path = posixpath.normpath(folder.strip("/"))
    return Module("" if path == "." else path, str(module_type), named_in)


def join(folder: str, name: str) -> str:
    """Return the path of a file in a module's folder."""
    return f"{folder}/{name}" if folder else name
