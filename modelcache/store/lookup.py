"""Look models up in a root: the path of one, and those that are none of the known ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, UsageError
from modelcache.core.hub_view import DEFAULT_REF, view_folder
from modelcache.core.kinds import Kind
from modelcache.core.model_ids import is_id, similar_ids, unknown_id
from modelcache.core.names import problem_with_id, sanitize_model_id
from modelcache.core.types import LockedModel, WantedModel
from modelcache.store.inspect import compare_with_receipt, mark_damaged_with_hint
from modelcache.store.inspect_view import own_entries, own_snapshots, read_ref
from modelcache.store.layout import Places, read_receipt
from modelcache.system.files import storage_errors


def model_path(model_id: str, places: Places, listed: Sequence[str] = ()) -> Path:
    """Return the absolute directory of a cached model; raises as `find_model`."""
    return find_model(model_id, places, listed)[0]


def find_model(model_id: str, places: Places, listed: Sequence[str] = ()) -> tuple[Path, LockedModel]:
    """Return the absolute directory of a cached model, and the version there by its receipt.

    `listed` are the ids of the manifest: like those in the root, they may be the one that is meant. An id that is in
    two collections, as its old directory has not been pruned yet, is the model that its Hub view leads to: the view
    is that of the version that was published last.

    Raises:
        UsageError: the model is not there, or its directory holds another one.
        IntegrityError: it is there and not whole.
        StorageError: it cannot be read.

    """
    refused: CacheModelsError | None = None
    shown = _kind_in_view(model_id, places)
    for kind in sorted(places.collections, key=lambda kind: kind is not shown):
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
            message = f"{model_id} is damaged or incomplete in {home.parent}"
            refused = IntegrityError(message, hint=mark_damaged_with_hint(home), verification=found)
            if kind is shown:  # another one is an old version
                break
    if refused:
        raise refused
    if model_id not in listed:
        _refuse_similar(model_id, places, listed)
    raise UsageError(
        f"{model_id} is {_not_in(places)}",
        hint="Run `cache-models sync` first, if models.toml lists it, or check --root (CACHE_MODELS_ROOT).",
    )


def refuse_other_kind(model_id: str, kind: Kind, places: Places) -> None:
    """Refuse to load a model that is there as another kind and not as this one.

    Raises:
        UsageError: with the function that loads it.

    """
    there = _kinds_there(model_id, places)
    for other in there if kind not in there else ():
        published = None
        with suppress(OSError):  # then it cannot be loaded, whatever it is
            published = read_receipt(places.home(other, model_id))
        if published is None or published.id != model_id:
            continue
        if not other.spec.loads:
            message = f"{model_id} is published as [[{other}]], which nothing here loads"
            raise UsageError(message, hint="`cache_models.model_path` gives its directory.")
        message = f"{model_id} is {other.spec.noun} and not {kind.spec.noun}: it is in {places.collections[other]}"
        raise UsageError(message, hint=f"Use `cache_models.{other.spec.loader}`.")


def _kind_in_view(model_id: str, places: Places) -> Kind | None:
    """Return the kind as which a model is in the Hub view, where it is there as several.

    None if the view does not say: it may be held, or the volume has no links.
    """
    there = _kinds_there(model_id, places)
    if places.hub is None or len(there) < 2:
        return None
    folder = places.hub / view_folder(model_id)
    with suppress(OSError):
        commit = read_ref(folder / "refs" / DEFAULT_REF)
        if commit in own_snapshots(folder):
            targets = [target.lstrip("./") for _, target in own_entries(folder / "snapshots" / commit)]
            homes = {kind: f"{kind.spec.collection}/{sanitize_model_id(model_id)}/" for kind in there}
            return next((kind for kind in there if any(target.startswith(homes[kind]) for target in targets)), None)
    return None


def _kinds_there(model_id: str, places: Places) -> list[Kind]:
    """Return the kinds in whose collections a model may be."""
    return [kind for kind in places.collections if is_id(model_id) and os.path.isdir(places.home(kind, model_id))]


def _not_in(places: Places) -> str:
    """Return where a model was looked for."""
    first, *more = places.collections.values()
    return f"in no cached_*_models directory of {first.parent}" if more else f"not in {first}"


def _refuse_similar(model_id: str, places: Places, listed: Sequence[str]) -> None:
    """Refuse an id with those of the manifest and of the root that are meant or similar; return if none is."""
    known = list(listed)
    with suppress(OSError):  # then there is less to suggest
        known += [model.id for model in other_models((), places)[0].values() if model.id != model_id]
    if similar_ids(model_id, known):
        raise UsageError(
            f"{unknown_id(model_id, known)} is {_not_in(places)}", hint="`cache-models status` lists the models."
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
