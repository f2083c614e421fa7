"""Names and bytes of the files that no repository has: converted, rewritten or written. No disk.

Locks pin these bytes: with any other byte, models that were locked before could not be put together any more.
"""

from __future__ import annotations

import json

from modelcache.core.errors import PolicyError
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from modelcache.resolver.code_references import make_references_local
from modelcache.resolver.pooling import module_files

_PICKLE_INDEX = ".bin.index.json"


def converted_name(path: str) -> str:
    """Return the name of the safetensors of a pickle: `pytorch_model-1.bin` becomes `model-1.safetensors`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def converted_index_name(path: str) -> str:
    """Return the name of the index of converted shards."""
    return f"{converted_name(path.removesuffix('.index.json'))}.index.json"


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


def small_file(model: LockedModel, file: LockedFile, content: bytes) -> bytes:
    """Return a rewritten file, made from its original's content, or a written one, made from that of config.json.

    Raises:
        PolicyError: it cannot be made from this content.

    """
    if file.made is Made.REWRITTEN:
        return rewritten(model.original_of(file), content)
    files = module_files(model.pooling, normalize=model.normalize, config=content) if model.pooling else {}
    return files.get(file.path, b"")
