"""Where the files of a model may be: another root, a directory, the standard Hugging Face cache, the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from modelcache.core.types import LockedModel, Original
from modelcache.pipeline.context import RunContext
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.transfer.download import FileLocations


def locations_of(model: LockedModel, others: Sequence[Path], context: RunContext) -> FileLocations:
    """Return where the files of a model may be; `others` are staging directories of dead processes."""
    home = context.places.home(model.kind, model.id)
    previous = home if home.is_dir() else None
    if context.other_root is not None:
        other_home = context.other_root.home(model.kind, model.id)
        return FileLocations(previous, others, finished=lambda file: [other_home / file.path])
    source = context.source_of(model.kind, model.id)

    def originals(original: Original) -> Iterable[Path]:
        if source is not None and not original.commit:
            return [source / original.path]
        return in_hf_cache(original.repository, original.sha256, original.path, original.commit)

    return FileLocations(previous, others, originals=originals, remote=_HubRemote(context))


class _HubRemote:
    """Files of the Hub, which is connected to when the first byte is asked for."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self._context.connect().open(file.repository, file.commit, file, start, end)
