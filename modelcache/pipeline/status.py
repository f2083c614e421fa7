"""The state of each model in a root: what is wanted, what is there, and how these differ. No request is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.core.errors import IntegrityError
from modelcache.core.status import ModelStatus, State
from modelcache.core.text import escape, join_names
from modelcache.core.types import LockedModel, Verification, WantedModel
from modelcache.formats.manifest import refuse_unknown
from modelcache.pipeline.index_id import index_id_of
from modelcache.pipeline.pins import Project, matching_pins, read_lock, read_manifest
from modelcache.stamp import Facts
from modelcache.store.inspect import OTHER_VERSION, foreign_files, inspect, mark_damaged, stamped_in
from modelcache.store.inspect_view import NO_VIEW, inspect_view
from modelcache.store.layout import read_receipt
from modelcache.store.leases import Leases
from modelcache.store.lookup import other_models
from modelcache.system.files import retry_if_replaced, storage_errors

_NOT_OURS = "not written by this tool"
_NO_RECEIPT = "it has no receipt"


def read_status(project: Project, ids: Sequence[str] = ()) -> list[ModelStatus]:
    """Return the state of the models of manifest and lock, then of all else in the root; with ids, of these only.

    Where there is no manifest, the lock alone says what is wanted.
    """
    places, locked = project.places, read_lock(project.lockfile)
    lock_alone = locked is not None and not project.manifest.exists()
    manifest = () if lock_alone else read_manifest(project.manifest)
    listed = {(model.kind, model.id) for model in manifest}
    unlisted = [model for model in locked or () if (model.kind, model.id) not in listed]
    with storage_errors(f"read {project.root}"):
        others, foreign = other_models([*manifest, *unlisted], places)
    if ids:
        known = [*(model.id for model in manifest), *(model.id for model in (*unlisted, *others.values()))]
        where = f"{project.manifest.name}, {project.lockfile.name} or {project.root}"
        refuse_unknown(ids, known, where)
        manifest = tuple(model for model in manifest if model.id in ids)
        unlisted = [model for model in unlisted if model.id in ids]
        others, foreign = {home: model for home, model in others.items() if model.id in ids}, []

    look = _Look(project, stamped_in(project.root))
    pins = matching_pins(manifest, locked, places)
    note = () if lock_alone else (f"{project.manifest.name} does not list it",)
    kinds = {collection: kind for kind, collection in places.collections.items()}
    return [
        *(look.at(model, pins.get(model), look.stale(model, locked or ())) for model in manifest),
        *(look.at(pin, pin, note) for pin in unlisted),
        *(_not_wanted(home, model) for home, model in others.items()),
        *(ModelStatus(kinds[home.parent], "", home, State.FOREIGN, differences=(_NOT_OURS,)) for home in foreign),
    ]


def index_id_of_ready(status: ModelStatus) -> str | None:
    """Return the identity of an index with the vectors of a model.

    None where it gives none, is not ready, or is being replaced just now.
    """
    if status.state is not State.READY:
        return None
    with storage_errors(f"read {status.path}"), suppress(IntegrityError):
        published = read_receipt(status.path)
        return index_id_of(status.path, published) if published else None
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at the directories of a root."""

    project: Project
    stamped: Callable[[Path], Facts]

    def stale(self, wanted: WantedModel, locked: Sequence[LockedModel]) -> tuple[str, ...]:
        """Return how the pin of the lock, if there is one, does not fit the manifest; in one sentence, or none."""
        pins = [pin for pin in locked if (pin.kind, pin.id) == (wanted.kind, wanted.id)]
        misfits = ", ".join(str(misfit) for pin in pins for misfit in pin.misfits(wanted))
        return (f"{self.project.lockfile.name} has {misfits}",) if misfits else ()

    def at(self, model: WantedModel | LockedModel, pin: LockedModel | None, notes: tuple[str, ...] = ()) -> ModelStatus:
        """Return the state of a model; `pin` says what it should be, if that is known."""
        home = self.project.places.home(model.kind, model.id)
        with storage_errors(f"read {home}"):
            published, state, differences = retry_if_replaced(lambda: _compare(home, model, pin, self.stamped(home)))
        if pin is None and published and isinstance(model, WantedModel) and not notes:
            differences = list(map(str, published.misfits(model)))
        if state not in (State.READY, State.ABSENT):
            mark_damaged(home)  # a stamp may still vouch for it, and `sync` has to inspect it
        known, hub = pin or published, self.project.places.hub
        with storage_errors(f"read {hub}"):
            view = inspect_view(hub, known) if hub and known and state is State.READY else NO_VIEW
        if view.difference:
            differences = [*differences, f"Hub view: {view.difference}"]
        status = ModelStatus(
            model.kind,
            model.id,
            home,
            state,
            commit=known.commit if known else "",
            size=known.size if known else 0,
            found_commit=published.commit if published else "",
            differences=(*notes, *differences),
            hub_view=view.there and view.difference is None,
        )
        return status if state in (State.READY, State.FOREIGN) else _with_staging(status, pin)


def _compare(
    home: Path, model: WantedModel | LockedModel, pin: LockedModel | None, stamped: Facts
) -> tuple[LockedModel | None, State, Sequence[str]]:
    """Return the version that is there, and how it compares with its pin: by names, sizes and times, as for `sync`."""
    if not home.is_dir():
        taken = os.path.lexists(home)
        return None, State.FOREIGN if taken else State.ABSENT, ["not a directory"] if taken else []
    published = read_receipt(home)
    if published is None:
        foreign = foreign_files(inspect(home, pin, stamped).verification) if pin else []
        return None, State.FOREIGN if foreign else State.DAMAGED, [_NOT_OURS if foreign else _NO_RECEIPT]
    if published.id != model.id:
        return published, State.FOREIGN, [f"{published.id} is there"]
    if pin is None:
        return published, State.OTHER_VERSION, []
    found = inspect(home, pin, stamped)
    if found.difference == OTHER_VERSION:
        return published, State.OTHER_VERSION, _between(published, pin)
    damaged = bool(found.difference)
    return published, State.DAMAGED if damaged else State.READY, _files(found.verification) if damaged else []


def _between(there: LockedModel, pin: LockedModel) -> list[str]:
    """Return how the version that is there differs from the one that is wanted."""
    differences = [str(misfit) for misfit in there.differs_from(pin)]
    if there.commit != pin.commit:
        return differences
    files = there.other_files(pin)
    return [*differences, *([f"other files ({join_names(files, 3)})"] if files else [])]


def _files(found: Verification) -> list[str]:
    return [
        *(f"missing {escape(path)}" for path in found.missing),
        *(f"extra {escape(path)}" for path in found.extra),
        *(f"changed {escape(one.path)}" for one in found.changed),
    ]


def _not_wanted(home: Path, model: LockedModel) -> ModelStatus:
    return ModelStatus(model.kind, model.id, home, State.NOT_WANTED, model.commit, model.size, model.commit)


def _with_staging(status: ModelStatus, pin: LockedModel | None) -> ModelStatus:
    """Return a state with the bytes that a run has staged; staging that cannot be read is not counted."""
    leases, name = Leases(status.path.parent), status.path.name
    fetched = to_fetch = 0
    with suppress(OSError):
        if stagings := leases.stagings_of(name):
            from modelcache.transfer.staged_bytes import bytes_staged  # it takes time to import, and few runs need it

            fetched, to_fetch = bytes_staged(stagings, pin)
    state = State.PARTLY_FETCHED if fetched and status.state is State.ABSENT else status.state
    return replace(status, state=state, fetched=fetched, to_fetch=to_fetch, fetching=leases.is_held(name))
