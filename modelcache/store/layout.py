"""Where a root keeps its models: a collection for each kind, a directory for each model, a receipt in each of these."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.kinds import Kind
from modelcache.core.names import RECEIPT_NAME, sanitize_model_id
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import parse_receipt
from modelcache.system.files import read_own

# Nothing is there, or a thing that this tool never writes: a directory, a link, a socket, a huge file.
_NO_RECEIPT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Places:
    """The collections of a root, by kind."""

    collections: Mapping[Kind, Path]

    @classmethod
    def below(cls, root: Path) -> Places:
        """Return the places below a root: one collection a kind."""
        return cls({kind: root / kind.spec.collection for kind in Kind})

    @property
    def exist(self) -> bool:
        """Whether any of the collections exists."""
        return any(map(os.path.isdir, self.collections.values()))

    def home(self, kind: Kind, model_id: str) -> Path:
        """Return the directory of one model."""
        return self.collections[kind] / sanitize_model_id(model_id)


def read_receipt(directory: Path) -> LockedModel | None:
    """Return the version that was published in `directory`; None where there is no receipt, or no valid one.

    OSError if it may be there and cannot be read now; without a lock that must not change the version of a model.
    """
    return parse_receipt(receipt_bytes(directory))


def receipt_bytes(directory: Path) -> bytes:
    """Return the receipt as it was written; empty where none is, see `read_receipt`."""
    try:
        return read_own(directory / RECEIPT_NAME)
    except OSError as error:
        if error.errno in _NO_RECEIPT:
            return b""
        raise
