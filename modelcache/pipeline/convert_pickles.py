"""Pickled weights while a model is pinned: fetched once, converted, and kept for `sync`.

The Hub knows the hash of a pickle, and only a conversion tells the hash of what comes out of it. So a pin is what this
process converted, or what an earlier lock says, which is the user's own word. With a lock, nothing that lies in the
root has a say (without one the receipt is the pin), since the root may be a shared volume or a cloned repository: a
kept pickle is used when its hash is the Hub's, and kept tensors when their hash is a lock's. The work is done under the
model's lease.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.errors import IntegrityError
from modelcache.core.plan import Action, Step
from modelcache.core.types import LockedFile, LockedModel, Made, Original, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.file_locations import locations_of
from modelcache.resolver.derived import converted_name
from modelcache.store.leases import Leases, Waiting
from modelcache.store.receipts import read_receipt
from modelcache.store.space import make_room
from modelcache.system.files import sha256_of, storage_errors
from modelcache.system.tempdirs import temporary_directory
from modelcache.system.trees import remove_tree
from modelcache.transfer.download import download
from modelcache.transfer.staged_files import has_staged, is_staged, staged_path


@dataclass(frozen=True, slots=True)
class Known:
    """Earlier conversions that count as known."""

    pins: Sequence[LockedModel] = ()
    """Of an earlier lock, of any models."""
    at_hand: bool = False
    """Whether a pin counts only where its bytes are: the version of this tool that made them may be gone."""
    receipts: bool = False
    """Whether the receipt of what is published is the pin, as it is for `sync` without a lock; it may have come while
    another process had the lease."""


class Conversion:
    """Converts the pickles of one model.

    One at a time in a process (`turn`): each compares the same free space with what it is going to write, and is told
    of on the same bar. A pickle's own segments travel side by side anyway.
    """

    def __init__(
        self, wanted: WantedModel, home: Path, context: RunContext, known: Known, turn: threading.Lock
    ) -> None:
        self._wanted = wanted
        self._home = home
        self._context = context
        self._known = known
        self._turn = turn

    def __call__(self, commit: str, pickle: Original) -> LockedFile:
        """Return the safetensors of a pickle as they will be published.

        Raises:
            PolicyError: it holds more than tensors.
            HubError, IntegrityError, StorageError: as `download`, for the pickle.

        """
        found = None
        while found is None:
            with storage_errors(f"convert {pickle.path} of {self._wanted.id}"):
                found = self._look_up(commit, pickle) or self._make(commit, pickle)
        size, sha256 = found
        return LockedFile(converted_name(pickle.path), size, sha256, Made.CONVERTED, pickle)

    def _look_up(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Return what is known already, for which nothing has to be written."""
        known = _converted_from(pickle, self._known.pins)
        if known and (not self._known.at_hand or self._has(known)):
            return known.size, known.sha256
        receipt = read_receipt(self._home) if self._known.receipts else None
        if receipt and receipt.commit == commit and receipt.answers(self._wanted):
            published = _converted_from(pickle, [receipt])
            return (published.size, published.sha256) if published else None
        return None

    def _has(self, file: LockedFile) -> bool:
        """Whether this root has the bytes of a converted file, published or kept."""
        stagings = Leases(self._home.parent).stagings().get(self._home.name, [])
        return is_staged(
            file.sha256, file.size, [self._home / file.path, *(staged_path(one, file.sha256) for one in stagings)]
        )

    def _make(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Convert a pickle, unless somebody has done it while the lease was theirs; None when the lease was lost."""
        with self._staging() as (staging, others, lost):
            if found := self._look_up(commit, pickle):
                return found
            try:
                with self._turn:
                    return self._convert(commit, pickle, staging, others)
            except (OSError, IntegrityError):
                if not lost():
                    raise
                return None

    def _convert(self, commit: str, pickle: Original, staging: Path, others: Sequence[Path]) -> tuple[int, str]:
        """Fetch a pickle, convert it, and keep both; return the result's size in bytes and its SHA-256.

        The pickle is kept for a run that has to convert it again: after a failure, or beside this one.
        """
        from modelcache.convert.pickle_to_safetensors import convert  # few models need it

        wanted, reporter = self._wanted, self._context.reporter
        make_room(staging, 2 * pickle.size, sorted(others, key=has_staged))
        file = LockedFile(pickle.path, pickle.size, pickle.sha256)
        model = LockedModel(wanted.kind, wanted.id, wanted.revision, commit, (file,))
        step, began = Step(Action.FETCH, model, pickle.size), time.monotonic()
        reporter.event(
            "convert", f"{wanted.id}: {pickle.path} is fetched, to pin what it is converted to", model=wanted.id
        )
        reporter.begin(step)
        source = locations_of(wanted, self._home, others, self._context)
        tree = download(model, staging, source, jobs=self._context.jobs, reporter=reporter)
        made = staging / "made"
        convert(tree / pickle.path, made, name=f"{wanted.id}: {pickle.path}")
        reporter.end(step, time.monotonic() - began)
        size, sha256 = made.stat().st_size, sha256_of(made)
        os.rename(made, staged_path(staging, sha256))
        os.rename(tree / pickle.path, staged_path(staging, pickle.sha256))
        remove_tree(tree)
        return size, sha256

    @contextmanager
    def _staging(self) -> Iterator[tuple[Path, Sequence[Path], Callable[[], bool]]]:
        """Give a directory to work in, those of others, and whether it was taken away; a dry run leaves nothing."""
        if not self._context.keeps:
            with temporary_directory() as folder:
                yield folder, (), lambda: False
            return
        leases, waiting = Leases(self._home.parent), Waiting(self._context.reporter)
        while (lease := leases.take(self._home.name)) is None:
            waiting.wait(self._wanted.id)
        with lease:
            yield lease.staging, leases.others(self._home.name, lease), lease.lost


def _converted_from(pickle: Original, models: Iterable[LockedModel]) -> LockedFile | None:
    """Return the file that earlier pins say a pickle was converted to."""
    for model in models:
        for file in model.files:
            if file.made is Made.CONVERTED and file.original and file.original.sha256 == pickle.sha256:
                return file
    return None
