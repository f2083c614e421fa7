"""Pickled weights while a model is pinned: fetched once, converted once, and kept for `sync`.

Only whoever has converted a file knows what its pin is. So this is done under the model's lease, and what is known
already is looked up first: in an earlier lock, in the receipt of what is published, beside what others have kept.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import storage_errors
from modelcache.errors import IntegrityError
from modelcache.fetch import fetch
from modelcache.kept import kept_in, made_of, note_made
from modelcache.lease import Leases, Waiting
from modelcache.receipt import read_receipt
from modelcache.recipes import converted_name
from modelcache.records import Action, LockedFile, LockedModel, Made, Original, Step, WantedModel
from modelcache.space import refuse_if_short
from modelcache.supply import supply
from modelcache.tools import Tools
from modelcache.unpickle import convert


class Conversion:
    """Converts the pickles of one model; `known` are earlier pins of any models.

    One at a time in a process (`turn`): each compares the same free space with what it is going to write, and is told
    of on the same bar. A pickle's own segments travel side by side anyway.
    """

    def __init__(
        self, wanted: WantedModel, home: Path, tools: Tools, known: Sequence[LockedModel], turn: threading.Lock
    ) -> None:
        self._wanted = wanted
        self._home = home
        self._tools = tools
        self._known = known
        self._turn = turn

    def __call__(self, commit: str, pickle: Original) -> LockedFile:
        """Return the safetensors of a pickle as they will be published.

        Raises:
            PolicyError: it holds more than tensors.
            HubError, IntegrityError, StorageError: as `fetch`, for the pickle.

        """
        found = None
        while found is None:
            with storage_errors(f"convert {pickle.path} of {self._wanted.id}"):
                found = self._attempt(commit, pickle)
        size, sha256 = found
        return LockedFile(converted_name(pickle.path), size, sha256, Made.CONVERTED, pickle)

    def _attempt(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Return size in bytes and SHA-256 of what a pickle is converted to; None when the lease was lost."""
        with self._staging() as (staging, others, lost):
            earlier = [*self._known, *filter(None, [read_receipt(self._home)])]
            found = _found(pickle, earlier) or made_of(pickle.sha256, others)
            if found is not None:
                return found
            try:
                with self._turn:
                    return self._convert(commit, pickle, staging, others)
            except (OSError, IntegrityError):
                if not lost():
                    raise
                return None

    def _convert(self, commit: str, pickle: Original, staging: Path, others: Sequence[Path]) -> tuple[int, str]:
        """Fetch a pickle, convert it, and keep the result; return its size in bytes and its SHA-256."""
        wanted, voice = self._wanted, self._tools.voice
        refuse_if_short(staging, 2 * pickle.size)
        file = LockedFile(pickle.path, pickle.size, pickle.sha256)
        model = LockedModel(wanted.kind, wanted.id, wanted.revision, commit, (file,))
        step, began = Step(Action.FETCH, model, pickle.size), time.monotonic()
        voice.say("convert", f"{wanted.id}: {pickle.path} is fetched, to pin what it is converted to", model=wanted.id)
        voice.begin(step)
        source = supply(wanted, self._home, others, self._tools)
        tree = fetch(model, staging, source, jobs=self._tools.jobs, voice=voice)
        made = staging / "made"
        convert(tree / pickle.path, made, name=f"{wanted.id}: {pickle.path}")
        voice.end(step, time.monotonic() - began)
        size, sha256 = made.stat().st_size, sha256_of(made)
        os.rename(made, kept_in(staging, sha256))
        note_made(staging, pickle.sha256, sha256)
        shutil.rmtree(tree)
        return size, sha256

    @contextmanager
    def _staging(self) -> Iterator[tuple[Path, Sequence[Path], Callable[[], bool]]]:
        """Give a directory to work in, those of others, and whether it was taken away; a dry run leaves nothing."""
        if not self._tools.keeps:
            with tempfile.TemporaryDirectory(prefix="cache-models-") as folder:
                yield Path(folder), (), lambda: False
            return
        leases, waiting = Leases(self._home.parent), Waiting(self._tools.voice)
        while (lease := leases.take(self._home.name)) is None:
            waiting.wait(self._wanted.id)
        with lease:
            yield lease.staging, leases.others(self._home.name, lease), lease.lost


def _found(pickle: Original, models: Iterable[LockedModel]) -> tuple[int, str] | None:
    """Return what earlier pins say that a pickle was converted to."""
    for model in models:
        for file in model.files:
            if file.made is Made.CONVERTED and file.original and file.original.sha256 == pickle.sha256:
                return file.size, file.sha256
    return None
