"""Look models up in a root: the path of one, and those that are none of the known ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, UsageError
from modelcache.core.model_ids import similar_ids, unknown_id
from modelcache.core.names import problem_with_id
from modelcache.core.types import LockedModel, WantedModel
from modelcache.store.inspect import compare_with_receipt, mark_damaged_with_hint
from modelcache.store.layout import Places, read_receipt
from modelcache.system.files import storage_errors


def model_path(model_id: str, places: Places, listed: Sequence[str] = ()) -> Path:
    """Return the absolute directory of a cached model; raises as `find_model`."""
    return find_model(model_id, places, listed)[0]


def find_model(model_id: str, places: Places, listed: Sequence[str] = ()) -> tuple[Path, LockedModel]:
    """Return the absolute directory of a cached model, and the version there by its receipt.

    `listed` are the ids of the manifest: like those in the root, they may be the one that is meant.

    Raises:
        UsageError: the model is not there, or its directory holds another one.
        IntegrityError: it is there and not whole.
        StorageError: it cannot be read.

    """
    refused: CacheModelsError | None = None
    for kind, collection in places.collections.items():
        if problem := problem_with_id(model_id, kind):
            _refuse_similar(model_id, places, listed)
            raise UsageError(problem, hint="Use ids as the Hub has them: owner/name.")
        home = places.home(kind, model_id)
        with storage_errors(f"read {home}"):
            if not home.is_dir():
                continue
            published, found = compare_with_receipt(home)
        if published and published.id != model_id:
            hint = "Cache them under different roots (--root), or move it away."
            refused = UsageError(f"{home} holds {published.id}, not {model_id}", hint=hint)
        elif published and found.ok:
            return home, published
        else:
            message = f"{model_id} is not whole in {collection}"
            refused = IntegrityError(message, hint=mark_damaged_with_hint(home), verification=found)
    if refused:
        raise refused
    if model_id not in listed:
        _refuse_similar(model_id, places, listed)
    where = " or ".join(str(collection) for collection in places.collections.values())
    raise UsageError(
        f"{model_id} is not in {where}",
        hint="Run `cache-models sync` first, if models.toml lists it, or check --root.",
    )


def _refuse_similar(model_id: str, places: Places, listed: Sequence[str]) -> None:
    """Refuse an id with those of the manifest and of the root that are meant or similar; return if none is."""
    known = list(listed)
    with suppress(OSError):  # then there is less to suggest
        known += [model.id for model in other_models((), places)[0].values() if model.id != model_id]
    if similar_ids(model_id, known):
        where = " or ".join(str(collection) for collection in places.collections.values())
        raise UsageError(
            f"{unknown_id(model_id, known)} is not in {where}", hint="`cache-models status` lists the models."
        )


def other_models(
    known: Sequence[LockedModel | WantedModel], places: Places
) -> tuple[dict[Path, LockedModel], list[Path]]:
    """Return the models of a root that are none of the known ones, by directory, and directories without a receipt."""
    kept = {places.home(model.kind, model.id) for model in known}
    ours, foreign = {}, []
    for collection in places.collections.values():
        for home in _visible_entries(collection):
            if home in kept:
                continue
            if published := read_receipt(home):
                ours[home] = published
            else:
                foreign.append(home)
    return ours, foreign


def _visible_entries(collection: Path) -> list[Path]:
    try:
        return sorted(path for path in collection.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
