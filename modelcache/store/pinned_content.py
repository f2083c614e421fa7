"""The content of a small file, read from a place on this machine that may have it, and compared with its pin."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.core.types import LockedFile, Original
from modelcache.system.files import is_plain_file


def pinned_content(file: LockedFile | Original, paths: Iterable[Path]) -> bytes | None:
    """Return the content of the first of these paths that has the pinned bytes; None where none has."""
    for path in paths:
        with suppress(OSError):
            if is_plain_file(path, file.size) and file.matches(content := path.read_bytes()):
                return content
    return None
