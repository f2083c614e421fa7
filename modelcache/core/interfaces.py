"""The seams: protocols that rooms below expect and rooms above implement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from modelcache.core.plan import Step
from modelcache.core.types import ListedFile, Original

T = TypeVar("T")
Item = TypeVar("Item")


class StoppedError(Exception):
    """Other work has failed, or the user has interrupted the run; this request is of no use any more."""


class Reporter(Protocol):
    """Who tells people what is going on. Steps speak; only the command line decides where it goes."""

    def event(self, event: str, text: str, **fields: object) -> None:
        """Tell one thing that happened."""

    def begin(self, step: Step) -> None:
        """Tell that a model is about to be written."""

    def advance(self, count: int) -> None:
        """`count` more bytes of it are on disk; negative when some have to be written again."""

    def end(self, step: Step, seconds: float) -> None:
        """Tell that it is published."""


class Repository(Protocol):
    """Where files are read that a model is made of."""

    commit: str
    """40 hex digits; empty for a directory."""
    licence: str
    files: Mapping[str, ListedFile]
    """What it lists, by path."""

    def read(self, file: ListedFile) -> bytes:
        """Return a small file, asked for once."""

    def part(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return some bytes of a file."""

    def pin(self, file: ListedFile) -> Original:
        """Say which bytes a file has."""

    def stop(self) -> None:
        """End every pause before another try: somebody else has failed."""


class Remote(Protocol):
    """Where bytes come from that are nowhere on this machine."""

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Give the bytes of a file from `start` up to, not including, `end`; asked once, without a retry."""


class ForEach(Protocol):
    """Does the same work for several items, perhaps several at a time."""

    def __call__(self, work: Callable[[Item], T], items: Sequence[Item], stop: Callable[[], object], /) -> list[T]:
        """Return the results in the order of the items; the first failure calls `stop` and is raised."""
