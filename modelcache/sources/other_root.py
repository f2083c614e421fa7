"""Another root on this machine, as a source to copy from."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from modelcache.core.errors import UsageError
from modelcache.core.kinds import Kind
from modelcache.core.names import RECEIPT_NAME, sanitize_model_id
from modelcache.core.text import escape, join_names
from modelcache.core.types import FileSlice
from modelcache.image.documents import INDEX_NAME
from modelcache.sources.schemes import FORMS
from modelcache.system.files import read_own_if_there, storage_errors

_HINT = f"--from (CACHE_MODELS_FROM) takes {FORMS}; a root is the directory that holds cached_*_models."


class OtherRoot:
    """The published models of a root; see `PublishedModels`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = escape(str(root))

    def expect(self, model_ids: Sequence[str]) -> None:
        """Do nothing: each model is looked up alone."""

    def holds(self, kind: Kind, model_id: str) -> bool:
        """Whether a model has a directory there."""
        with self._errors():
            return _is_directory(self._home(kind, model_id))

    def receipt(self, kind: Kind, model_id: str) -> bytes:
        """Return the receipt of a model; empty where none is."""
        with self._errors():
            return read_own_if_there(self._home(kind, model_id) / RECEIPT_NAME) or b""

    def file(self, kind: Kind, model_id: str, path: str) -> FileSlice:
        """Return where a file of a model would be."""
        return FileSlice(self._home(kind, model_id) / path)

    def remote(self, kind: Kind, model_id: str) -> None:
        """Return None: its files are on this machine."""

    def place_of(self, kind: Kind, model_id: str) -> str:
        """Return the directory of a model."""
        return escape(str(self._home(kind, model_id)))

    def lack_of(self, model_ids: Sequence[str]) -> UsageError:
        """Return the error for models that it does not hold: it is absent, holds no models at all, or not these."""
        hint = f"It should hold {join_names(model_ids)}. {_HINT}"
        with self._errors():
            if self._root.is_file():
                return UsageError(f"{self.name} is a file", hint=f"For an archive write oci-archive:{self.name}.")
            if not _is_directory(self._root):
                return UsageError(f"there is no directory {self.name}", hint=hint)
            if (self._root / INDEX_NAME).is_file():
                return UsageError(f"{self.name} is an image layout", hint=f"Write oci:{self.name}.")
            if not any(_holds_models(self._root / kind.spec.collection) for kind in Kind):
                return UsageError(f"{self.name} holds no models", hint=hint)
        return UsageError(f"{self.name} does not hold {', '.join(model_ids)}", hint=_HINT)

    def _home(self, kind: Kind, model_id: str) -> Path:
        return self._root / kind.spec.collection / sanitize_model_id(model_id)

    def _errors(self) -> AbstractContextManager[None]:
        return storage_errors(f"read {self._root}", place="--from")


def _holds_models(collection: Path) -> bool:
    if not _is_directory(collection):
        return False
    with os.scandir(collection) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _is_directory(path: Path) -> bool:
    """Whether a directory is there; OSError if that cannot be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
