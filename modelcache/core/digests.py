"""Digests of git blobs and of sets of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from modelcache.core.types import LockedFile


def git_blob_id(content: bytes) -> str:
    """Return the id of a file in git, and so on the Hub: SHA-1 of `blob <size>`, NUL, content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def set_digest(files: Iterable[LockedFile]) -> str:
    r"""Return one digest for a whole model: SHA-256 of its sorted `sha256sum` lines, so that a shell can check it.

    `find . -type f ! -name .cache-models.json -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum`
    """
    lines = sorted(f"{file.sha256}  {file.path}\n".encode() for file in files)
    return hashlib.sha256(b"".join(lines)).hexdigest()
