"""Which pin holds for each wanted model: the lock's, the receipt's, or one that the Hub is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Executor
from functools import partial
from pathlib import Path

from modelcache.core.errors import CacheModelsError, HubUnreachableError, raise_all
from modelcache.core.interfaces import Repository, StoppedError
from modelcache.core.types import ListedFile, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.convert_pickles import Conversion, Known
from modelcache.resolver.resolve import ResolveContext, Resolved, resolve
from modelcache.sources.directory import DirectoryRepository
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.sources.hub_repository import HubRepository
from modelcache.store.publish import refuse_linked_state
from modelcache.system.files import storage_errors
from modelcache.system.threads import Pool, map_until_failure
from modelcache.transfer.staged_files import StagedFiles

_TOGETHER = 4


def resolve_all(wanted: Sequence[WantedModel], context: RunContext, known: Known) -> dict[WantedModel, Resolved]:
    """Pin models anew, several at a time, and tell the notes about them.

    `known` is what is believed of earlier conversions of pickles.

    Raises:
        CacheModelsError: of every model that could not be pinned; after a Hub that does not answer no more is begun.

    """
    if context.keeps:
        refuse_linked_state(context.places.collections.values())
    resolved, errors, turn, silent = {}, [], threading.Lock(), threading.Event()
    with Pool(context.jobs, "resolve") as files, Pool(min(_TOGETHER, context.jobs), "model") as pool:

        def resolved_of(model: WantedModel) -> Resolved:
            if silent.is_set():
                raise CancelledError
            try:
                return resolve_one(model, context, known, turn, files)
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
            context.reporter.event("note", f"{model.id}: {note}", model=model.id)
    return resolved


def resolve_one(
    wanted: WantedModel, context: RunContext, known: Known, turn: threading.Lock, files: Executor
) -> Resolved:
    """Pin one model of the Hub, or out of a directory."""
    home = context.places.home(wanted.kind, wanted.id)
    kept = StagedFiles(home)
    left = kept.files()  # by others: what this run keeps it has read already

    def open_repository(name: str, revision: str) -> Repository:
        def ours(file: ListedFile) -> Iterable[Path]:
            return [*([home / file.path] if name == wanted.id else []), *left]

        def near(file: ListedFile) -> Iterable[Path]:
            return in_hf_cache(name, file.sha256 or file.blob_id)

        return HubRepository(name, revision, context.connect(), ours, near, kept.keep if context.keeps else _forget)

    for_each = partial(map_until_failure, files, after=StoppedError)
    dependencies = ResolveContext(open_repository, Conversion(wanted, home, context, known, turn), for_each)
    if wanted.path is None:
        return resolve(wanted, open_repository(wanted.id, wanted.revision), dependencies)
    source = context.source_of(wanted)
    with storage_errors(f"read {source}"):
        return resolve(wanted, DirectoryRepository(wanted.id, source), dependencies)


def _forget(sha256: str, content: bytes) -> None:
    """Keep nothing."""
