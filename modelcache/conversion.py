"""Pickled weights while a model is pinned: fetched once, converted once, and kept for `sync`.

Only whoever has converted a file knows what its pin is. So what is known already is looked up first: in an earlier
lock, in the receipt of what is published, beside what others have kept. The rest is done under the model's lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import storage_errors
from modelcache.errors import IntegrityError
from modelcache.fetch import fetch
from modelcache.kept import holds_kept, keep_made, made_of
from modelcache.lease import Leases, Waiting
from modelcache.receipt import read_receipt
from modelcache.recipes import converted_name
from modelcache.records import Action, LockedFile, LockedModel, Made, Original, Step, WantedModel
from modelcache.scratch import scratch
from modelcache.space import make_room
from modelcache.supply import supply
from modelcache.tools import Tools
from modelcache.trees import remove_tree


class Conversion:
    """Converts the pickles of one model; `known` are earlier pins of any models, which are believed as they are.

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
                found = self._look_up(pickle) or self._make(commit, pickle)
        size, sha256 = found
        return LockedFile(converted_name(pickle.path), size, sha256, Made.CONVERTED, pickle)

    def _look_up(self, pickle: Original) -> tuple[int, str] | None:
        """Return what is known already, for which nothing has to be written.

        What this root has is believed when it has the bytes, too: then it can be published here, whichever version
        of this tool has converted it.
        """
        if known := _converted_from(pickle, self._known):
            return known.size, known.sha256
        receipt = read_receipt(self._home)
        if receipt and (published := _converted_from(pickle, [receipt])):
            with suppress(OSError):
                path = self._home / published.path
                if sha256_of(path) == published.sha256:
                    return path.stat().st_size, published.sha256
        return made_of(pickle.sha256, Leases(self._home.parent).stagings().get(self._home.name, []))

    def _make(self, commit: str, pickle: Original) -> tuple[int, str] | None:
        """Convert a pickle, unless somebody has done it while the lease was theirs; None when the lease was lost."""
        with self._staging() as (staging, others, lost):
            if found := self._look_up(pickle):
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
        from modelcache.unpickle import convert  # few models need it

        wanted, voice = self._wanted, self._tools.voice
        make_room(staging, 2 * pickle.size, sorted(others, key=holds_kept))
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
        found = keep_made(made, pickle.sha256)
        remove_tree(tree)
        return found

    @contextmanager
    def _staging(self) -> Iterator[tuple[Path, Sequence[Path], Callable[[], bool]]]:
        """Give a directory to work in, those of others, and whether it was taken away; a dry run leaves nothing."""
        if not self._tools.keeps:
            with scratch() as folder:
                yield folder, (), lambda: False
            return
        leases, waiting = Leases(self._home.parent), Waiting(self._tools.voice)
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
