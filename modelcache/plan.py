"""What to do about each model. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelcache.digests import distinct
from modelcache.records import Action, LockedModel, Step


def plan(model: LockedModel, difference: str | None, there: LockedModel | None) -> Step:
    """Decide on one model; `difference` is what `glance` said, `there` what the receipt says is on disk."""
    if difference is None:
        return Step(Action.KEEP, model)
    reusable = {file.sha256 for file in there.files} if there else set()
    size = sum(file.size for file in distinct(model.files) if file.sha256 not in reusable)
    return Step(Action.REPLACE if difference else Action.FETCH, model, size, difference)


def space_needed(steps: Iterable[Step], block: int) -> int:
    """Return the bytes that carrying out the steps takes at most, in whole blocks of the file system."""
    files = [file for step in steps if step.action is not Action.KEEP for file in step.model.files]
    rounding = sum(-file.size % block for file in files)
    return sum(step.size for step in steps) + rounding + block * (len(files) and len(files) + 16)


def count_actions(steps: Iterable[Step]) -> Mapping[Action, int]:
    """Return how many steps there are of each action."""
    counts = dict.fromkeys(Action, 0)
    for step in steps:
        counts[step.action] += 1
    return counts
