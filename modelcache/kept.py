"""What `lock` fetched or made to be hashed, kept for `sync` in a staging directory of its own.

A kept file has its whole content before it has its name, and nobody ever writes to it again: so it may be given a
second name, where the part of a file, whose writer may only be asleep, has to be copied.
"""

from __future__ import annotations

import glob
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import make_state, name_when_written
from modelcache.layout import STATE_NAME


def kept_in(staging: Path, sha256: str) -> Path:
    """Return where a staging directory keeps a file."""
    return staging / f"{sha256}.kept"


def holds_kept(staging: Path) -> bool:
    """Tell whether a staging directory keeps anything."""
    return bool(glob.glob("*.kept", root_dir=staging))


class Kept:
    """What is kept of one model, by whomever; this process keeps it in a staging directory of its own."""

    def __init__(self, home: Path) -> None:
        self._state = home.parent / STATE_NAME
        self._name = home.name
        self._folder = self._state / f"{home.name}~{secrets.token_hex(6)}"

    def files(self) -> list[Path]:
        """Return every kept file; each may go at any time, and its bytes have yet to be looked at."""
        # Path.glob ends with an error where a directory goes while it looks.
        found = glob.glob(f"{glob.escape(self._name)}~*/*.kept", root_dir=self._state)
        return [self._state / name for name in sorted(found)]

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a small file; where that is not possible, `sync` fetches it again."""
        with suppress(OSError):
            make_state(self._state)
            self._folder.mkdir(exist_ok=True)
            beside = self._folder / secrets.token_hex(6)  # two files of a model may have the same bytes
            beside.write_bytes(content)
            name_when_written(beside, kept_in(self._folder, sha256))


def keep_made(made: Path, original: str) -> tuple[int, str]:
    """Keep, where it lies, a file that was made from another one, with a note of that; return its size and SHA-256."""
    size, sha256 = made.stat().st_size, sha256_of(made)
    name_when_written(made, kept_in(made.parent, sha256))
    beside = made.with_name(f"{original}.new")
    beside.write_text(sha256)
    name_when_written(beside, made.with_name(f"{original}.made"))
    return size, sha256


def made_of(original: str, stagings: Iterable[Path]) -> tuple[int, str] | None:
    """Return size in bytes and SHA-256 of what somebody made from a file and kept, if it is there to the byte."""
    for staging in stagings:
        with suppress(OSError, ValueError):
            sha256 = (staging / f"{original}.made").read_text()
            if re.fullmatch(r"[0-9a-f]{64}", sha256) and sha256_of(kept := kept_in(staging, sha256)) == sha256:
                return kept.stat().st_size, sha256
    return None
