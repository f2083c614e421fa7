"""Fetch the files of a model: from another root, a directory, the standard Hugging Face cache, or the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.core.interfaces import Reporter
from modelcache.core.types import LockedModel, Original
from modelcache.pipeline.context import RunContext
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.transfer.download import FileLocations, download


def fetch(model: LockedModel, staging: Path, others: Sequence[Path], context: RunContext, reporter: Reporter) -> Path:
    """Return a verified tree with the files of a model, or their originals beside it; raises as `download`.

    `others` are staging directories of dead processes.
    """
    home = context.places.home(model.kind, model.id)
    source = None if context.other_root else context.directory_of(model.kind, model.id)

    def originals(original: Original) -> Iterable[Path]:
        if source is not None and not original.commit:
            return [source / original.path]
        return in_hf_cache(original.repository, original.sha256, original.path, original.commit)

    locations = FileLocations(home if home.is_dir() else None, others)
    if context.other_root is not None:
        other_home = context.other_root.home(model.kind, model.id)
        locations = replace(locations, finished=lambda file: [other_home / file.path])
    else:
        locations = replace(locations, originals=originals, remote=_HubRemote(context))
    jobs, policy, limits = context.jobs, context.policy, context.limits
    return download(model, staging, locations, jobs=jobs, policy=policy, limits=limits, reporter=reporter)


@dataclass(frozen=True, slots=True)
class _HubRemote:
    """Files of the Hub, which is connected to when the first byte is asked for."""

    context: RunContext

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self.context.connect().open(file.repository, file.commit, file, start, end)
