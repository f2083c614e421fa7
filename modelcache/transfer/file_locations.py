"""Where the files of a model may be had: on this machine, from the Hub, or from a registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.interfaces import Remote
from modelcache.core.types import FileSlice, LockedFile, Original


@dataclass(frozen=True, slots=True)
class FileLocations:
    """Where the files of one model may be."""

    previous: Path | None = None
    """The directory that is being replaced."""
    stagings: Sequence[Path] = ()
    """Staging directories of dead processes, or of `lock`."""
    finished: Callable[[LockedFile], Iterable[FileSlice]] = lambda file: ()
    """Complete files on this machine that may be this one as it is published."""
    originals: Callable[[Original], Iterable[FileSlice]] = lambda original: ()
    """Complete files on this machine that may be this one as its repository has it."""
    remote: Remote | None = None
    """The Hub."""
    published: Remote | None = None
    """Another place on the network, which has the files as they are published."""
    origin: str = ""
    """The directory or image that files without a remote come from; named in errors."""


def originals_of(staging: Path) -> Path:
    """Return the directory of the originals that files of the model are made from, each named by its SHA-256."""
    return staging / "originals"
