"""Compare the models on disk with their pins: no request is made, nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from modelcache.core.errors import CacheModelsError, IntegrityError, LockfileError, StorageError, UsageError, raise_all
from modelcache.core.hub_view import HUB_NAME, view_folder
from modelcache.core.interfaces import Reporter
from modelcache.core.names import RECEIPT_NAME
from modelcache.core.types import LockedModel, Verification, WantedModel
from modelcache.formats.manifest import refuse_unknown, select
from modelcache.pipeline.pins import Project, matching_pins, read_lock, read_manifest, read_policy, refuse_stale_lock
from modelcache.stamp import invalidate_stamp
from modelcache.store.inspect import foreign_files, inspect, mark_damaged_with_hint, stamped_in, verify
from modelcache.store.inspect_view import NO_VIEW, UNFINISHED, ViewInspection, inspect_view
from modelcache.store.layout import read_receipt
from modelcache.system.files import storage_errors
from modelcache.system.limits import affordable
from modelcache.system.threads import Pool


def pins_without_network(
    project: Project, ids: Sequence[str] = (), *, fitting: bool
) -> tuple[Sequence[LockedModel], Sequence[WantedModel]]:
    """Return the pins of the lock, or those of some ids; with `fitting` the lock has to match the manifest.

    Without a lock, the pins of the receipts, and the wanted models that have none.
    """
    locked = read_lock(project.lockfile)
    if locked is not None:
        if fitting:
            refuse_stale_lock(read_manifest(project.manifest), locked, project.lockfile)
        _refuse_not_locked(ids, [model.id for model in locked], project)
        return [model for model in locked if not ids or model.id in ids], ()
    if project.locked:
        raise LockfileError(f"there is no {project.lockfile}", hint="Write one with `cache-models lock`.")
    wanted = select(read_manifest(project.manifest), ids)
    pins = matching_pins(wanted, None, project.places)
    return list(pins.values()), [model for model in wanted if model not in pins]


def pins_of_image(project: Project, ids: Sequence[str]) -> Sequence[LockedModel]:
    """Return the pins of the models that an image is made of.

    Raises:
        IntegrityError: without a lock, a wanted model is not in the root.
        PolicyError: the manifest, where there is one, forbids some of them.
        UsageError: there are none.

    """
    pins, absent = pins_without_network(project, ids, fitting=project.locked)
    raise_all([*read_policy(project.manifest).refusals((), pins), *missing_errors(absent, project)])
    if not pins:
        raise UsageError(f"{project.lockfile.name} names no model", hint="Add one with `cache-models add ID`.")
    return pins


def _refuse_not_locked(ids: Sequence[str], locked: Sequence[str], project: Project) -> None:
    """Refuse ids that the lock does not name; of those that not even the manifest lists, say which are meant."""
    if not set(ids) - set(locked):
        return
    listed: list[str] = []
    with suppress(CacheModelsError):  # without a manifest the lock alone says what there is
        listed = [model.id for model in read_manifest(project.manifest)]
    where = f"{project.lockfile.name} or {project.manifest.name}"
    refuse_unknown(ids, [*locked, *listed], where)
    unpinned = ", ".join(dict.fromkeys(one for one in ids if one not in locked))
    raise LockfileError(f"{project.lockfile.name} does not pin {unpinned}", hint="Run `cache-models lock`.")


def missing_errors(absent: Sequence[WantedModel], project: Project) -> list[CacheModelsError]:
    """Return an error for each wanted model that has no pin here."""
    errors: list[CacheModelsError] = []
    for model in absent:
        home = project.places.home(model.kind, model.id)
        state = f"not as {project.manifest.name} asks" if os.path.lexists(home) else "not there"
        errors.append(IntegrityError(f"{model.id} is {state} ({home})", hint=_sync_hint(model.id, home)))
    return errors


def intact_models(
    pins: Sequence[LockedModel],
    project: Project,
    errors: list[CacheModelsError],
    *,
    quick: bool,
    without_view: list[str] | None = None,
    reporter: Reporter | None = None,
) -> Iterator[LockedModel]:
    """Yield the models that are on disk as pinned; append an error for each of the others.

    `reporter` gets the number of bytes as they are compared.

    A model without a Hub view is as pinned: a volume without links has none. Its id is appended to `without_view`.
    """
    places, stamped = project.places, stamped_in(project.root)
    if reporter and not quick:
        reporter.expect("verify", sum(model.size for model in pins))
    advance = reporter.advance if reporter else None
    cores = affordable(max(2, os.cpu_count() or 2))
    # Several models at a time, because a model is often one large file, which is hashed on one core.
    with Pool(cores, "model") as models, Pool(cores, "file") as files:

        def compare(model: LockedModel) -> tuple[Verification, ViewInspection] | StorageError:
            home = places.home(model.kind, model.id)
            try:
                with storage_errors(f"read {home}"):
                    found = (
                        inspect(home, model, stamped(home)).verification
                        if quick
                        else verify(home, model, files, advance)
                    )
                    return found, inspect_view(places.hub, model) if places.hub else NO_VIEW
            except StorageError as error:
                return error

        for model, compared in zip(pins, models.map(compare, pins), strict=True):
            if isinstance(compared, StorageError):
                errors.append(compared)
                continue
            found, view = compared
            if not found.ok:
                errors.append(model_error(model, found, project))
            elif view.there and view.difference not in (None, UNFINISHED):
                errors.append(_view_error(model, view, project))
            else:
                if without_view is not None and view.difference and not view.there:
                    without_view.append(model.id)
                yield model
    if reporter and not quick:
        reporter.expect("verify", 0)


def model_error(model: LockedModel, found: Verification, project: Project) -> IntegrityError:
    """Return the error of a model that differs from its pin, with its repair; the next `sync` will inspect it."""
    home = project.places.home(model.kind, model.id)
    there = os.path.lexists(home)
    state = "does not match its pin" if there else "is not there"
    listed = found if there else None  # of a model that is not there, no file is news
    hint = _repair_hint(model, home, found, project)
    return IntegrityError(f"{model.id} {state} ({home})", verification=listed, hint=hint)


def _view_error(model: LockedModel, view: ViewInspection, project: Project) -> IntegrityError:
    """Return the error of a model that programs find in another version by its id, or not at all."""
    folder = f"{HUB_NAME}/{view_folder(model.id)}"
    invalidate_stamp(str(project.root), folder)
    message = f"{model.id} has a Hub view that does not match its pin ({project.root / folder}): {view.difference}"
    return IntegrityError(message, hint="Run `cache-models sync` to write it again.")


def _repair_hint(model: LockedModel, home: Path, found: Verification, project: Project) -> str:
    """Return how to repair a model: `sync` fetches only what the manifest lists."""
    with suppress(CacheModelsError):  # no manifest can be read
        if (model.kind, model.id) not in [(wanted.kind, wanted.id) for wanted in read_manifest(project.manifest)]:
            return (
                f"{project.manifest} does not list it, so `sync` leaves it alone. Add it there, or take it out of"
                f" {project.lockfile.name} with `cache-models lock`."
            )
    return _sync_hint(model.id, home, found)


def _sync_hint(model_id: str, home: Path, found: Verification | None = None) -> str:
    """Return how to get a model into its directory: `sync` replaces no file, and no directory or model of others."""
    published = None
    with suppress(OSError):  # `sync` reports that
        published = read_receipt(home)
    occupied = os.path.lexists(home) and (home.is_symlink() or not home.is_dir())
    foreign = found is not None and published is None and foreign_files(found)
    if occupied or foreign or (published is not None and published.id != model_id):
        return f"Move {home} away or delete it, then run `cache-models sync`."
    # With a receipt of another version, `sync` replaces the model and reads no file.
    changed = [] if found is None or published is None else [file.path for file in found.changed]
    return mark_damaged_with_hint(home, [] if RECEIPT_NAME in changed else changed)
