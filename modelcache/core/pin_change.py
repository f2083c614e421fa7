"""What a new pin changes: the model is new, its commit has moved, its files or settings differ, or nothing does."""

from __future__ import annotations

from enum import StrEnum

from modelcache.core.types import LockedModel, set_digest


class PinChange(StrEnum):
    """How a pin compares with the earlier one of the same model; the value is printed in the last line of `lock`."""

    NEW = "new"
    MOVED = "moved"  # another commit
    CHANGED = "changed"  # the same commit, or a directory: other files or settings
    UNCHANGED = "unchanged"


def pin_change(old: LockedModel | None, new: LockedModel) -> PinChange:
    """Compare a pin with the earlier one, if there is one."""
    if old is None:
        return PinChange.NEW
    if old.commit != new.commit:
        return PinChange.MOVED
    return PinChange.UNCHANGED if old == new else PinChange.CHANGED


def same_files(old: LockedModel, new: LockedModel) -> bool:
    """Whether two pins publish the same bytes under the same names."""
    return set_digest(old.files) == set_digest(new.files)
