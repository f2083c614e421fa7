"""Digests: of files, of git blobs, and of a whole set of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from modelcache.core.types import LockedFile


def git_blob_id(content: bytes) -> str:
    """Return what git, and so the Hub, calls a small file: SHA-1 over `blob <size>`, NUL, content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def set_digest(files: Iterable[LockedFile]) -> str:
    r"""Hash a model as one: SHA-256 of its sorted `sha256sum` lines, so that a shell can check it.

    `find . -type f ! -name .cache-models.json -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum`
    """
    lines = sorted(f"{file.sha256}  {file.path}\n".encode() for file in files)
    return hashlib.sha256(b"".join(lines)).hexdigest()
