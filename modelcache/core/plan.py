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
    LINK = "link"
    """The model is in place, and its Hub view is not."""
    FOUND = "found"
    """Another process has published it during this run. In no plan."""
    CONVERT = "convert"
    """A pickle is fetched and converted, to pin the result. In no plan."""
    READ = "read"
    """A pickle that is shipped as it is, is fetched and read, before it is pinned. In no plan."""


@dataclass(frozen=True, slots=True)
class Step:
    """The action for one model; `size` is the bytes to write."""

    action: Action
    model: LockedModel
    size: int = 0
    reason: str = ""
    hub_view: bool = True
    """Whether the model has its Hub view afterwards; False after a run that could not write one."""

    @property
    def in_place(self) -> bool:
        """Whether the model itself needs nothing."""
        return self.action in (Action.KEEP, Action.LINK)


def plan(
    model: LockedModel,
    reason: str | None,
    reusable: Collection[str] = (),
    *,
    at_hand: bool = False,
    view: str | None = None,
) -> Step:
    """Return the step for one model.

    `reason` says why the model is not in place; it is None if it is in place, and empty if nothing is there.
    `reusable` are the SHA-256 of the files on disk that need not be written again; `at_hand` says that no file has to
    be fetched. `view` says how the Hub view of a model in place differs from its pin; it is None if it does not.
    """
    if reason is None:
        return Step(Action.KEEP, model) if view is None else Step(Action.LINK, model, reason=f"Hub view: {view}")
    missing = [file for file in distinct(model.files) if file.sha256 not in reusable]
    # The original of a derived file is on disk at the same time.
    size = sum(file.size + (file.original.size if file.made and file.original else 0) for file in missing)
    action = Action.REPLACE if reason else Action.COPY if at_hand else Action.FETCH
    return Step(action, model, size, reason)


def space_needed(steps: Sequence[Step], block: int) -> int:
    """Return the most bytes that the steps can take, in whole blocks of the file system."""
    files = [file for step in steps if not step.in_place for file in step.model.files]
    rounding = sum(-file.size % block for file in files)
    # Beside its content a file may take a block for metadata, and one for its link in the Hub view.
    return sum(step.size for step in steps) + rounding + block * (len(files) and 2 * len(files) + 16)


def distinct(files: Iterable[LockedFile]) -> list[LockedFile]:
    """Return one file for each content, small ones first, so that they do not wait behind a gigabyte.

    Of files with equal bytes, one from a repository comes before one that would have to be derived.
    """
    one = {file.sha256: file for file in sorted(files, key=lambda file: file.made is None)}
    return sorted(one.values(), key=lambda file: (file.size, file.path))
