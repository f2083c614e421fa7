"""Where the files of a model may be had: another root, a directory, the standard cache, the Hub."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from modelcache.core.types import Original, WantedModel
from modelcache.pipeline.context import Tools
from modelcache.sources.hub_environment import in_hf_cache
from modelcache.transfer.download import Supply
from modelcache.transfer.retry import Tries


def supply(wish: WantedModel, home: Path, others: Sequence[Path], tools: Tools) -> Supply:
    """Say where a wanted model may be had, that will lie at `home`; `others` are what dead processes left."""
    previous = home if home.is_dir() else None
    if tools.other_root is not None:
        there = tools.other_root.home(wish.kind, wish.id)
        return Supply(previous, others, finished=lambda file: [there / file.path])
    source = tools.source_of(wish) if wish.path is not None else None

    def originals(original: Original) -> Iterable[Path]:
        if source is not None and not original.commit:
            return [source / original.path]
        return in_hf_cache(original.repository, original.sha256, original.path, original.commit)

    return Supply(previous, others, originals=originals, remote=_OnHub(tools))


class _OnHub:
    """Files of the Hub; it is connected to when the first byte is asked for."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self._tools.connect().open(file.repository, file.commit, file, start, end)

    def tries(self, what: str, stopped: threading.Event) -> Tries:
        return self._tools.connect().wire.tries(what, stopped)
