"""A directory on this machine as a repository."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from modelcache.core.errors import StorageError
from modelcache.core.types import ListedFile, Original
from modelcache.sources.hub_repository import refuse_unreadable
from modelcache.system.files import sha256_of, walk


class DirectoryRepository:
    """A model in a directory.

    Raises:
        StorageError: there is no such directory.

    """

    commit = licence = ""

    def __init__(self, model_id: str, source: Path) -> None:
        if not source.is_dir():
            raise StorageError(
                f"{model_id}: there is no directory {source}", hint="Check `path`; it is relative to models.toml."
            )
        files: dict[str, ListedFile] = {}
        for path, status in walk(source):
            if path.partition("/")[0].startswith("."):  # .git, .cache and the receipt are no files of the model
                continue
            if stat.S_ISREG(status.st_mode):
                files[path] = ListedFile(path, status.st_size)
            elif not stat.S_ISDIR(status.st_mode):
                files[path] = ListedFile(path, 0, entry=_kind_of_entry(source / path, status.st_mode))
        self.files: Mapping[str, ListedFile] = files
        self._model_id = model_id
        self._source = source
        self._read: dict[str, str] = {}
        """The SHA-256 of each file that was read: other bytes are not pinned."""

    def stop(self) -> None:
        """Do nothing: reading a disk has no pauses."""

    def read(self, file: ListedFile) -> bytes:
        """Return a small file."""
        refuse_unreadable(self._model_id, file)
        content = (self._source / file.path).read_bytes()
        self._refuse_changed(file, len(content), hashlib.sha256(content).hexdigest())
        return content

    def part(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return some bytes of a file."""
        with (self._source / file.path).open("rb") as content:
            content.seek(start)
            return content.read(end - start)

    def pin(self, file: ListedFile) -> Original:
        """Hash a file."""
        path = self._source / file.path
        sha256 = sha256_of(path)
        self._refuse_changed(file, path.stat().st_size, sha256)
        return Original(file.path, file.size, sha256)

    def _refuse_changed(self, file: ListedFile, size: int, sha256: str) -> None:
        if size != file.size or self._read.setdefault(file.path, sha256) != sha256:
            message = f"{self._source / file.path} changed while it was read"
            raise StorageError(message, hint="Run this again when no process writes there.")


def _kind_of_entry(path: Path, mode: int) -> str:
    """Return what an entry of a directory is that is neither a file nor a directory."""
    if not stat.S_ISLNK(mode):
        return "device, pipe or socket"
    return "link to a directory" if path.is_dir() else "symlink"
