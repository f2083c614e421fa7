"""The settings in a configuration, by their meaning. A key counts unless it is known to have no effect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from modelcache.resolver.library_schema import class_name, in_one_schema
from modelcache.resolver.model_modules import Module

MODULES = "modules"

_NOTES = """
    __version__ _name_or_path name_or_path transformers_version is_local local_files_only _commit_hash use_cache
    gradient_checkpointing finetuning_task
"""
# They say something about a file, or about training and generation.
_WITHOUT_EFFECT = frozenset(_NOTES.split())
# Their tokenizers are read in another way before version 5 (transformers/tokenization_utils_tokenizers.py,
# _patch_mistral_regex).
_READ_BY_VERSION = frozenset({"mistral", "mistral3", "voxtral", "ministral", "pixtral"})


def settings_of(path: str, document: object, modules: Sequence[Module], model_class: str) -> dict[str, str]:
    """Return the settings of a JSON document by their keys (`prompts.query`), each value as JSON.

    `modules` are those in the folder of the file; `model_class` is the class that loads the model.

    Raises:
        RecursionError: it is nested too deeply.

    """
    if not isinstance(document, dict):
        return {"": _json(document)}
    name = path.rpartition("/")[2]
    # Code may read any key of its configuration; that of a model of transformers has a model_type.
    of_code = any(module.type and not module.is_library(module.name) for module in modules)
    notes = frozenset() if of_code and name == "config.json" and "model_type" not in document else _WITHOUT_EFFECT
    if str(document.get("model_type")) in _READ_BY_VERSION:
        notes -= {"transformers_version"}
    named = {key: value for key, value in document.items() if key not in notes}
    return dict(_flat(in_one_schema(name, named, modules, model_class)))


def module_names(modules: Sequence[Module], document: object) -> dict[str, str]:
    """Return the modules of a model with their folders as one setting, as every version of the library names them.

    `document` is modules.json. Arguments that it has for a module are a setting each, and so are the names if two
    modules share one: the library then keeps the last of them (base/model.py, _load_config_modules).
    """
    entries = [entry for entry in document if isinstance(entry, dict)] if isinstance(document, list) else []
    found = {
        MODULES: _json([f"{class_name(one)} ({one.folder})" if one.folder else class_name(one) for one in modules])
    }
    found |= {f"{number}.kwargs": _json(entry["kwargs"]) for number, entry in enumerate(entries) if entry.get("kwargs")}
    names = [_json(entry.get("name")) for entry in entries]
    return found if len(set(names)) == len(names) else {**found, "names": _json(names)}


def _flat(value: object, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a document, with the keys above each; a key with a point in it is quoted."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = _json(key) if "." in key or key[:1] in ("", '"') else key
            yield from _flat(inner, f"{above}.{name}" if above else name)
    elif above:
        yield above, _json(value)


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
