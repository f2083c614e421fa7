"""Load a cached model in an application: by absolute path, without a request, and never a mix of two versions."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from modelcache.core.errors import StorageError
from modelcache.core.kinds import Kind
from modelcache.core.types import RemoteCode
from modelcache.store.layout import Places, read_receipt
from modelcache.store.lookup import find_model, refuse_other_kind
from modelcache.system.files import storage_errors

T = TypeVar("T")

_MOST_LOADS = 5
_CODE_LOCK = threading.RLock()
"""One thread at a time copies and imports code: transformers changes the import path of the whole process."""


def load(kind: Kind, model_id: str, root: Path, loader: Callable[..., T], options: Mapping[str, object]) -> T:
    """Call `loader(<absolute path>, **options)` so that it asks no network, and runs code where the receipt says so.

    The receipt is read before and after: of a model that was replaced meanwhile the loader may have read both versions,
    so it is loaded again. Raises as `find_model` and `refuse_other_kind`, and StorageError for a model that is replaced
    again and again.
    """
    of_root = Places.below(root)
    refuse_other_kind(model_id, kind, of_root)
    places = Places({kind: of_root.collections[kind]})
    for _ in range(_MOST_LOADS):
        directory, published = find_model(model_id, places)
        trust = published.remote_code is RemoteCode.VENDORED
        arguments = {"local_files_only": True, "trust_remote_code": trust, **options}
        with _CODE_LOCK if trust else nullcontext():
            if trust:
                _use_private_code_folder()
            model = loader(str(directory), **arguments)
        with storage_errors(f"read {directory}"):
            if read_receipt(directory) == published:
                return model
    raise StorageError(
        f"{model_id} was replaced {_MOST_LOADS} times while it was loaded",
        hint="Runs with different locks may share this root: give each lock a root of its own.",
    )


def _use_private_code_folder() -> None:
    """Give transformers a directory of this process for the code it copies and imports, unless one is set.

    Its own default is below the home, which is not there or not writable in a container; and any user who can write
    to it can replace the pinned code (dynamic_module_utils.py, get_cached_module_file).
    """
    if "HF_MODULES_CACHE" in os.environ:
        return
    folder, owner = tempfile.mkdtemp(prefix="cache-models-code-"), os.getpid()
    os.environ["HF_MODULES_CACHE"] = folder  # also for processes that are started to share the work

    def remove() -> None:
        if os.getpid() == owner:  # a fork that ends must not remove it for the others
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    for name in ("transformers.utils", "transformers.utils.hub", "transformers.dynamic_module_utils"):
        if name in sys.modules:  # it has read the variable already
            vars(sys.modules[name])["HF_MODULES_CACHE"] = folder
