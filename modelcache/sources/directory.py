"""A directory on this machine as a repository."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from modelcache.core.errors import SourceDirectoryError, StorageError
from modelcache.core.types import ListedFile, Original
from modelcache.sources.hub_repository import refuse_unreadable
from modelcache.system.files import sha256_of, walk


class DirectoryRepository:
    """A model in a directory.

    Raises:
        SourceDirectoryError: there is no such directory, or nothing in it.

    """

    commit = licence = ""
    gated = False

    def __init__(self, model_id: str, source: Path) -> None:
        refuse_unusable(model_id, source)
        files: dict[str, ListedFile] = {}
        for path, status in walk(source):
            if _is_hidden(path):
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


def refuse_unusable(model_id: str, source: Path) -> None:
    """Refuse a `path` that is no directory, or a directory without a file of a model.

    Raises:
        SourceDirectoryError: with what it is instead.

    """
    if not source.exists():
        problem = f"{source} is a link to nothing" if source.is_symlink() else f"there is no directory {source}"
    elif not source.is_dir():
        problem = f"{source} is a file, not a directory"
    elif not (paths := [path for path, status in walk(source) if not stat.S_ISDIR(status.st_mode)]):
        problem = f"the directory {source} is empty"
    elif all(_is_hidden(path) for path in paths):
        problem = f"the directory {source} has hidden files only, and no file of a model"
    else:
        return
    raise SourceDirectoryError(
        f"{model_id}: {problem}",
        hint="`path` names the directory that holds the model's config.json, relative to the directory of models.toml.",
    )


def _is_hidden(path: str) -> bool:
    """Whether a path in a directory is none of the model: .git, .cache, the receipt."""
    return path.startswith(".")


def _kind_of_entry(path: Path, mode: int) -> str:
    """Return what an entry of a directory is that is neither a file nor a directory."""
    if not stat.S_ISLNK(mode):
        return "device, pipe or socket"
    return "link to a directory" if path.is_dir() else "symlink"
