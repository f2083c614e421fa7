"""Free space: a run is refused early where there is too little, and files that crashes left are removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelcache.core.errors import StorageError
from modelcache.core.plan import Step, space_needed
from modelcache.core.text import size_in_words
from modelcache.store.layout import Places
from modelcache.store.leases import Leases
from modelcache.store.publish import recover_publish, restore_old_version
from modelcache.system.files import discard, storage_errors

_HINT = "Free some space or use a larger volume. A model is replaced only when its new version is whole."


def refuse_too_little_space(steps: Sequence[Step], places: Places) -> None:
    """Compare the bytes that are to be written with those that are free, before the first is written.

    Unfinished files of dead processes are given up where there is no room to copy them.
    """
    with storage_errors("make sure that there is space"):
        by_device: dict[int, list[Step]] = {}
        for step in steps:
            folder = _existing(places.collections[step.model.kind])
            by_device.setdefault(os.stat(folder).st_dev, []).append(step)
        for steps_there in by_device.values():
            collections = {places.collections[step.model.kind] for step in steps_there}
            folder = _existing(min(collections))
            needed = space_needed(steps_there, os.statvfs(folder).f_frsize)
            if _lacking(folder, needed):
                for collection in collections:
                    remove_leftovers(Leases(collection))
            try:
                make_room(folder, needed)
            except StorageError as error:
                raise error.concerning(step.model.id for step in steps_there if not step.in_place) from None


def make_room(folder: Path, needed: int, leftovers: Iterable[Path] = (), *, hint: str = _HINT) -> None:
    """Remove leftovers of dead processes, in their order, until `needed` bytes are free.

    If too few are free then, StorageError has the bytes that are needed, free and lacking.
    """
    for path in leftovers:
        if not _lacking(folder, needed):
            return
        discard(path)
    if lacking := _lacking(folder, needed):
        wanted, free = size_in_words(needed, round_up=True), size_in_words(needed - lacking)
        short = size_in_words(lacking, round_up=True)
        message = f"not enough space in {folder}: needed {wanted}, free {free}, short by at least {short}"
        raise StorageError(
            message,
            cause=message,
            hint=hint,
        )


def remove_leftovers(leases: Leases) -> None:
    """Remove files that crashes left, but for models being fetched now; old versions moved aside are restored first."""
    for home in leases.interrupted():
        restore_old_version(home)
        if lease := leases.take(home.name):
            with lease:
                recover_publish(home)
    for name, stagings in leases.stagings().items():
        if lease := leases.take(name):
            with lease:
                for path in stagings:
                    discard(path)
    leases.remove_abandoned()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _lacking(path: Path, needed: int) -> int:
    """Return how many bytes are not free; none on a file system without a size, which has no limit."""
    found = os.statvfs(path)
    return max(0, needed - found.f_bavail * found.f_frsize) if found.f_blocks else 0
