"""Pin wanted models anew: ask the Hub, or read their directories, and convert pickles to know their hashes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modelcache.core.errors import CacheModelsError, HubUnreachableError, raise_all
from modelcache.core.interfaces import Repository
from modelcache.core.types import ListedFile, LockedModel, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.pickles import Pickles
from modelcache.resolver.resolve import ResolveContext, Resolved, detect_kind, resolve
from modelcache.sources.directory import DirectoryRepository
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.sources.hub_repository import HubRepository
from modelcache.store.publish import refuse_linked_state
from modelcache.system.files import storage_errors
from modelcache.system.threads import Pool, map_until_failure
from modelcache.transfer.staged_files import StagedFiles

_MODELS_AT_ONCE = 4


def resolve_all(
    wanted: Sequence[WantedModel],
    context: RunContext,
    locked: Sequence[LockedModel] | None,
    *,
    upgrade: bool = False,
    detect: Collection[WantedModel] = (),
) -> dict[WantedModel, Resolved]:
    """Pin models anew, several at a time, and report the notes about them.

    The kind of a model in `detect` is read from its repository; its pin has it.
    A pickle is not converted again if an earlier lock has the hash of its result; with `upgrade` only if this root has
    the result, too: another version of this tool may have made it. Without a lock (None) the receipts count instead.
    The errors of all models that failed are raised together; no more are begun once the Hub does not answer.
    """
    context = context.with_paths(wanted)
    if context.keeps:
        refuse_linked_state(context.places.collections.values())
    turn, unreachable = threading.Lock(), list[HubUnreachableError]()
    pickles = partial(
        Pickles, context=context, pins=locked or (), only_at_hand=upgrade, receipts=locked is None, turn=turn
    )
    with Pool(context.jobs, "resolve") as files, Pool(min(_MODELS_AT_ONCE, context.jobs), "model") as pool:

        def resolve_model(model: WantedModel) -> Resolved | CacheModelsError | None:
            if unreachable:  # it will not answer for this model either
                return None if model.path else unreachable[0].concerning([model.id])
            try:
                return _resolve_one(model, context, pickles, files, detect=model in detect)
            except CacheModelsError as error:
                error = error.concerning([model.id])
                if isinstance(error, HubUnreachableError):
                    unreachable.append(error)
                return error

        outcomes = dict(zip(wanted, pool.map(resolve_model, wanted), strict=True))
    raise_all([outcome for outcome in outcomes.values() if isinstance(outcome, CacheModelsError)])
    resolved = {model: outcome for model, outcome in outcomes.items() if isinstance(outcome, Resolved)}
    for model, resolution in resolved.items():
        for note in resolution.notes:
            context.reporter.event("note", f"{model.id}: {note}", model=model.id)
    return resolved


def _resolve_one(
    wanted: WantedModel,
    context: RunContext,
    pickles: Callable[..., Pickles],
    files: Executor,
    *,
    detect: bool,
) -> Resolved:
    """Pin one model, of the Hub or from a directory."""
    here = _Here.of(wanted, context)  # the repository is open before a kind is read from it, so `here` may change

    def open_repository(name: str, revision: str) -> Repository:
        def in_root(file: ListedFile) -> Iterable[Path]:
            return [*([here.home / file.path] if name == wanted.id else []), *here.left]

        def in_cache(file: ListedFile) -> Iterable[Path]:
            return in_hf_cache(name, file.sha256 or file.blob_id)

        def keep(sha256: str, content: bytes) -> None:
            if context.keeps:
                here.staged.keep(sha256, content)

        hub = context.hub()
        return HubRepository(name, hub.revision(name, revision), hub, in_root, in_cache, keep)

    for_each = partial(map_until_failure, files)
    source = context.directory_of(wanted.kind, wanted.id)
    if source is None:
        repository = open_repository(wanted.id, wanted.revision)
        if detect:
            wanted = replace(wanted, kind=detect_kind(wanted, repository, for_each))
            here = _Here.of(wanted, context)
    of_model = pickles(wanted, here.home)
    dependencies = ResolveContext(open_repository, of_model.convert, of_model.read, for_each)
    if source is None:
        return resolve(wanted, repository, dependencies)
    with storage_errors(f"read {source}"):
        return resolve(wanted, DirectoryRepository(wanted.id, source), dependencies)


@dataclass(frozen=True, slots=True)
class _Here:
    """The place of a model in the root, and the files that other runs have left there for `sync`.

    A run does not read again what it stages itself.
    """

    home: Path
    staged: StagedFiles
    left: Sequence[Path]

    @classmethod
    def of(cls, wanted: WantedModel, context: RunContext) -> _Here:
        """Look for them."""
        home = context.places.home(wanted.kind, wanted.id)
        staged = StagedFiles(home)
        return cls(home, staged, staged.files())
