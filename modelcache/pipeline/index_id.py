"""The identity of an index that holds the vectors of a published model; see `resolver.index_id`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from modelcache.core.errors import IntegrityError, UsageError
from modelcache.core.types import LockedFile, LockedModel
from modelcache.resolver.index_id import index_id
from modelcache.store.layout import Places, read_receipt
from modelcache.store.lookup import find_model
from modelcache.store.pinned_content import pinned_content
from modelcache.system.files import storage_errors

_TRIES = 5


def index_id_of(home: Path, model: LockedModel) -> str | None:
    """Return the identity of an index of a model that is published in `home`; None where it gives no vectors.

    Raises:
        IntegrityError: a configuration there is not as pinned.

    """
    return index_id(model, partial(_read, home))


def index_id_by_name(model_id: str, places: Places) -> str:
    """Return the identity of an index of a model in a root; that of one version, also while another one is published.

    Raises:
        UsageError: it gives no vectors; else as `find_model`.

    """
    for _ in range(_TRIES):
        home, published = find_model(model_id, places)
        try:
            found = index_id_of(home, published)
        except IntegrityError as error:
            failure = error
            with storage_errors(f"read {home}"):
                if read_receipt(home) == published:
                    break
        else:
            return _of_vectors(published, found)
    raise failure


def _of_vectors(model: LockedModel, found: str | None) -> str:
    if found is None:
        message = f"{model.id} is {model.kind.spec.noun}, which gives no vectors for an index"
        raise UsageError(message, hint="Ask for the id of a model whose vectors are stored.")
    return found


def _read(home: Path, file: LockedFile) -> bytes:
    content = pinned_content(file, [home / file.path])
    if content is None:
        message = f"{home / file.path} is not as pinned, or cannot be read"
        raise IntegrityError(message, hint="Run `cache-models verify`, which names every difference.")
    return content
