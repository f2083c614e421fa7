"""Names and bytes of the files that no repository has: converted, rewritten or written. No disk.

Locks pin these bytes: with any other byte, models that were locked before could not be put together any more.
"""

from __future__ import annotations

import json

from modelcache.core.errors import PolicyError
from modelcache.core.types import LockedFile, LockedModel, Made, Original, Pooling
from modelcache.resolver.code_references import make_references_local

_PICKLE_INDEX = ".bin.index.json"
# The keys that versions before 6 write (modules/pooling.py, _LEGACY_POOLING_MODE_KWARGS); 6 reads both.
LEGACY_POOLING = {
    Pooling.CLS: "pooling_mode_cls_token",
    Pooling.MAX: "pooling_mode_max_tokens",
    Pooling.MEAN: "pooling_mode_mean_tokens",
    Pooling.MEAN_SQRT: "pooling_mode_mean_sqrt_len_tokens",
    Pooling.WEIGHTED_MEAN: "pooling_mode_weightedmean_tokens",
    Pooling.LAST: "pooling_mode_lasttoken",
}
"""The keys of a pooling's modes, in the order in which the library joins their vectors."""
# Names of the width of a token's vector in configurations of transformers (their attribute_map).
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "hidden_dim")


def converted_name(path: str) -> str:
    """Return the name that a pickle, or an index of pickles, has as safetensors: `model-1.safetensors`."""
    folder, slash, name = path.rpartition("/")
    index = ".index.json" if name.endswith(_PICKLE_INDEX) else ""
    pickle = name.removeprefix("pytorch_").removesuffix(index).removesuffix(".bin")
    return f"{folder}{slash}{pickle}.safetensors{index}"


def rewritten(original: Original, content: bytes) -> bytes:
    """Return an index of pickled shards with the names of the converted ones, or a configuration made local.

    Raises:
        PolicyError: it is not JSON, or not an index.

    """
    if not original.path.endswith(_PICKLE_INDEX):
        return make_references_local(original.path, content)
    try:
        document = json.loads(content)
        shards = {tensor: converted_name(shard) for tensor, shard in document["weight_map"].items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise PolicyError(
            f"{original.path} is not an index of weights", hint="Tell the owner that the repository is broken."
        ) from None
    return json.dumps({**document, "weight_map": shards}, indent=2, ensure_ascii=False).encode() + b"\n"


def module_files(pooling: Pooling, *, normalize: bool, config: bytes) -> dict[str, bytes]:
    """Return modules.json and the files of its modules, by path, for a repository that has none.

    Without them sentence-transformers falls back to mean pooling, without a warning (sentence_transformer/model.py,
    _load_default_modules). The names of the modules are those that every version since 2 reads. `config` is the
    model's config.json.

    Raises:
        PolicyError: the configuration does not say how wide the vectors are.

    """
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    settings = {"word_embedding_dimension": _width(config)}
    settings |= {key: mode is pooling for mode, key in LEGACY_POOLING.items()}
    return {"modules.json": _json(modules), "1_Pooling/config.json": _json(settings)}


def small_file(model: LockedModel, file: LockedFile, content: bytes) -> bytes:
    """Return a rewritten file, made from its original's content, or a written one, made from that of config.json.

    Raises:
        PolicyError: it cannot be made from this content.

    """
    if file.made is Made.REWRITTEN:
        return rewritten(model.original_of(file), content)
    files = module_files(model.pooling, normalize=model.normalize, config=content) if model.pooling else {}
    return files.get(file.path, b"")


def _width(config: bytes) -> int:
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        document = None
    tables = [document, document.get("text_config")] if isinstance(document, dict) else []
    for table in tables:
        for name in _WIDTHS:
            if isinstance(table, dict) and type(width := table.get(name)) is int and width > 0:
                return width
    raise PolicyError(
        "config.json does not say how wide the model's vectors are",
        hint="Save the model with sentence-transformers and name that directory as `path`.",
    )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
