"""How the files are made that no repository has: from bytes to bytes, and from names to names. No disk.

Locks pin what comes out of here: another byte, and models that were locked before cannot be put together any more.
"""

from __future__ import annotations

import json

from modelcache.core.errors import PolicyError
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from modelcache.resolver.code_references import localise
from modelcache.resolver.pooling import module_files

_PICKLE_INDEX = ".bin.index.json"


def converted_name(path: str) -> str:
    """Return what the safetensors of a pickle are called: `pytorch_model-1.bin` becomes `model-1.safetensors`."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def converted_index_name(path: str) -> str:
    """Return what the index of converted shards is called."""
    return f"{converted_name(path.removesuffix('.index.json'))}.index.json"


def rewritten(original: Original, content: bytes) -> bytes:
    """Return an index of pickled shards with the names of the converted ones, or a configuration made local.

    Raises:
        PolicyError: it is not JSON, or no index.

    """
    if not original.path.endswith(_PICKLE_INDEX):
        return localise(original.path, content)
    try:
        document = json.loads(content)
        shards = {tensor: converted_name(shard) for tensor, shard in document["weight_map"].items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise PolicyError(
            f"{original.path} is no index of weights", hint="Tell the owner that the repository is broken."
        ) from None
    return json.dumps({**document, "weight_map": shards}, indent=2, ensure_ascii=False).encode() + b"\n"


def small_file(model: LockedModel, file: LockedFile, content: bytes) -> bytes:
    """Make a rewritten file from its original's content, or a written one from that of config.json.

    Raises:
        PolicyError: the content is nothing that it could be made from.

    """
    if file.made is Made.REWRITTEN:
        return rewritten(model.original_of(file), content)
    files = module_files(model.pooling, normalize=model.normalize, config=content) if model.pooling else {}
    return files.get(file.path, b"")
