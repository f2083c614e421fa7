"""Whether huggingface_hub finds each file of a model by its id, in the Hub view of its root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelcache.core.hub_view import HUB_NAME, view_folder
from modelcache.core.names import RECEIPT_NAME
from modelcache.system.files import walk


def view_of(root: Path, model_id: str) -> Path:
    """Return the directory of a model's view."""
    return root / HUB_NAME / view_folder(model_id)


def not_found_by_id(model_id: str, directory: Path, root: Path) -> list[str]:
    """Return the files of a model that a program does not find by its id, or finds elsewhere; no request is made."""
    from huggingface_hub import try_to_load_from_cache

    wrong = []
    for path, entry in walk(directory):
        if stat.S_ISREG(entry.st_mode) and path != RECEIPT_NAME:
            found = try_to_load_from_cache(model_id, path, cache_dir=root / HUB_NAME)
            if not isinstance(found, str) or not os.path.samefile(found, directory / path):
                wrong.append(path)
    return sorted(wrong)
