"""Read models.toml and models.lock, and compare them: which pins match the wanted models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.errors import LockfileError, UsageError
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


def pins_of_root(wanted: Sequence[WantedModel], root: Places) -> dict[WantedModel, LockedModel]:
    """Return the pins that the receipts of another root hold; refuse a root that does not have all the models."""
    pins = matching_pins(wanted, None, root)
    if lacking := [model.id for model in wanted if model not in pins]:
        where = next(iter(root.collections.values())).parent
        raise UsageError(
            f"not in {where}: {', '.join(lacking)}",
            hint="--from takes a root that holds the wanted models, each with its receipt.",
        )
    return pins
