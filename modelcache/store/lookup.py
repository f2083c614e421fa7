"""Look models up in a root: the path of one, the status of each, and those that the lock does not name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, UsageError
from modelcache.core.names import problem_with_id
from modelcache.core.types import LockedModel, WantedModel
from modelcache.stamp import Facts
from modelcache.store.inspect import OTHER_VERSION, compare_with_receipt, inspect, mark_damaged, mark_damaged_with_hint
from modelcache.store.layout import Places, read_receipt
from modelcache.system.files import storage_errors


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One line of `status`; `size` is in bytes, `state` begins with ready, absent, other version or damaged."""

    kind: str
    id: str
    commit: str
    size: int
    state: str
    path: str


def status_row(wanted: WantedModel, pin: LockedModel | None, places: Places, stamped: Facts) -> StatusRow:
    """Return the status of a wanted model; `pin` comes from the lock, or else from its receipt."""
    home = places.home(wanted.kind, wanted.id)
    with storage_errors(f"read {home}"):
        model = pin or read_receipt(home)
        if pin is not None:
            difference = inspect(home, pin, stamped).difference
        else:
            difference = OTHER_VERSION if home.exists() else ""
    states = {None: "ready", "": "absent", OTHER_VERSION: "other version"}
    state = states.get(difference, f"damaged: {difference}")
    if state not in ("ready", "absent"):
        mark_damaged(home)  # a stamp may still vouch for it, and `sync` has to inspect it
    commit, size = (model.commit, model.size) if model else ("", 0)
    return StatusRow(str(wanted.kind), wanted.id, commit, size, state, str(home))


def model_path(model_id: str, places: Places) -> Path:
    """Return the absolute directory of a cached model; raises as `find_model`."""
    return find_model(model_id, places)[0]


def find_model(model_id: str, places: Places) -> tuple[Path, LockedModel]:
    """Return the absolute directory of a cached model, and the version there by its receipt.

    Raises:
        UsageError: the model is not there, or its directory holds another one.
        IntegrityError: it is there and not whole.
        StorageError: it cannot be read.

    """
    refused: CacheModelsError | None = None
    for kind, collection in places.collections.items():
        if problem := problem_with_id(model_id, kind):
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
    where = " or ".join(str(collection) for collection in places.collections.values())
    raise UsageError(
        f"{model_id} is not in {where}",
        hint="Run `cache-models sync` first, if models.toml lists it, or check --root.",
    )


def models_not_locked(locked: Sequence[LockedModel], places: Places) -> tuple[dict[Path, LockedModel], list[Path]]:
    """Return the models that the lock does not name, by directory, and the directories that this tool did not write."""
    kept = {places.home(model.kind, model.id) for model in locked}
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
