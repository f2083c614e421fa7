"""Bytes to serve and the names git and git-lfs give them.

Knows hashes only; nothing of HTTP and nothing of repositories.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """Point at the bytes of a body, in memory or on disk."""

    source: bytes | Path

    @property
    def size(self) -> int:
        """Ask the disk each time, so that a file that grew is served whole."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        """Return all of it; meant for small files."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True, slots=True)
class File:
    """Describe one file of a commit the way the Hub's listing does."""

    content: Content
    size: int
    oid: str  # git blob id: of the content, or of the pointer when the file is in LFS
    sha256: str | None = None  # only files in LFS have one; for the others the Hub knows none
    pointer_size: int = 0

    @property
    def lfs(self) -> bool:
        """Tell whether the Hub redirects this file to the content network."""
        return self.sha256 is not None

    @property
    def xet(self) -> str:
        """Give the content network's own id, which is no SHA-256 of anything a client sees."""
        return hashlib.sha256(f"xet {self.sha256}".encode()).hexdigest()


def file_of(source: bytes | Path, *, lfs: bool) -> File:
    """Hash `source` once, as git does or as git-lfs does."""
    content = Content(source)
    if not lfs:
        return File(content, content.size, _digest(source, git=True))
    sha256 = _digest(source, git=False)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {content.size}\n".encode()
    return File(content, content.size, blob_id(pointer), sha256, len(pointer))


def blob_id(data: bytes) -> str:
    """Return the id git gives to `data`."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def tree_ids(files: Mapping[str, str]) -> dict[str, str]:
    """Return git's tree id of each directory, "" being the root."""
    children: dict[str, dict[str, tuple[str, str]]] = {"": {}}
    for path, oid in files.items():
        parent, _, name = path.rpartition("/")
        children.setdefault(parent, {})[name] = ("100644", oid)
        while parent:
            parent = parent.rpartition("/")[0]
            children.setdefault(parent, {})
    ids: dict[str, str] = {}
    for directory in sorted(children, key=lambda path: -path.count("/") if path else 1):
        parent, _, name = directory.rpartition("/")
        # git sorts a directory as if its name ended in a slash
        entries = sorted(children[directory].items(), key=lambda e: e[0] + ("/" if e[1][0] == "40000" else ""))
        data = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for name, (mode, oid) in entries)
        ids[directory] = hashlib.sha1(b"tree %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if directory:
            children[parent][name] = ("40000", ids[directory])
    return ids


def _digest(source: bytes | Path, *, git: bool) -> str:
    if isinstance(source, bytes):
        return blob_id(source) if git else hashlib.sha256(source).hexdigest()
    stat = source.stat()
    return _digest_on_disk(os.fspath(source.absolute()), stat.st_size, stat.st_mtime_ns, git)


@lru_cache(maxsize=4096)
def _digest_on_disk(path: str, size: int, mtime_ns: int, git: bool) -> str:
    # size and time are here for the cache: gigabytes are hashed once a process, not once a test
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if git else hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
