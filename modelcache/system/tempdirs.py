"""Directories for a while: gone when they have served, also when a signal ends the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelcache.system.trees import remove_tree

_now: set[str] = set()


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty directory that is not in a root, and take it away with all that is in it then."""
    folder = tempfile.mkdtemp(prefix="cache-models-")
    _now.add(folder)
    try:
        yield Path(folder)
    finally:
        remove_tree(Path(folder))
        _now.discard(folder)


def remove_all() -> None:
    """Take away those there are now, for a process that ends without unwinding."""
    for folder in tuple(_now):
        remove_tree(Path(folder))
