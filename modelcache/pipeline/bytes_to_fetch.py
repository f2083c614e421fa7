"""How many bytes of a pinned model `sync` will fetch, by names, sizes and receipts: no file of a model is read.

The places are those of `pipeline/fetch` and `transfer/download`.
"""

from __future__ import annotations

from pathlib import Path

from modelcache.core.plan import distinct
from modelcache.core.types import LockedFile, LockedModel, Made, Original
from modelcache.pipeline.context import RunContext
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.store.layout import read_receipt
from modelcache.store.leases import Leases
from modelcache.system.files import is_plain_file
from modelcache.transfer.staged_bytes import finished_paths


def bytes_to_fetch(model: LockedModel, context: RunContext) -> tuple[int, bool]:
    """Return how many bytes `sync` will fetch of a model, and whether that is exact.

    It is not where an interrupted run has left a part of a file: its bytes are hashed before they count.
    """
    home = context.places.home(model.kind, model.id)
    stagings, published = Leases(home.parent).stagings_of(home.name), _published_hashes(home)

    def is_at_hand(file: LockedFile) -> bool:
        same = [other.path for other in model.files if other.sha256 == file.sha256]
        own = [home / path for path in same if published.get(path, file.sha256) == file.sha256]
        return _any_file([*own, *finished_paths(stagings, file.sha256)], file.size)

    left: dict[str, int] = {}
    partial = False
    for file in distinct(model.files):
        original = model.original_of(file)
        # A file without a commit is copied from its directory.
        if file.made is Made.WRITTEN or not original.commit or is_at_hand(file) or _has_original(original, stagings):
            continue
        left[original.sha256] = original.size
        parts = [part for folder in stagings for part in (folder / original.sha256, folder / "tree" / file.path)]
        partial = partial or _any_file(parts)
    return sum(left.values()), not partial


def _published_hashes(home: Path) -> dict[str, str]:
    """Return the hash of each file of the published version, by path, as its receipt has them."""
    try:
        published = read_receipt(home)
    except OSError:  # `sync` will say so
        return {}
    return {file.path: file.sha256 for file in published.files} if published else {}


def _has_original(original: Original, stagings: list[Path]) -> bool:
    cached = in_hf_cache(original.repository, original.sha256, original.path, original.commit)
    return _any_file([*finished_paths(stagings, original.sha256), *cached], original.size)


def _any_file(paths: list[Path], size: int | None = None) -> bool:
    return any(is_plain_file(path, size) for path in paths)
