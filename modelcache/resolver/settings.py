"""The settings in a configuration, by their meaning: one schema for what several versions write in several ways.

The rules are those with which sentence-transformers reads old files (sentence_transformer/modules/pooling.py,
`_convert_legacy_pooling_kwargs`; base/modules/module.py, `config_key_renames`; base/model.py, `_parse_model_config`).
Whatever is not known to be without effect counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelcache.core.types import Pooling
from modelcache.resolver.derived import LEGACY_POOLING
from modelcache.resolver.model_modules import SENTENCE_TRANSFORMERS_CONFIG, Module

SIMILARITY = "similarity_fn_name"
"""The key of the function that compares two vectors; no vector depends on it."""

MODULES, POOLING_MODE = "modules", "pooling_mode"

_NOTES = """
    __version__ _name_or_path name_or_path transformers_version is_local local_files_only _commit_hash use_cache
    torchscript gradient_checkpointing finetuning_task
"""
# They say something about a file, or about training and generation.
_WITHOUT_EFFECT = frozenset(_NOTES.split())
_RENAMED = {
    "torch_dtype": "dtype",
    "word_embedding_dimension": "embedding_dimension",
    "in_word_embedding_dimension": "in_embedding_dimension",
}
# Values that the modules of the library have where their configuration does not name them.
_DEFAULTS: Mapping[str, object] = {
    "include_prompt": True,
    "module_input_name": "sentence_embedding",
    "module_output_name": "sentence_embedding",
    "do_lower_case": False,
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "use_residual": False,
}
_TRANSFORMER_DEFAULTS: Mapping[str, object] = {**_DEFAULTS, "module_output_name": "token_embeddings"}
# Modules whose config.json is that of a model of transformers.
_OF_TRANSFORMERS = ("Transformer", "MLMTransformer", "CLIPModel")


def settings_of(path: str, document: object, modules: Sequence[Module], model_class: str) -> dict[str, str]:
    """Return the settings of a JSON document by their keys (`prompts.query`), each value as JSON.

    `modules` are those in the folder of the file; `model_class` is the class that loads the model.

    Raises:
        RecursionError: it is nested too deeply.

    """
    if not isinstance(document, dict):
        return {"": _json(document)}
    kept = {key: value for key, value in document.items() if key not in _WITHOUT_EFFECT}
    named: dict[str, Any] = {_RENAMED.get(key, key): value for key, value in kept.items()}
    name = path.rpartition("/")[2]
    of_transformer = name.startswith("sentence_") and name.endswith("_config.json")
    if name == SENTENCE_TRANSFORMERS_CONFIG:
        named = _of_model(named, model_class)
    elif of_transformer:
        named = _without(named, _TRANSFORMER_DEFAULTS)
    elif modules and all(one.is_library(one.name) and one.name not in _OF_TRANSFORMERS for one in modules):
        named = _of_module(named, modules)
    return dict(_flat(named))


def module_names(modules: Sequence[Module]) -> dict[str, str]:
    """Return the modules of a model as one setting, with their folders, as every version of the library names them."""
    names = []
    for module in modules:
        name = module.name if module.is_library(module.name) else module.type
        names.append(f"{name} ({module.folder})" if module.folder else name)
    return {MODULES: _json(names)}


def _of_model(named: Mapping[str, Any], model_class: str) -> dict[str, Any]:
    """Return the settings of a whole model; an empty prompt is none."""
    prompts = named.get("prompts")
    if isinstance(prompts, dict):
        prompts = {name: text for name, text in prompts.items() if text} or None
    return _without({**named, "prompts": prompts}, {"model_type": model_class})


def _of_module(named: Mapping[str, Any], modules: Sequence[Module]) -> dict[str, Any]:
    """Return the settings of a module that the library makes from its configuration."""
    if any(module.is_library("Pooling") for module in modules):
        legacy = [str(mode) for mode, key in LEGACY_POOLING.items() if named.get(key)]
        modes = named.get(POOLING_MODE) or legacy or [str(Pooling.MEAN)]
        rest = {key: value for key, value in named.items() if key not in LEGACY_POOLING.values()}
        named = {**rest, POOLING_MODE: [modes] if isinstance(modes, str) else modes}
    source = named.get("module_input_name", _DEFAULTS["module_input_name"])
    return _without(named, {**_DEFAULTS, "module_output_name": source})


def _without(named: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings that are set, and to another value than they have anyway."""
    return {key: value for key, value in named.items() if value is not None and defaults.get(key) != value}


def _flat(value: object, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a document, with the keys above each."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{above}.{key}" if above else key)
    elif above:
        yield above, _json(value)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
