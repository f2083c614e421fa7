"""The state of a model in a root, as `status` reports it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from modelcache.core.kinds import Kind


class State(StrEnum):
    """The words that the state of a model begins with."""

    READY = "ready"
    ABSENT = "absent"
    PARTLY_FETCHED = "partly fetched"
    OTHER_VERSION = "other version"
    DAMAGED = "damaged"
    NOT_WANTED = "not wanted"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The state of one model, or of a directory that holds none (then without id)."""

    kind: Kind
    id: str
    path: Path
    state: State
    commit: str = ""
    """By its pin, else by its receipt; empty if neither is there, and for a model from a directory."""
    size: int = 0
    found_commit: str = ""
    """By the receipt that is there."""
    differences: tuple[str, ...] = ()
    """How it differs from what is wanted, in a few words each."""
    fetched: int = 0
    """Bytes of it in staging directories: of a run that goes on, or of one that was killed."""
    to_fetch: int = 0
    """Bytes that were to be fetched in all; 0 where no run has begun, or where no pin says so."""
    hub_view: bool = False
    """Whether programs find it by its id in the Hub view."""
    fetching: bool = False
    """Whether another process is fetching it now."""
