"""Reading the receipt inside a model directory: what was published there."""

from __future__ import annotations

import errno
import json
from pathlib import Path

from modelcache.core.names import RECEIPT_NAME
from modelcache.core.types import LockedModel
from modelcache.formats.model_table import from_table
from modelcache.formats.receipt import _FORMAT
from modelcache.system.files import read_own

# Nothing is there, or something that no run of this tool has written: a directory, a link, a socket, a huge file.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG}


def read_receipt(directory: Path) -> LockedModel | None:
    """Return what was published in `directory`; None where no receipt is, or none that can be believed.

    Raises:
        OSError: it may well be there and cannot be read now; without a lock a model must not move for that.

    """
    try:
        table = json.loads(read_own(directory / RECEIPT_NAME))
        if not isinstance(table, dict) or table.pop("format", None) != _FORMAT:
            return None
        return from_table(table)
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
