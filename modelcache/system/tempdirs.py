"""Temporary directories that are also removed when a signal ends the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelcache.system.trees import remove_tree

_live: set[str] = set()


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Create an empty directory outside every root; remove it with its content at the end."""
    folder = tempfile.mkdtemp(prefix="cache-models-")
    _live.add(folder)
    try:
        yield Path(folder)
    finally:
        remove_tree(Path(folder))
        _live.discard(folder)


def remove_all() -> None:
    """Delete live temporary directories before os._exit()."""
    for folder in tuple(_live):
        remove_tree(Path(folder))
