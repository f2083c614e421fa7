"""Read models.toml and models.lock, and compare them: which pins match the wanted models."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.errors import LockfileError, UsageError
from modelcache.core.text import escape, join_names
from modelcache.core.types import LockedModel, WantedModel
from modelcache.formats.lockfile import parse_lock
from modelcache.formats.manifest import parse_manifest
from modelcache.store.layout import Places, read_receipt
from modelcache.system.files import read_bytes, storage_errors


@dataclass(frozen=True, slots=True)
class Project:
    """The paths of manifest, lock and root, and whether the lock is binding (`--locked`)."""

    manifest: Path
    lockfile: Path
    root: Path
    locked: bool = False

    @property
    def places(self) -> Places:
        """The collections below the root."""
        return Places.below(self.root)


def read_manifest(path: Path) -> tuple[WantedModel, ...]:
    """Read models.toml; see `parse_manifest`."""
    return parse_manifest(read_bytes(path), path)


def read_lock(path: Path) -> tuple[LockedModel, ...] | None:
    """Read models.lock; None where there is none. See `parse_lock`."""
    content = read_bytes(path)
    return None if content is None else parse_lock(content, path.name)


def matching_pins(
    wanted: Iterable[WantedModel], locked: Sequence[LockedModel] | None, receipts: Places | None
) -> dict[WantedModel, LockedModel]:
    """Return the pins that match wanted models, with no request to the Hub: from the lock, else from the receipts."""
    by_name = {(model.kind, model.id): model for model in locked or ()}
    pins = {}
    for model in wanted:
        pin = by_name.get((model.kind, model.id))
        if pin is None and receipts is not None:
            home = receipts.home(model.kind, model.id)
            with storage_errors(f"read {home}"):
                pin = read_receipt(home)
        if pin is not None and pin.fits(model):
            pins[model] = pin
    return pins


def refuse_stale_lock(wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, name: str) -> None:
    """Refuse a lock that is not there, or does not pin exactly the models of the manifest; name every difference."""
    hint = "Run `cache-models lock` and commit the result."
    if locked is None:
        raise LockfileError(f"there is no {name}", hint=hint)
    pins = matching_pins(wanted, locked, None)
    lacking = [f"{model.id} ({model.kind}) is not pinned as models.toml asks" for model in wanted if model not in pins]
    names = {(model.kind, model.id) for model in wanted}
    unwanted = [f"{m.id} ({m.kind}) is pinned and no longer wanted" for m in locked if (m.kind, m.id) not in names]
    if lacking or unwanted:
        raise LockfileError(f"{name} does not fit the manifest:\n  " + "\n  ".join(lacking + unwanted), hint=hint)


def refuse_lacking_root(root: Path, unpinned: Sequence[WantedModel], needed: Sequence[LockedModel]) -> None:
    """Refuse to copy from a root that is absent, holds no models, or lacks some of those that are needed.

    For those that are `unpinned` it has no receipt that fits the manifest.
    """
    places, asked = Places.below(root), list[WantedModel | LockedModel]([*unpinned, *needed])
    with storage_errors(f"read {root}"):
        lacking = [model.id for model in asked if not _is_directory(places.home(model.kind, model.id))]
        unfit = [model.id for model in unpinned if model.id not in lacking]
        if not lacking and not unfit:
            return
        where = escape(str(root))
        collections = " and ".join(collection.name for collection in places.collections.values())
        hint = f"--from (CACHE_MODELS_FROM) takes a root: the directory that holds {collections}."
        if not _is_directory(root):
            raise UsageError(f"there is no directory {where}", hint=f"It should hold {join_names(lacking)}. {hint}")
        if not any(map(_holds_models, places.collections.values())):
            raise UsageError(f"{where} holds no models", hint=f"It should hold {join_names(lacking)}. {hint}")
    groups = (("does not hold", lacking), ("has no receipt that fits the manifest for", unfit))
    raise UsageError("; ".join(f"{where} {lack} {', '.join(ids)}" for lack, ids in groups if ids), hint=hint)


def _holds_models(collection: Path) -> bool:
    if not _is_directory(collection):
        return False
    with os.scandir(collection) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _is_directory(path: Path) -> bool:
    """Whether a directory is there; OSError if that cannot be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
