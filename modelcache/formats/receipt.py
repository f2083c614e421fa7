"""The receipt inside a model directory: the version that was published there. It is the pin where no lock is.

It holds no date and no version of the tool, so equal models give equal bytes and equal image layers.
"""

from __future__ import annotations

import json

from modelcache.core.types import LockedModel
from modelcache.formats.pin_table import from_table, to_table

_FORMAT = 1


def format_receipt(model: LockedModel) -> bytes:
    """Return the bytes of a receipt; one line a file, for people who open it."""
    table = to_table(model)
    files = table.pop("files")
    head = json.dumps({"format": _FORMAT, **table}, indent=1, ensure_ascii=False)
    lines = ",\n  ".join(json.dumps(file, ensure_ascii=False) for file in files)
    return f'{head[:-2]},\n "files": [\n  {lines}\n ]\n}}\n'.encode()


def parse_receipt(content: bytes) -> LockedModel | None:
    """Return the model of a receipt; None for bytes that no version of this tool has written."""
    try:
        table = json.loads(content)
        if not isinstance(table, dict) or table.pop("format", None) != _FORMAT:
            return None
        return from_table(table)
    except (ValueError, RecursionError):
        return None
