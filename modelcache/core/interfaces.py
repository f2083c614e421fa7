"""Protocols: what a package asks of its caller, or of a package above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.plan import Step
from modelcache.core.types import FileSlice, ListedFile, Original

T = TypeVar("T")
Item = TypeVar("Item")


class StoppedError(Exception):
    """The request is cancelled: other work has failed, or the user has interrupted the run."""


class Reporter(Protocol):
    """Receives the progress of a run. The pipeline reports; only the command line decides what is printed where."""

    def event(self, name: str, text: str, /, **fields: object) -> None:
        """Report an event: its name and its text for people, its fields for programs."""

    def expect(self, name: str, size: int, models: int = 0) -> None:
        """Report how many bytes, and of how many models, are still to be written, hashed or sent.

        It is reported again when some models are done, and with 0 of both at the end.
        """

    def begin(self, step: Step) -> None:
        """Report that a model is about to be written."""

    def advance(self, count: int, *, found: bool = False) -> None:
        """Report `count` more bytes, of the model that was begun if one was; negative when some have to come again.

        `found` bytes were on this machine already, so they say nothing about a rate.
        """

    def end(self, step: Step, seconds: float) -> None:
        """Report that it is published."""

    def waiting(self, text: str, seconds: float) -> None:
        """Report for how long the run has been waiting for something; again and again until that is there."""


class Repository(Protocol):
    """The files of one commit, or of a directory, from which a model is made."""

    commit: str
    """40 hex digits; empty for a directory."""
    licence: str
    gated: bool
    files: Mapping[str, ListedFile]
    """Its listing, by path."""

    def read(self, file: ListedFile) -> bytes:
        """Return the content of a small file; it is requested once."""

    def part(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return a byte range of a file."""

    def pin(self, file: ListedFile) -> Original:
        """Return size and SHA-256 of a file."""

    def stop(self) -> None:
        """End every pause before a retry, because other work has failed."""


class Remote(Protocol):
    """A source of bytes that are nowhere on this machine."""

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Yield the bytes of a file from `start` up to, not including, `end`; requested once, without a retry."""


class PublishedModels(Protocol):
    """Published models to take instead of asking the Hub: of another root, or of an image.

    It is opened when it is first asked.
    """

    name: str
    """For messages: the place as a user may give it."""

    def expect(self, model_ids: Sequence[str]) -> None:
        """Tell which models will be asked for, so that layers of other models are not read."""

    def holds(self, kind: Kind, model_id: str) -> bool:
        """Whether a model has a directory there."""

    def receipt(self, kind: Kind, model_id: str) -> bytes:
        """Return the receipt of a model, which nothing vouches for but its place; empty where none is."""

    def file(self, kind: Kind, model_id: str, path: str) -> FileSlice | None:
        """Return where a file of a model may begin on this machine; its bytes are not checked."""

    def remote(self, kind: Kind, model_id: str) -> Remote | None:
        """Return the source of the files of a model that come over the network; None where all are on this machine.

        It is asked for files as they are published, by their paths.
        """

    def place_of(self, kind: Kind, model_id: str) -> str:
        """Return where the files of a model are, for messages."""

    def lack_of(self, model_ids: Sequence[str]) -> UsageError:
        """Return the error for models that it does not hold, with the reason."""


class ForEach(Protocol):
    """Does the same work for several items, possibly in parallel."""

    def __call__(self, work: Callable[[Item], T], items: Sequence[Item], stop: Callable[[], object], /) -> list[T]:
        """Return the results in the order of the items; the first failure calls `stop` and is raised."""
