"""Which modules a model is put together from, and in which folders they lie. Rules only; no network, no disk.

sentence_transformers/base/model.py reads modules.json, and base/modules/router.py the routes of a Router.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from modelcache.core.text import join_names

MAX_MODULES = 256
_LIBRARY = "sentence_transformers."
_ROUTERS = ("Router", "Asym")
_WITH_WEIGHTS = (
    "Transformer",
    "CLIPModel",
    "Dense",
    "StaticEmbedding",
    "WordEmbeddings",
    "LSTM",
    "CNN",
    "LayerNorm",
    "WeightedLayerPooling",
)
# These do not load without their config.json.
_FROM_CONFIG = ("Pooling", "Dense")
# Their config.json is all they have: the words of a vocabulary, each with its weight.
_WORD_LISTS = ("BoW", "WordWeights")
_OLD_TYPE = re.compile(r"sentence_transformers\.(sparse_encoder\.)?models\.")
_NEW_IN_6 = "sentence_transformers.base.modules.normalize."
_OLD_KEYS = {"pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_lasttoken"}
# These are made from their configuration alone (base/modules/module.py, load); a weight file beside it is not opened.
_WITHOUT_WEIGHTS = (*_WORD_LISTS, "Pooling", "Normalize", "Dropout", "LogitScore")


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
    def needs_weights(self) -> bool:
        """Whether it cannot load without weights."""
        return self.name in _WITH_WEIGHTS

    @property
    def needs_config(self) -> bool:
        """Whether the library cannot make it without its config.json."""
        return self.type.startswith(_LIBRARY) and self.name in _FROM_CONFIG

    @property
    def opens_no_weights(self) -> bool:
        """Whether the library makes it from its configuration alone."""
        return self.type.startswith(_LIBRARY) and self.name in _WITHOUT_WEIGHTS

    @property
    def is_logit_score(self) -> bool:
        """Whether it makes a score of a language model's next token."""
        return self.type.startswith(_LIBRARY) and self.name == "LogitScore"

    @property
    def is_word_list(self) -> bool:
        """Whether its config.json is a vocabulary and nothing else."""
        return self.type.startswith(_LIBRARY) and self.name in _WORD_LISTS


def modules_of(has: Callable[[str], bool], read_json: Callable[[str], Mapping[str, Any]]) -> list[Module]:
    """Return the modules that a repository names, a Router before its routes, and hardly more than `MAX_MODULES`.

    `read_json` returns a JSON file as a mapping, a list under "entries".
    """
    if not has("modules.json"):
        return [Module("", "")]
    found = list(islice(_in_modules_json(read_json("modules.json")), MAX_MODULES + 1))
    for module in found:  # grows while it is walked: a Router's route may be a Router again
        for route in () if module.is_word_list else _routes(module.folder, read_json):
            if len(found) <= MAX_MODULES and route not in found:
                found.append(route)
    return found


def has_word_list(modules: Sequence[Module]) -> bool:
    """Whether the config.json in the folder of these modules is a vocabulary alone, perhaps too large to be read."""
    return bool(modules) and all(module.is_word_list for module in modules)


def is_bag_of_words(modules: Sequence[Module]) -> bool:
    """Whether a model is a bag of words, and none of its modules opens weights."""
    loaded = [module for module in modules if not module.is_router]
    return any(module.name == "BoW" for module in loaded) and all(module.opens_no_weights for module in loaded)


def note_on_schema(modules: Sequence[Module], read_json: Callable[[str], Mapping[str, Any]]) -> str | None:
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
        f"only sentence-transformers {since} and later read the schema of {join_names(files)}; older versions and"
        " text-embeddings-inference do not"
    )


def _in_modules_json(document: Mapping[str, Any]) -> Iterator[Module]:
    entries = document.get("entries", ())
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            yield _module(str(entry.get("path") or ""), entry.get("type", ""), "modules.json")


def _routes(folder: str, read_json: Callable[[str], Mapping[str, Any]]) -> Iterator[Module]:
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
