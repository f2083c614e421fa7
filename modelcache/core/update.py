"""A newer commit of a pinned model, as `outdated` reports it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from modelcache.core.changes import Difference
from modelcache.core.kinds import Kind


class UpdateState(StrEnum):
    """How a pin compares with the newest commit."""

    CURRENT = "current"
    OUTDATED = "outdated"
    REFUSED = "refused"
    """The newest commit would not be shipped."""
    GONE = "gone"
    """The repository, or the branch, is not on the Hub any more."""
    DENIED = "denied"
    """The token may not read it."""
    DIRECTORY = "directory"
    """It comes from a directory."""
    NOT_PINNED = "not pinned"


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """The newest commit of one pinned model; commits are 40 hex digits, dates `2026-11-30`, each empty if not known."""

    kind: Kind
    id: str
    state: UpdateState
    commit: str = ""
    date: str = ""
    branch: str = ""
    """The branch that the pin is compared with: its own revision, or the default one for a tag or a commit."""
    newest: str = ""
    newest_date: str = ""
    difference: Difference | None = None
    """None where the newest commit was not compared with the pin."""
    reason: str = ""
    """Why it is refused, gone or denied, in one line."""
    renamed: str = ""
    """The id that the repository has now."""
    commit_is_gone: bool = False
    """Whether the pinned commit is not on the Hub any more, so that it cannot be fetched again."""
