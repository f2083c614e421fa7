"""Which pin holds for each wanted model: the lock's, the receipt's, or one that the Hub is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Executor
from pathlib import Path

from modelcache.conversion import Conversion, Known
from modelcache.disk import storage_errors
from modelcache.environment import in_hf_cache
from modelcache.errors import CacheModelsError, HubUnreachableError, LockfileError, UsageError, raise_all
from modelcache.kept import Kept
from modelcache.layout import Places
from modelcache.publish import refuse_linked_state
from modelcache.receipt import read_receipt
from modelcache.records import Kind, ListedFile, LockedModel, WantedModel
from modelcache.repository import DirectoryRepository, HubRepository
from modelcache.resolve import Means, Repository, Resolved, resolve
from modelcache.threads import Pool
from modelcache.tools import Tools

_TOGETHER = 4


def held_pins(
    wanted: Iterable[WantedModel], locked: Sequence[LockedModel] | None, receipts: Places | None
) -> dict[WantedModel, LockedModel]:
    """Return the pins that hold with no question to the Hub: the lock's first, then what the receipts say.

    Raises:
        StorageError: a receipt cannot be read.

    """
    by_name = {(model.kind, model.id): model for model in locked or ()}
    pins = {}
    for model in wanted:
        pin = by_name.get((model.kind, model.id))
        if pin is None and receipts is not None:
            home = receipts.home(model.kind, model.id)
            with storage_errors(f"read {home}"):
                pin = read_receipt(home)
        if pin is not None and pin.answers(model):
            pins[model] = pin
    return pins


def resolve_all(wanted: Sequence[WantedModel], tools: Tools, known: Known) -> dict[WantedModel, Resolved]:
    """Pin models anew, several at a time, and tell the notes about them.

    `known` is what is believed of earlier conversions of pickles.

    Raises:
        CacheModelsError: of every model that could not be pinned; after a Hub that does not answer no more is begun.

    """
    if tools.keeps:
        refuse_linked_state(tools.places.collections.values())
    resolved, errors, turn, silent = {}, [], threading.Lock(), threading.Event()
    with Pool(tools.jobs, "resolve") as files, Pool(min(_TOGETHER, tools.jobs), "model") as pool:

        def resolved_of(model: WantedModel) -> Resolved:
            if silent.is_set():
                raise CancelledError
            try:
                return resolve_one(model, tools, known, turn, files)
            except HubUnreachableError:  # the next model would meet the same
                silent.set()
                raise

        begun = [(model, pool.submit(resolved_of, model)) for model in wanted]
        for model, future in begun:
            try:
                resolved[model] = future.result()
            except CancelledError:
                continue
            except CacheModelsError as error:
                errors.append(error)
    raise_all(errors)
    for model, one in resolved.items():
        for note in one.notes:
            tools.voice.say("note", f"{model.id}: {note}", model=model.id)
    return resolved


def resolve_one(wanted: WantedModel, tools: Tools, known: Known, turn: threading.Lock, files: Executor) -> Resolved:
    """Pin one model of the Hub, or out of a directory."""
    home = tools.places.home(wanted.kind, wanted.id)
    kept = Kept(home)
    left = kept.files()  # by others: what this run keeps it has read already

    def open_repository(name: str, revision: str) -> Repository:
        def ours(file: ListedFile) -> Iterable[Path]:
            return [*([home / file.path] if name == wanted.id else []), *left]

        def near(file: ListedFile) -> Iterable[Path]:
            return in_hf_cache(name, file.sha256 or file.blob_id)

        return HubRepository(name, revision, tools.connect(), ours, near, kept.keep if tools.keeps else _forget)

    means = Means(open_repository, Conversion(wanted, home, tools, known, turn), files)
    if wanted.path is None:
        return resolve(wanted, open_repository(wanted.id, wanted.revision), means)
    source = tools.source_of(wanted)
    with storage_errors(f"read {source}"):
        return resolve(wanted, DirectoryRepository(wanted.id, source), means)


def _forget(sha256: str, content: bytes) -> None:
    """Keep nothing."""


def refuse_stale_lock(wanted: Sequence[WantedModel], locked: Sequence[LockedModel] | None, name: str) -> None:
    """Check that the lock is there and says what the manifest asks for, no more and no less.

    Raises:
        LockfileError: with every difference.

    """
    hint = "Run `python cache_models.py lock` and commit the result."
    if locked is None:
        raise LockfileError(f"there is no {name}", hint=hint)
    pins = held_pins(wanted, locked, None)
    lacking = [f"{model.id} ({model.kind}) is not pinned as models.toml asks" for model in wanted if model not in pins]
    names = {(model.kind, model.id) for model in wanted}
    surplus = [f"{m.id} ({m.kind}) is pinned and no longer wanted" for m in locked if (m.kind, m.id) not in names]
    if lacking or surplus:
        raise LockfileError(f"{name} does not fit the manifest:\n  " + "\n  ".join(lacking + surplus), hint=hint)


def pins_of_root(wanted: Sequence[WantedModel], root: Places) -> dict[WantedModel, LockedModel]:
    """Take the pins from the receipts of another root.

    Raises:
        UsageError: naming the models that it does not have.

    """
    pins = held_pins(wanted, None, root)
    if lacking := [model.id for model in wanted if model not in pins]:
        where = root.collections[Kind.EMBEDDING].parent
        raise UsageError(
            f"not in {where}: {', '.join(lacking)}",
            hint="--from takes a root that holds the wanted models, each with its receipt.",
        )
    return pins
