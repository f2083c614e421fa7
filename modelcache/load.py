"""Loading a cached model in an application: by absolute path, without a request, the version that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from modelcache.errors import StorageError
from modelcache.layout import Places
from modelcache.receipt import read_receipt
from modelcache.records import Kind, RemoteCode
from modelcache.status import model_path

T = TypeVar("T")

_TIMES = 5


def load(kind: Kind, model_id: str, root: Path, loader: Callable[..., T], options: Mapping[str, object]) -> T:
    """Call `loader(<absolute path>, **options)` so that it asks no network, and runs code where the receipt says so.

    The receipt is read before and after: a model that was replaced meanwhile may have been read half and half, and is
    loaded again.

    Raises:
        UsageError: the model is not there.
        IntegrityError: it is there and not whole.
        StorageError: it does not keep still.

    """
    places = Places({kind: Places.below(root).collections[kind]})
    for _ in range(_TIMES):
        directory = model_path(model_id, places)
        before = read_receipt(directory)
        trust = before is not None and before.remote_code is RemoteCode.VENDORED
        model = loader(str(directory), **{"local_files_only": True, "trust_remote_code": trust, **options})
        if before is not None and read_receipt(directory) == before:
            return model
    raise StorageError(
        f"{model_id} was replaced {_TIMES} times while it was loaded", hint="Give each lock a root of its own."
    )
