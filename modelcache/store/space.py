"""Room on the volume: refused early where there is too little, and cleared of what crashes left."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelcache.core.errors import StorageError
from modelcache.core.plan import Step, space_needed
from modelcache.store.layout import Places
from modelcache.store.leases import Leases
from modelcache.store.publish import put_back, repair
from modelcache.system.files import discard, storage_errors


def refuse_too_little_space(steps: Sequence[Step], places: Places) -> None:
    """Compare what is to be written with what is free, before the first byte.

    What dead processes left half done is given up when there is no room to copy it.

    Raises:
        StorageError: with needed, free and short by, in bytes; or the volume cannot be asked.

    """
    with storage_errors("make sure that there is space"):
        _make_sure_of_space(steps, places)


def _make_sure_of_space(steps: Sequence[Step], places: Places) -> None:
    by_device: dict[int, list[Step]] = {}
    for step in steps:
        folder = _existing(places.collections[step.model.kind])
        by_device.setdefault(os.stat(folder).st_dev, []).append(step)
    for mine in by_device.values():
        collections = {places.collections[step.model.kind] for step in mine}
        folder = _existing(min(collections))
        needed = space_needed(mine, os.statvfs(folder).f_frsize)
        if _is_short(folder, needed):
            for collection in collections:
                clear_debris(Leases(collection))
        refuse_if_short(folder, needed)


def make_room(folder: Path, needed: int, leftovers: Iterable[Path]) -> None:
    """Give up what others left, the first of it first, until there is room for what is to be written, in bytes.

    Raises:
        StorageError: with needed, free and short by, when nothing is left to be given up.

    """
    for path in leftovers:
        if not _is_short(folder, needed):
            return
        discard(path)
    refuse_if_short(folder, needed)


def refuse_if_short(folder: Path, needed: int) -> None:
    """Compare what is to be written into a directory, in bytes, with what is free.

    Raises:
        StorageError: with needed, free and short by.

    """
    if _is_short(folder, needed):
        free = _free(folder)
        raise StorageError(
            f"not enough space in {folder}: needed {needed}, free {free}, short by at least {needed - free} bytes",
            hint="Free some space or use a larger volume. A model is replaced only when its new version is whole.",
        )


def clear_debris(leases: Leases) -> None:
    """Remove what crashes left behind, except where somebody is at work; what stepped aside is put back first."""
    for home in leases.aside():
        put_back(home)
        if lease := leases.take(home.name):
            with lease:
                repair(home)
    for name, stagings in leases.stagings().items():
        if lease := leases.take(name):
            with lease:
                for path in stagings:
                    discard(path)
    leases.tidy()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _is_short(path: Path, needed: int) -> bool:
    return os.statvfs(path).f_blocks > 0 and needed > _free(path)  # a file system without a size does not count


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
