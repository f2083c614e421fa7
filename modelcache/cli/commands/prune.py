"""`prune`: remove the models that models.lock does not name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.cli import messages
from modelcache.cli.options import LockfileOptions, dry_run
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import LockfileError
from modelcache.core.text import size_in_words
from modelcache.core.types import LockedModel, WantedModel
from modelcache.pipeline.pins import read_lock, read_manifest
from modelcache.store.hub_view import remove_view
from modelcache.store.inspect_view import views_without_model
from modelcache.store.layout import Places
from modelcache.store.lookup import other_models
from modelcache.store.publish import remove, set_collection_mtimes
from modelcache.system.files import storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(LockfileOptions):
    """The options of `prune`."""

    dry_run: bool = dry_run()


def run(options: Options, reporter: LineReporter) -> None:
    """Remove the models that the lock does not name; a directory without a receipt stays."""
    locked = read_lock(options.lockfile)
    if locked is None:
        raise LockfileError(
            f"there is no {options.lockfile}, so the models to keep are not known",
            hint="Write one with `cache-models lock`.",
        )
    places = Places.below(options.root)
    with storage_errors(f"read {options.root}"):
        ours, foreign = other_models(locked, places)
    if options.manifest.exists():  # in an image the lock alone may say what is kept
        manifest = read_manifest(options.manifest)
        _refuse_wanted(manifest, ours, places, options)
        for model in _still_locked(manifest, locked, places):
            text = f"{model.id} is kept: {options.lockfile.name} still names it. `cache-models lock` drops it"
            reporter.event("note", text, model=model.id)
    for home in foreign:
        reporter.event("leave", f"{home} has no receipt: not written by this tool")
    locked_ids = {model.id for model in locked}  # in the other table a model has the same view
    for home, model in ours.items():
        reporter.event("remove", f"{model.id:<52} {size_in_words(model.size):>9}", model=model.id)
        if not options.dry_run:
            with storage_errors(f"remove {home}"):
                if places.hub and model.id not in locked_ids:
                    remove_view(places.hub, model.id)  # first, so that no link leads nowhere
                remove(home)
    _remove_views_without_model(places, options, reporter)
    if ours and not options.dry_run:
        set_collection_mtimes(places.collections.values())
    verb = "would be removed" if options.dry_run else "removed"
    reporter.line("ready", f"{messages.models(len(ours))} {verb} from {options.root}.", removed=len(ours))


def _remove_views_without_model(places: Places, options: Options, reporter: LineReporter) -> None:
    """Remove the Hub views of models that are not there any more."""
    with storage_errors(f"remove from {places.hub}"):
        for model_id in views_without_model(places.hub) if places.hub else ():
            reporter.event("remove", f"{model_id}: Hub view without a model", model=model_id)
            if places.hub and not options.dry_run:
                remove_view(places.hub, model_id)


def _refuse_wanted(
    manifest: Sequence[WantedModel], doomed: Mapping[Path, LockedModel], places: Places, options: Options
) -> None:
    """Refuse to remove models that the manifest wants: the lock is older than the manifest."""
    homes = {places.home(model.kind, model.id): model.id for model in manifest}
    if lost := [model.id for home, model in doomed.items() if homes.get(home) == model.id]:
        raise LockfileError(
            f"{options.manifest.name} wants models that {options.lockfile.name} does not name,"
            f" so they would be removed: {', '.join(lost)}",
            hint="Pin them with `cache-models lock`, then run `cache-models prune` again.",
        )


def _still_locked(
    manifest: Sequence[WantedModel], locked: Sequence[LockedModel], places: Places
) -> Iterable[LockedModel]:
    """Yield the models on disk that the lock still names, and the manifest does not."""
    wanted = {(model.kind, model.id) for model in manifest}
    for model in locked:
        if (model.kind, model.id) not in wanted and places.home(model.kind, model.id).exists():
            yield model
