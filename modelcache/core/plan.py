"""What to do about each model. Values in, values out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelcache.core.types import LockedFile, LockedModel


def plan(model: LockedModel, reason: str | None, reusable: Collection[str] = ()) -> Step:
    """Decide on one model.

    `reason` is why it is not in place: None when it is, empty when nothing is there. `reusable` are the SHA-256 of
    the files on disk that need not be written again.
    """
    if reason is None:
        return Step(Action.KEEP, model)
    lacking = [file for file in distinct(model.files) if file.sha256 not in reusable]
    # What a file is made from lies beside it for a moment.
    size = sum(file.size + (file.original.size if file.made and file.original else 0) for file in lacking)
    return Step(Action.REPLACE if reason else Action.FETCH, model, size, reason)


def space_needed(steps: Sequence[Step], block: int) -> int:
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


def distinct(files: Iterable[LockedFile]) -> list[LockedFile]:
    """Return one file for each content, small ones first: they are not to wait behind a gigabyte.

    Of files with equal bytes one that a repository has comes before one that would have to be made.
    """
    one = {file.sha256: file for file in sorted(files, key=lambda file: file.made is None)}
    return sorted(one.values(), key=lambda file: (file.size, file.path))


class Action(StrEnum):
    """What `sync` does about one model; the value is the word it prints."""

    KEEP = "keep"
    FETCH = "fetch"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the plan; `size` is what is to be written, in bytes."""

    action: Action
    model: LockedModel
    size: int = 0
    reason: str = ""
