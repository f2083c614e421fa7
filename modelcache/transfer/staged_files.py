"""Files that `lock` fetched or made to hash them, kept for `sync` in a staging directory of their own.

A file is found by its own hash, which has to come from elsewhere: from the Hub's listing, or from a lock. Nothing in
these directories says what a file is or was made from, because another user who may write to the root could forge it.
A kept file has its whole content before it has its name, and is never written again. So it may get a second name, where
a partial file has to be copied, because its writer may be suspended. There is no fsync here: each reader hashes a file
before it takes it, and so finds out what a power cut has left of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from glob import escape, glob  # a directory that cannot be read, or is gone, has nothing for it
from pathlib import Path

from modelcache.core.names import STATE_NAME
from modelcache.system.directories import make_directory, make_state_directory
from modelcache.system.files import is_plain_file, sha256_of, write_file


def staged_path(staging: Path, sha256: str) -> Path:
    """Return the path of a kept file in a staging directory."""
    return staging / f"{sha256}.kept"


def has_staged(staging: Path) -> bool:
    """Whether a staging directory keeps any file."""
    return bool(glob("*.kept", root_dir=staging))


class StagedFiles:
    """The kept files of one model, of all processes; this process has a staging directory of its own."""

    def __init__(self, home: Path) -> None:
        self._state = home.parent / STATE_NAME
        self._name = home.name
        self._folder = self._state / f"{home.name}~{secrets.token_hex(6)}"

    def files(self) -> list[Path]:
        """Return every kept file; each may be removed at any time, and its bytes are not checked yet."""
        return sorted(self._state / path for path in glob(f"{escape(self._name)}~*/*.kept", root_dir=self._state))

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a small file; if that is not possible, `sync` fetches it again."""
        with suppress(OSError):
            if not self._folder.is_dir():
                make_state_directory(self._state)
                with suppress(FileExistsError):
                    make_directory(self._folder, mode=0o700)
            beside = self._folder / secrets.token_hex(6)  # two files of a model may have the same bytes
            write_file(beside, content)
            os.rename(beside, staged_path(self._folder, sha256))


def is_staged(sha256: str, size: int, paths: Iterable[Path]) -> bool:
    """Whether one of these paths is a file with this content."""
    for path in paths:
        with suppress(OSError):
            if is_plain_file(path, size) and sha256_of(path) == sha256:
                return True
    return False
