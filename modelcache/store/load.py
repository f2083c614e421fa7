"""Loading a cached model in an application: by absolute path, without a request, the version that is there."""

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
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.store.layout import Places
from modelcache.store.lookup import model_path
from modelcache.store.receipts import read_receipt
from modelcache.system.files import storage_errors

T = TypeVar("T")

_TIMES = 5
_CODE = threading.RLock()
"""Code is copied and imported by one thread at a time: transformers changes what the whole process imports from."""


def load(kind: Kind, model_id: str, root: Path, loader: Callable[..., T], options: Mapping[str, object]) -> T:
    """Call `loader(<absolute path>, **options)` so that it asks no network, and runs code where the receipt says so.

    The receipt is read before and after: a model that was replaced meanwhile may have been read half and half, and is
    loaded again.

    Raises:
        UsageError: the model is not there.
        IntegrityError: it is there and not whole.
        StorageError: it cannot be read, or does not keep still.

    """
    places = Places({kind: Places.below(root).collections[kind]})
    for _ in range(_TIMES):
        directory = model_path(model_id, places)
        before = _receipt(directory)
        trust = before is not None and before.remote_code is RemoteCode.VENDORED
        words = {"local_files_only": True, "trust_remote_code": trust, **options}
        with _CODE if trust else nullcontext():
            if trust:
                _keep_code_to_ourselves()
            model = loader(str(directory), **words)
        if before is not None and _receipt(directory) == before:
            return model
    raise StorageError(
        f"{model_id} was replaced {_TIMES} times while it was loaded", hint="Give each lock a root of its own."
    )


def _receipt(directory: Path) -> LockedModel | None:
    with storage_errors(f"read {directory}"):
        return read_receipt(directory)


def _keep_code_to_ourselves() -> None:
    """Give transformers a directory of this process for the code it copies and imports, unless one is set.

    Its own default is below the home, which is not there or not writable in a container; and whoever can write to
    it can put other code in the place of what was pinned (dynamic_module_utils.py, get_cached_module_file).
    """
    if "HF_MODULES_CACHE" in os.environ:
        return
    folder, owner = tempfile.mkdtemp(prefix="cache-models-code-"), os.getpid()
    os.environ["HF_MODULES_CACHE"] = folder  # also for the processes that are started to share the work

    def remove() -> None:
        if os.getpid() == owner:  # a fork that ends must not take it away from the others
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    for name in ("transformers.utils", "transformers.utils.hub", "transformers.dynamic_module_utils"):
        if name in sys.modules:  # it has read the variable already
            vars(sys.modules[name])["HF_MODULES_CACHE"] = folder
