"""Pickles while a model is pinned: fetched, converted or read, and kept for `sync` where the run keeps files.

Weights are converted. A pickle that `include` names is shipped as it is, after it was read: it holds tensors alone.

The Hub knows the hash of a pickle; the hash of its safetensors is known after a conversion only. So the pin comes from
a conversion in this process, or from an earlier lock, which the user vouches for. With a lock, no file of the root
decides (without one the receipt is the pin), since the root may be a shared volume or a cloned repository: a kept
pickle is used when its hash is the Hub's, and kept tensors when their hash is a lock's. The work is done under the
model's lease.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from modelcache.core.errors import IntegrityError
from modelcache.core.plan import Action, Step
from modelcache.core.types import LockedFile, LockedModel, Made, Original, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.fetch import fetch
from modelcache.resolver.derived import converted_name
from modelcache.store.layout import read_receipt
from modelcache.store.leases import Leases, LeaseWait
from modelcache.store.space import make_room
from modelcache.system.files import sha256_of, storage_errors
from modelcache.system.remove_tree import remove_tree, temporary_directory
from modelcache.transfer.staged_files import has_staged, is_staged, staged_path

T = TypeVar("T")

_PURPOSES = {
    Action.CONVERT: "is converted, to pin the result",
    Action.READ: "is read before it is pinned, as a pickle may hold more than tensors",
}


@dataclass(frozen=True, slots=True)
class Pickles:
    """The pickles of one model."""

    wanted: WantedModel
    home: Path
    context: RunContext
    pins: Sequence[LockedModel]
    """Of an earlier lock, of any models: their conversions need not be done again."""
    only_at_hand: bool
    """Whether such a pin counts only where its bytes are: another version of this tool may have made them."""
    receipts: bool
    """Whether the receipt of the published model is the pin, as for `sync` without a lock; another process may have
    published it while it had the lease."""
    turn: threading.Lock
    """One at a time in a process: all compare their needs with the same free space, and share one progress bar. A
    pickle's own segments are fetched side by side anyway."""

    @property
    def _place(self) -> str:
        """The setting that decides where a pickle is converted."""
        return "--root" if self.context.keeps else "TMPDIR"

    def convert(self, commit: str, pickle: Original) -> LockedFile:
        """Return the safetensors of a pickle as they will be published; PolicyError if it holds more than tensors."""
        known, work = partial(self._look_up, commit, pickle), partial(self._convert, commit, pickle)
        size, sha256 = self._until_known(known, work, f"convert {pickle.path} of {self.wanted.id}")
        return LockedFile(converted_name(pickle.path), size, sha256, Made.CONVERTED, pickle)

    def read(self, commit: str, pickle: Original) -> None:
        """Read a pickle that is shipped as it is; PolicyError if it holds more than tensors."""
        known, work = partial(self._was_read, commit, pickle), partial(self._read, commit, pickle)
        self._until_known(known, work, f"read {pickle.path} of {self.wanted.id}")

    def _until_known(self, known: Callable[[], T | None], work: Callable[[Path, Sequence[Path]], T], doing: str) -> T:
        """Return what is known, or do the work under the lease; again, where the lease was lost."""
        found = None
        while not found:
            with storage_errors(doing, place=self._place):
                found = known() or self._under_lease(known, work)
        return found

    def _was_read(self, commit: str, pickle: Original) -> bool:
        """Whether an earlier pin has a pickle as it is, so that it was read for that pin."""
        receipt = read_receipt(self.home) if self.receipts else None
        counts = receipt and receipt.commit == commit and receipt.fits(self.wanted)
        pins = (*self.pins, *([receipt] if receipt and counts else []))
        files = (file for pin in pins for file in pin.files if file.path in pin.pickles)
        return any(file.sha256 == pickle.sha256 for file in files)

    def _look_up(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Return size and SHA-256 of the result where they are known already."""
        known = _converted_from(pickle, self.pins)
        if known and (not self.only_at_hand or self._has(known)):
            return known.size, known.sha256
        receipt = read_receipt(self.home) if self.receipts else None
        if receipt and receipt.commit == commit and receipt.fits(self.wanted):
            published = _converted_from(pickle, [receipt])
            return (published.size, published.sha256) if published else None
        return None

    def _has(self, file: LockedFile) -> bool:
        """Whether this root has the bytes of a converted file, published or staged."""
        stagings = Leases(self.home.parent).stagings_of(self.home.name)
        staged = [staged_path(staging, file.sha256) for staging in stagings]
        return is_staged(file.sha256, file.size, [self.home / file.path, *staged])

    def _under_lease(self, known: Callable[[], T | None], work: Callable[[Path, Sequence[Path]], T]) -> T | None:
        """Do the work, unless another process has done so meanwhile; None when the lease was lost."""
        with self._staging() as (staging, others, lost):
            if found := known():
                return found
            try:
                with self.turn:
                    return work(staging, others)
            except (OSError, IntegrityError):
                if not lost():
                    raise
                return None

    def _convert(self, commit: str, pickle: Original, staging: Path, others: Sequence[Path]) -> tuple[int, str]:
        """Fetch a pickle, convert it, and stage both; return the result's size in bytes and its SHA-256.

        The pickle is staged for a run that has to convert it again: after a failure, or at the same time.
        """
        from modelcache.convert.pickle_to_safetensors import convert  # few models need it

        make_room(staging, 2 * pickle.size, sorted(others, key=has_staged), hint=self._room_hint)
        converted = staging / "made"
        with self._fetched(Action.CONVERT, commit, pickle, staging, others) as source:
            convert(source, converted, name=f"{self.wanted.id}: {pickle.path}")
        size, sha256 = converted.stat().st_size, sha256_of(converted)
        os.rename(converted, staged_path(staging, sha256))
        return size, sha256

    def _read(self, commit: str, pickle: Original, staging: Path, others: Sequence[Path]) -> bool:
        """Fetch a pickle, read it and stage it."""
        from modelcache.convert.pickle_to_safetensors import refuse_more_than_tensors  # few models need it

        make_room(staging, pickle.size, sorted(others, key=has_staged), hint=self._room_hint)
        with self._fetched(Action.READ, commit, pickle, staging, others) as source:
            refuse_more_than_tensors(source, name=f"{self.wanted.id}: {pickle.path}")
        return True

    @property
    def _room_hint(self) -> str:
        return f"Free some space, or choose another {self._place}."

    @contextmanager
    def _fetched(
        self, action: Action, commit: str, pickle: Original, staging: Path, others: Sequence[Path]
    ) -> Iterator[Path]:
        """Yield a pickle that has been fetched; stage it afterwards."""
        wanted, reporter = self.wanted, self.context.reporter
        model = LockedModel(
            wanted.kind, wanted.id, wanted.revision, commit, (LockedFile(pickle.path, pickle.size, pickle.sha256),)
        )
        step, began = Step(action, model, pickle.size), time.monotonic()
        reporter.event(str(action), f"{wanted.id}: {pickle.path} {_PURPOSES[action]}", model=wanted.id)
        reporter.begin(step)
        tree = fetch(model, staging, others, self.context, reporter)
        yield tree / pickle.path
        reporter.end(step, time.monotonic() - began)
        os.rename(tree / pickle.path, staged_path(staging, pickle.sha256))
        remove_tree(tree)

    @contextmanager
    def _staging(self) -> Iterator[tuple[Path, Sequence[Path], Callable[[], bool]]]:
        """Yield a staging directory, those of others, and a test for its loss; one that is not kept is temporary."""
        if not self.context.keeps:
            with temporary_directory() as folder:
                yield folder, (), lambda: False
            return
        leases, waiting = Leases(self.home.parent), LeaseWait(self.context.reporter)
        while (lease := leases.take(self.home.name)) is None:
            waiting.wait(lambda: self.wanted.id)
        with lease:
            yield lease.staging, leases.other_stagings(self.home.name, lease), lease.lost


def _converted_from(pickle: Original, models: Iterable[LockedModel]) -> LockedFile | None:
    """Return the file that earlier pins say a pickle was converted to."""
    converted = (file for model in models for file in model.files if file.made is Made.CONVERTED)
    return next((file for file in converted if file.original and file.original.sha256 == pickle.sha256), None)
