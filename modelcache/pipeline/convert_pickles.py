"""Pickled weights while a model is pinned: fetched, converted, and kept for `sync` where the run keeps files.

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
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class PickleConversion:
    """Converts the pickles of one model."""

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

    def __call__(self, commit: str, pickle: Original) -> LockedFile:
        """Return the safetensors of a pickle as they will be published; PolicyError if it holds more than tensors."""
        found = None
        while found is None:
            with storage_errors(f"convert {pickle.path} of {self.wanted.id}", place=self._place):
                found = self._look_up(commit, pickle) or self._convert_under_lease(commit, pickle)
        size, sha256 = found
        return LockedFile(converted_name(pickle.path), size, sha256, Made.CONVERTED, pickle)

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

    def _convert_under_lease(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Convert a pickle, unless another process has done so meanwhile; None when the lease was lost."""
        with self._staging() as (staging, others, lost):
            if found := self._look_up(commit, pickle):
                return found
            try:
                with self.turn:
                    return self._convert(commit, pickle, staging, others)
            except (OSError, IntegrityError):
                if not lost():
                    raise
                return None

    def _convert(self, commit: str, pickle: Original, staging: Path, others: Sequence[Path]) -> tuple[int, str]:
        """Fetch a pickle, convert it, and stage both; return the result's size in bytes and its SHA-256.

        The pickle is staged for a run that has to convert it again: after a failure, or at the same time.
        """
        from modelcache.convert.pickle_to_safetensors import convert  # few models need it

        wanted, context, reporter = self.wanted, self.context, self.context.reporter
        hint = f"Free some space, or choose another {self._place}."
        make_room(staging, 2 * pickle.size, sorted(others, key=has_staged), hint=hint)
        file = LockedFile(pickle.path, pickle.size, pickle.sha256)
        model = LockedModel(wanted.kind, wanted.id, wanted.revision, commit, (file,))
        step, began = Step(Action.CONVERT, model, pickle.size), time.monotonic()
        message = f"{wanted.id}: {pickle.path} is converted, to pin the result"
        reporter.event("convert", message, model=wanted.id)
        reporter.begin(step)
        tree = fetch(model, staging, others, context, reporter)
        converted = staging / "made"
        convert(tree / pickle.path, converted, name=f"{wanted.id}: {pickle.path}")
        reporter.end(step, time.monotonic() - began)
        size, sha256 = converted.stat().st_size, sha256_of(converted)
        os.rename(converted, staged_path(staging, sha256))
        os.rename(tree / pickle.path, staged_path(staging, pickle.sha256))
        remove_tree(tree)
        return size, sha256

    @contextmanager
    def _staging(self) -> Iterator[tuple[Path, Sequence[Path], Callable[[], bool]]]:
        """Yield a staging directory, those of others, and a test for its loss; one that is not kept is temporary."""
        if not self.context.keeps:
            with temporary_directory() as folder:
                yield folder, (), lambda: False
            return
        leases, waiting = Leases(self.home.parent), LeaseWait(self.context.reporter)
        while (lease := leases.take(self.home.name)) is None:
            waiting.wait(self.wanted.id)
        with lease:
            yield lease.staging, leases.other_stagings(self.home.name, lease), lease.lost


def _converted_from(pickle: Original, models: Iterable[LockedModel]) -> LockedFile | None:
    """Return the file that earlier pins say a pickle was converted to."""
    converted = (file for model in models for file in model.files if file.made is Made.CONVERTED)
    return next((file for file in converted if file.original and file.original.sha256 == pickle.sha256), None)
