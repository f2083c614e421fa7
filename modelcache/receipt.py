"""The receipt inside a model directory: what was published there. It is the pin where no lock is.

It holds no date and no version of the tool, so equal models give equal bytes and equal image layers.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

from modelcache.disk import read_own
from modelcache.layout import RECEIPT_NAME
from modelcache.pinned import from_table, to_table
from modelcache.records import LockedModel

_FORMAT = 1
# Nothing is there, or something that no run of this tool has written: a directory, a link, a socket, a huge file.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EFBIG}


def format_receipt(model: LockedModel) -> bytes:
    """Return the receipt's bytes; one line a file, for people who open it."""
    table = to_table(model)
    files = table.pop("files")
    head = json.dumps({"format": _FORMAT, **table}, indent=1, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(file, ensure_ascii=False) for file in files)
    return f'{head[:-2]},\n "files": [\n  {lines}\n ]\n}}\n'.encode()


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
