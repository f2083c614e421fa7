"""Read the receipt inside a model directory: the version that was published there."""

from __future__ import annotations

import errno
from pathlib import Path

from modelcache.core.names import RECEIPT_NAME
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import parse_receipt
from modelcache.system.files import read_own

# Nothing is there, or a thing that this tool never writes: a directory, a link, a socket, a huge file.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG}


def read_receipt(directory: Path) -> LockedModel | None:
    """Return the version that was published in `directory`; None where there is no receipt, or no valid one.

    Raises:
        OSError: it may be there and cannot be read now; without a lock that must not change the version of a model.

    """
    return parse_receipt(receipt_bytes(directory))


def receipt_bytes(directory: Path) -> bytes:
    """Return the receipt as it was written; empty where none is, see `read_receipt`."""
    try:
        return read_own(directory / RECEIPT_NAME)
    except OSError as error:
        if error.errno in _ABSENT:
            return b""
        raise
