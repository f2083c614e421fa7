"""The plan of a sync: one step for each model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelcache.core.types import LockedFile, LockedModel


class Action(StrEnum):
    """The action for one model; the value is printed.

    A plan of `sync` has FETCH or COPY by the files that seem to be on this machine. After the run a step has the action
    that was taken.
    """

    KEEP = "keep"
    FETCH = "fetch"
    """At least one file comes from the Hub."""
    COPY = "copy"
    """Every byte comes from this machine: another root, a directory, the Hugging Face cache, files kept by `lock`."""
    REPLACE = "replace"
    """Another version, or a damaged one, was there; its files may be a part of the new one."""
    FOUND = "found"
    """Another process has published it during this run. In no plan."""
    CONVERT = "convert"
    """A pickle is fetched and converted, to pin the result. In no plan."""


@dataclass(frozen=True, slots=True)
class Step:
    """The action for one model; `size` is the bytes to write."""

    action: Action
    model: LockedModel
    size: int = 0
    reason: str = ""


def plan(model: LockedModel, reason: str | None, reusable: Collection[str] = (), *, at_hand: bool = False) -> Step:
    """Return the step for one model.

    `reason` says why the model is not in place; it is None if it is in place, and empty if nothing is there.
    `reusable` are the SHA-256 of the files on disk that need not be written again; `at_hand` says that no file has to
    be fetched.
    """
    if reason is None:
        return Step(Action.KEEP, model)
    missing = [file for file in distinct(model.files) if file.sha256 not in reusable]
    # The original of a derived file is on disk at the same time.
    size = sum(file.size + (file.original.size if file.made and file.original else 0) for file in missing)
    action = Action.REPLACE if reason else Action.COPY if at_hand else Action.FETCH
    return Step(action, model, size, reason)


def space_needed(steps: Sequence[Step], block: int) -> int:
    """Return the most bytes that the steps can take, in whole blocks of the file system."""
    files = [file for step in steps if step.action is not Action.KEEP for file in step.model.files]
    rounding = sum(-file.size % block for file in files)
    return sum(step.size for step in steps) + rounding + block * (len(files) and len(files) + 16)


def distinct(files: Iterable[LockedFile]) -> list[LockedFile]:
    """Return one file for each content, small ones first, so that they do not wait behind a gigabyte.

    Of files with equal bytes, one from a repository comes before one that would have to be derived.
    """
    one = {file.sha256: file for file in sorted(files, key=lambda file: file.made is None)}
    return sorted(one.values(), key=lambda file: (file.size, file.path))
