"""Activations that the loaders would replace by a default of their own, with nothing but a warning. Rules only.

They do so for every one that is not torch's (base/modules/dense.py, load; cross_encoder/model.py,
_resolve_activation_fn).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from modelcache.core.text import escape
from modelcache.resolver.model_modules import Module, join
from modelcache.resolver.model_type import SENTENCE_TRANSFORMERS_CONFIG


def problems_with_activations(
    modules: Iterable[Module], read_json: Callable[[str], Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Yield why a model with another activation is not shipped, with a hint."""
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
