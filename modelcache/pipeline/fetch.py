"""Fetch the files of a model: from another root or an image, a directory, the Hugging Face cache, or the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.core.errors import IntegrityError
from modelcache.core.interfaces import Reporter
from modelcache.core.plan import Action, Step
from modelcache.core.types import FileSlice, LockedFile, LockedModel, Original
from modelcache.pipeline.bytes_to_fetch import bytes_to_fetch
from modelcache.pipeline.context import RunContext
from modelcache.sources.directory import refuse_unusable
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.transfer.download import download
from modelcache.transfer.file_locations import FileLocations


def fetch(model: LockedModel, staging: Path, others: Sequence[Path], context: RunContext, reporter: Reporter) -> Path:
    """Return a verified tree with the files of a model, or their originals beside it; raises as `download`.

    `others` are staging directories of dead processes.
    """
    home = context.places.home(model.kind, model.id)
    locations = replace(_sources(model, context), previous=home if home.is_dir() else None, stagings=others)
    jobs, policy, limits = context.jobs, context.policy, context.limits
    try:
        return download(model, staging, locations, jobs=jobs, policy=policy, limits=limits, reporter=reporter)
    except IntegrityError:
        if context.source is None and (directory := context.directory_of(model.kind, model.id)) is not None:
            refuse_unusable(model.id, directory)
        raise


def at_hand(model: LockedModel, context: RunContext) -> bool:
    """Whether nothing of a model was or has to be fetched, by the names and sizes of files on this machine."""
    if context.source is not None:
        return context.source.remote(model.kind, model.id) is None
    return not _was_fetched(model, context) and bytes_to_fetch(model, context) == (0, True)


def as_done(step: Step, context: RunContext) -> Step:
    """Return a step as it was done: whether any byte came over the network is known afterwards."""
    if step.action is Action.REPLACE:
        return step
    source, model = context.source, step.model
    fetched = source.remote(model.kind, model.id) is not None if source else _was_fetched(model, context)
    return replace(step, action=Action.FETCH if fetched else Action.COPY)


def _was_fetched(model: LockedModel, context: RunContext) -> bool:
    """Whether this run has fetched any byte of a model, also when it was pinned."""
    return any(context.hub.has_sent(model.original_of(file)) for file in model.files)


def _sources(model: LockedModel, context: RunContext) -> FileLocations:
    """Return where the files of a model come from, beside what the root has of it."""
    if (source := context.source) is not None:

        def finished(file: LockedFile) -> Iterable[FileSlice]:
            found = source.file(model.kind, model.id, file.path)
            return () if found is None else [found]

        place = source.place_of(model.kind, model.id)
        return FileLocations(finished=finished, published=source.remote(model.kind, model.id), origin=place)
    directory = context.directory_of(model.kind, model.id)

    def originals(original: Original) -> Iterable[FileSlice]:
        if directory is not None and not original.commit:
            return [FileSlice(directory / original.path)]
        return map(FileSlice, in_hf_cache(original.repository, original.sha256, original.path, original.commit))

    return FileLocations(originals=originals, remote=_HubRemote(context), origin=str(directory or ""))


@dataclass(frozen=True, slots=True)
class _HubRemote:
    """Files of the Hub, which is connected to when the first byte is asked for."""

    context: RunContext

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self.context.hub().open(file.repository, file.commit, file, start, end)
