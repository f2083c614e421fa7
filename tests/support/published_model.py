"""A published model made by hand, for the steps that look at one: no Hub, no lease, nothing fetched."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel
from modelcache.store.publish import finalize_model, publish

CONTENT: Mapping[str, bytes] = {
    "README.md": b"words\n",
    "config.json": b"{}",
    "deep/er/one.json": b"[1]",
    "deep/two.json": b"[2]",
    "model.safetensors": bytes(range(256)) * 40,
}


def pinned(content: Mapping[str, bytes] = CONTENT, commit: str = "c" * 40) -> LockedModel:
    """The pin of these files."""
    files = (LockedFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in content.items())
    return LockedModel(Kind.EMBEDDING, "tinyorg/embedding", "main", commit, tuple(files), "mit")


def written(folder: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    """These files in a directory."""
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def published(folder: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    """A model directory in a collection below `folder`, as `sync` leaves it."""
    collection = folder / "cached_embedding_models"
    tree = written(collection / ".cache-models" / "tinyorg__embedding~1" / "tree", content)
    finalize_model(tree, pinned(content))
    home = collection / "tinyorg__embedding"
    publish(tree, home)
    shutil.rmtree(collection / ".cache-models")
    return home
