"""What `lock` fetched or made to be hashed, kept for `sync` in a staging directory of its own.

A kept file has its whole content before it has its name, and nobody ever writes to it again: so it may be given a
second name, where the part of a file, whose writer may only be asleep, has to be copied.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.disk import make_collection
from modelcache.layout import STATE_NAME


def kept_in(staging: Path, sha256: str) -> Path:
    """Return where a staging directory keeps a file."""
    return staging / f"{sha256}.kept"


class Kept:
    """A staging directory of this process for what it keeps of one model."""

    def __init__(self, home: Path) -> None:
        self._folder = home.parent / STATE_NAME / f"{home.name}~{secrets.token_hex(6)}"

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a small file; where that is not possible, `sync` fetches it again."""
        with suppress(OSError):
            make_collection(self._folder.parent.parent)
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = self._folder / sha256
            beside.write_bytes(content)
            os.rename(beside, kept_in(self._folder, sha256))


def note_made(staging: Path, original: str, sha256: str) -> None:
    """Note, beside a kept file, which file it was made from; both by their SHA-256."""
    beside = staging / f"{original}.new"
    beside.write_text(sha256)
    os.rename(beside, staging / f"{original}.made")


def made_of(original: str, stagings: Iterable[Path]) -> tuple[int, str] | None:
    """Return size in bytes and SHA-256 of what somebody made from a file and kept."""
    for staging in stagings:
        with suppress(OSError, ValueError):
            sha256 = (staging / f"{original}.made").read_text()
            if re.fullmatch(r"[0-9a-f]{64}", sha256):
                return kept_in(staging, sha256).stat().st_size, sha256
    return None
