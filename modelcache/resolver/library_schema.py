"""The configurations that sentence-transformers writes, in one schema: several versions say the same in several ways.

The rules are those with which version 6.2 reads old files (sentence_transformer/modules/pooling.py,
`_convert_legacy_pooling_kwargs`; base/modules/module.py, `config_key_renames`; base/model.py, `_parse_model_config`).
A value that a module has anyway is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.types import Pooling
from modelcache.resolver.derived import LEGACY_POOLING
from modelcache.resolver.model_modules import SENTENCE_TRANSFORMERS_CONFIG, Module

SIMILARITY, POOLING_MODE = "similarity_fn_name", "pooling_mode"

# Of modules that are models of transformers: the task that they have where their configuration names none.
_TASKS = {"Transformer": "feature-extraction", "MLMTransformer": "fill-mask"}
_OF_TRANSFORMERS = (*_TASKS, "CLIPModel")
_ROUTERS = ("Router", "Asym")
_CONFIGS = ("config.json", "lstm_config.json", "cnn_config.json")  # of all other modules of the library
_MULTI_VECTOR = Kind.MULTI_VECTOR.spec.model_class
_RENAMED_DTYPE = {"torch_dtype": "dtype"}  # transformers/configuration_utils.py
_RENAMED_WIDTHS = {
    "word_embedding_dimension": "embedding_dimension",
    "in_word_embedding_dimension": "in_embedding_dimension",
}
_SENTENCE, _TOKENS = "sentence_embedding", "token_embeddings"
# Values that the modules of the library have where their configuration does not name them.
_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "Pooling": {"include_prompt": True},
    "Normalize": {"module_input_name": _SENTENCE},
    "Dense": {"module_input_name": _SENTENCE, "use_residual": False},
    "SpladePooling": {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None},
    "SparseStaticEmbedding": {"frozen": False},
    # load_config, where it is not named; the class itself has the opposite.
    "HierarchicalTokenPooling": {"num_protected_tokens": 1, "normalize_embeddings": False, "tasks": ["document"]},
    "MultiVectorMask": {"skiplist_words": [], "skiplist_tasks": ["document"], "keep_only_token_ids": None},
}
_MODEL_DEFAULTS: Mapping[str, object] = {"prompts": {}, "default_prompt_name": None, SIMILARITY: None}
_DIMENSIONS: Mapping[str, object] = {"truncate_dim": None, "max_active_dims": None}
_OUTPUTS = ("modality_config", "module_output_name")
# The output that is taken for a task (base/modules/transformer.py, TRANSFORMER_TASK_DEFAULTS).
_LAST = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
_TRANSFORMER_DEFAULTS: Mapping[str, object] = {
    "do_lower_case": False,
    "max_seq_length": None,
    "processing_kwargs": {},
    "unpad_inputs": None,
}
# A MultiVectorEncoder has others, where config_sentence_transformers.json has keys of PyLate.
_LENGTHS: Mapping[str, object] = {"query_length": None, "document_length": None, "query_expansion": None}


def in_one_schema(
    name: str, named: Mapping[str, Any], modules: Sequence[Module], model_class: str
) -> Mapping[str, Any]:
    """Return a configuration in one schema, by the name of its file and the modules in its folder.

    That of code, or of several modules, is returned as it is.
    """
    loaded = [module for module in modules if not module.is_library(*_ROUTERS)]
    classes = {module.name if module.is_library(module.name) else "" for module in loaded}
    module = loaded[0] if len(classes) == 1 and "" not in classes else None
    if name == SENTENCE_TRANSFORMERS_CONFIG:
        return _of_model(named, model_class)
    if name == "router_config.json" or (name == "config.json" and modules and not loaded):
        return _of_router(named) if len(loaded) < len(modules) else named
    if is_of_transformer(name):
        return _of_transformer(named, module.name, model_class) if module and module.name in _TASKS else named
    if module and module.name not in _OF_TRANSFORMERS and name in _CONFIGS:
        return _of_module(named, module, model_class)
    return _renamed(named, _RENAMED_DTYPE)


def is_of_transformer(path: str) -> bool:
    """Whether a file configures a Transformer: sentence_bert_config.json, or one of its older names."""
    name = path.rpartition("/")[2]
    return name.startswith("sentence_") and name.endswith("_config.json")


def class_name(module: Module) -> str:
    """Return the name of a module's class, as every version of the library has it; that of others in full."""
    return module.name if module.is_library(module.name) else module.type


def _of_model(named: Mapping[str, Any], model_class: str) -> dict[str, Any]:
    """Return the settings of a whole model; an empty prompt is none.

    A model without a `model_type` is a SentenceTransformer (base/model.py, _get_model_type); another class makes
    another model of it. To MultiVectorEncoder a key of PyLate that is null says something
    (multi_vector_encoder/model.py, _parse_model_config).
    """
    prompts = named.get("prompts", {})
    if isinstance(prompts, dict):
        prompts = {name: text for name, text in prompts.items() if text not in ("", None)}
    defaults = _MODEL_DEFAULTS if model_class == _MULTI_VECTOR else {**_MODEL_DEFAULTS, **_DIMENSIONS}
    if model_class == Kind.EMBEDDING.spec.model_class:
        defaults = {**defaults, "model_type": model_class}
    return _without({**named, "prompts": prompts}, defaults)


def _of_transformer(named: Mapping[str, Any], name: str, model_class: str) -> dict[str, Any]:
    """Return the settings of a module that is a model of transformers (base/modules/transformer.py, load_config)."""
    task = str(named.get("transformer_task", _TASKS[name]))
    outputs = [named.get(key) for key in _OUTPUTS]
    usual = [{"text": {"method": "forward", "method_output_name": _LAST.get(task)}}, _TOKENS]
    if "modality_config" not in named or (task in _LAST and outputs == usual):  # without it, neither is read
        named = {key: value for key, value in named.items() if key not in _OUTPUTS}
    defaults = {**_TRANSFORMER_DEFAULTS, "transformer_task": _TASKS[name]}
    return _without(named, defaults if model_class == _MULTI_VECTOR else {**defaults, **_LENGTHS})


def _of_router(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a Router, with the route that it takes without a task (base/modules/router.py)."""
    types, structure, parameters = (named.get(key) for key in ("types", "structure", "parameters"))
    if not (isinstance(types, dict) and isinstance(structure, dict) and isinstance(parameters, dict)):
        return dict(named)
    usual = parameters.get("default_route")
    if usual is None and parameters.get("allow_empty_key", True):
        usual = next(iter(structure), None)
    rest = {key: value for key, value in parameters.items() if key != "allow_empty_key"}
    if not rest.get("route_mappings"):
        rest.pop("route_mappings", None)
    names = {route: class_name(Module("", str(module_type))) for route, module_type in types.items()}
    return {**named, "types": names, "parameters": {**rest, "default_route": usual}}


def _of_module(named: Mapping[str, Any], module: Module, model_class: str) -> dict[str, Any]:
    """Return the settings of a module that the library makes from its configuration."""
    named = _renamed(named, _RENAMED_WIDTHS)
    if module.is_library("Pooling"):
        legacy = [str(mode) for mode, key in LEGACY_POOLING.items() if named.get(key)]
        modes = named.get(POOLING_MODE) or legacy or [str(Pooling.MEAN)]
        rest = {key: value for key, value in named.items() if key not in LEGACY_POOLING.values()}
        named = {**rest, POOLING_MODE: [modes] if isinstance(modes, str) else modes}
    defaults = dict(_DEFAULTS.get(module.name, {}))
    if "module_input_name" in defaults:
        # multi_vector_encoder/model.py, _get_module_init_defaults; a Router does not pass them on.
        if module.is_library("Dense") and model_class == _MULTI_VECTOR and module.named_in == "modules.json":
            defaults["module_input_name"] = _TOKENS
        source = named.get("module_input_name", defaults["module_input_name"])
        target = named.get("module_output_name")
        named = {**named, "module_output_name": None if target == source else target}
        defaults["module_output_name"] = None
    return _without(named, defaults)


def _renamed(named: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return settings under the names of today, but for those that have both; the order of keys means nothing."""
    return {key if names.get(key, key) in named else names[key]: value for key, value in named.items()}


def _without(named: Mapping[str, Any], defaults: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings that have another value than without them."""
    return {key: value for key, value in named.items() if key not in defaults or defaults[key] != value}
