"""What `lock` fetched or made to be hashed, kept for `sync` in a staging directory of its own.

A file is found by its own hash, which has to come from elsewhere: from the Hub's listing, or from a lock. Nothing in
these directories says what a file is or was made from, because another user who may write to the root could forge it.
A kept file has its whole content before it has its name, and nobody ever writes to it again: so it may be given a
second name, where the part of a file, whose writer may only be asleep, has to be copied. None is brought to the disk
here: whoever takes one hashes it first, and so finds what a power cut has left of it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.core.names import STATE_NAME
from modelcache.system.directories import make_directory, make_state_directory
from modelcache.system.files import sha256_of, write_file


def staged_path(staging: Path, sha256: str) -> Path:
    """Return where a staging directory keeps a file."""
    return staging / f"{sha256}.kept"


def has_staged(staging: Path) -> bool:
    """Tell whether a staging directory keeps anything."""
    return bool(_kept_below(staging))


def _kept_below(staging: Path) -> list[Path]:
    return [staging / name for name in _names_in(staging) if name.endswith(".kept")]


def _names_in(folder: Path) -> list[str]:
    """Return what is in a directory that somebody else may clear away at any moment."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


class StagedFiles:
    """What is kept of one model, by whomever; this process keeps it in a staging directory of its own."""

    def __init__(self, home: Path) -> None:
        self._state = home.parent / STATE_NAME
        self._name = home.name
        self._folder = self._state / f"{home.name}~{secrets.token_hex(6)}"

    def files(self) -> list[Path]:
        """Return every kept file; each may go at any time, and its bytes have yet to be looked at."""
        prefix = f"{self._name}~"
        stagings = [name for name in _names_in(self._state) if name.startswith(prefix)]
        return sorted(path for name in stagings for path in _kept_below(self._state / name))

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a small file; where that is not possible, `sync` fetches it again."""
        with suppress(OSError):
            if not self._folder.is_dir():
                make_state_directory(self._state)
                with suppress(FileExistsError):
                    make_directory(self._folder, mode=0o700)
            beside = self._folder / secrets.token_hex(6)  # two files of a model may have the same bytes
            write_file(beside, content)
            os.rename(beside, staged_path(self._folder, sha256))


def is_staged(sha256: str, size: int, places: Iterable[Path]) -> bool:
    """Whether one of these places is a file with these very bytes."""
    for path in places:
        with suppress(OSError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode) and found.st_size == size and sha256_of(path) == sha256:
                return True
    return False
