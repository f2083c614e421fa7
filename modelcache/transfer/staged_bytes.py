"""How many bytes of a model lie in staging directories: of a run that goes on, or of one that was killed.

Files are counted by name and size. Nothing is hashed, so this is for people; `download` hashes what it takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.plan import distinct
from modelcache.core.types import LockedModel, Made
from modelcache.system.files import is_plain_file, walk
from modelcache.transfer.file_locations import originals_of
from modelcache.transfer.partial_file import journal_of, written_ranges
from modelcache.transfer.staged_files import staged_path


def bytes_staged(stagings: Sequence[Path], model: LockedModel | None) -> tuple[int, int]:
    """Return how many bytes of a model are staged, and how many there are to fetch; 0 without a pin that says so.

    Files that `lock` has kept count where a run has begun to fetch the model, and not by themselves.
    """
    if not any(map(_is_of_a_fetch, stagings)):
        return 0, 0
    if model is None:
        return max(map(_bytes_below, stagings)), 0
    staged = total = 0
    for file in distinct(model.files):
        if file.made is Made.WRITTEN:
            continue
        original = model.original_of(file)
        total += original.size
        finished = [*finished_paths(stagings, file.sha256), *(staging / "tree" / file.path for staging in stagings)]
        if any(is_plain_file(path, file.size, follow=False) for path in finished) or any(
            is_plain_file(path, original.size, follow=False) for path in finished_paths(stagings, original.sha256)
        ):
            staged += original.size
        else:
            staged += max(_written(staging / original.sha256, original.size) for staging in stagings)
    return staged, total


def _is_of_a_fetch(staging: Path) -> bool:
    with suppress(OSError):  # the run that it belongs to may remove it
        return any(not name.endswith(".kept") for name in os.listdir(staging))
    return False


def finished_paths(stagings: Iterable[Path], sha256: str) -> list[Path]:
    """Return where a complete file of this content may be staged."""
    return [path for staging in stagings for path in (staged_path(staging, sha256), originals_of(staging) / sha256)]


def _bytes_below(staging: Path) -> int:
    sizes: dict[int, int] = {}  # by inode: a file may have two names
    with suppress(OSError):  # the run that it belongs to may remove it
        for path, found in walk(staging):
            if stat.S_ISREG(found.st_mode) and not path.endswith(".ranges"):
                partial = "/" not in path and os.path.lexists(journal_of(staging / path))
                sizes[found.st_ino] = _written(staging / path, found.st_size) if partial else found.st_size
    return sum(sizes.values())


def _written(part: Path, size: int) -> int:
    """Return how many bytes of a partial file are written."""
    if not is_plain_file(part, follow=False):
        return 0
    with suppress(OSError):
        return written_ranges(part, size).total()
    return 0
