"""Pin wanted models anew: ask the Hub, or read their directories, and convert pickles to know their hashes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modelcache.core.errors import CacheModelsError, HubUnreachableError, PolicyError, raise_all
from modelcache.core.interfaces import Repository
from modelcache.core.model_report import CARD_NAME
from modelcache.core.names import plain_licence
from modelcache.core.types import LARGEST_TEXT, ListedFile, LockedModel, WantedModel
from modelcache.pipeline.context import RunContext
from modelcache.pipeline.pickles import Pickles
from modelcache.resolver.resolve import ResolveContext, Resolved, detect_kind, resolve
from modelcache.sources.directory import DirectoryRepository
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.sources.hub_repository import HubRepository
from modelcache.store.publish import refuse_linked_state
from modelcache.system.files import storage_errors
from modelcache.system.threads import Pool, map_until_failure, ticking
from modelcache.transfer.staged_files import StagedFiles

_MODELS_AT_ONCE = 4


def resolve_all(
    wanted: Sequence[WantedModel],
    context: RunContext,
    locked: Sequence[LockedModel] | None,
    *,
    pinned: Mapping[WantedModel, LockedModel] | None = None,
    upgrade: bool = False,
    detect: Collection[WantedModel] = (),
) -> dict[WantedModel, Resolved]:
    """Pin models anew, several at a time, and report the notes about them.

    The kind of a model in `detect` is read from its repository; its pin has it.
    A pickle is not converted again if an earlier lock has the hash of its result; with `upgrade` only if this root has
    the result, too: another version of this tool may have made it. Without a lock (None) the receipts count instead.
    The errors of all models that failed are raised together; no more are begun once the Hub does not answer. The models
    of `pinned` have a pin already: with them the gate of the context judges all at once.
    """
    context, pinned = context.with_paths(wanted), pinned or {}
    if context.keeps:
        refuse_linked_state(context.places.collections.values())
    turn, unreachable = threading.Lock(), list[HubUnreachableError]()
    pickles = partial(
        Pickles, context=context, pins=locked or (), only_at_hand=upgrade, receipts=locked is None, turn=turn
    )
    with Pool(context.jobs, "resolve") as files, Pool(min(_MODELS_AT_ONCE, context.jobs), "model") as pool:

        def resolve_model(model: WantedModel) -> Resolved | LockedModel | CacheModelsError | None:
            if context.gate.forbids(model):  # refused below, with all others
                return None
            if unreachable:  # it will not answer for this model either
                return None if model.path else unreachable[0].concerning([model.id])
            try:
                return _resolve_one(model, context, pickles, files, detect=model in detect)
            except PolicyError as error:
                return context.gate.explained(error).concerning([model.id])
            except CacheModelsError as error:
                error = error.concerning([model.id])
                if isinstance(error, HubUnreachableError):
                    unreachable.append(error)
                return error

        with ticking(partial(context.reporter.waiting, "pinning")):
            outcomes = dict(zip(wanted, pool.map(resolve_model, wanted), strict=True))
    resolved = {model: outcome for model, outcome in outcomes.items() if isinstance(outcome, Resolved)}
    pins = [*pinned.values(), *(resolution.model for resolution in resolved.values())]
    pins += [outcome for outcome in outcomes.values() if isinstance(outcome, LockedModel)]
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, CacheModelsError)]
    raise_all([*context.gate.refusals([*pinned, *wanted], pins), *failed])
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
) -> Resolved | LockedModel:
    """Pin one model, of the Hub or from a directory; if its licence is not allowed, return a pin without files.

    So none is read of a model that is refused: a pickle would be fetched to pin it.
    """
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
        bare = LockedModel(wanted.kind, wanted.id, wanted.revision, repository.commit, (), repository.licence)
        if context.gate.refusals((), [bare]):
            return bare
        if detect:
            wanted = replace(wanted, kind=detect_kind(wanted, repository, for_each))
            here = _Here.of(wanted, context)
    of_model = pickles(wanted, here.home)
    dependencies = ResolveContext(open_repository, of_model.convert, of_model.read, for_each)
    if source is None:
        return resolve(wanted, repository, dependencies)
    with storage_errors(f"read {source}"):
        directory = DirectoryRepository(wanted.id, source)
        directory.licence = _licence_of_card(directory)
        return resolve(wanted, directory, dependencies)


def _licence_of_card(repository: Repository) -> str:
    """Return the licence that a model's card names, as the Hub reads it; empty where it names none."""
    from modelcache.formats.model_card import parse_card  # it imports YAML

    card = repository.files.get(CARD_NAME)
    if card is None or not card.plain or card.size > LARGEST_TEXT:
        return ""
    return plain_licence(next(iter(parse_card(repository.read(card)).licences), ""))


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
