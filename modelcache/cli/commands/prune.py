"""`prune`: remove the models that models.lock does not name."""

from __future__ import annotations

from dataclasses import dataclass

from modelcache.cli import messages
from modelcache.cli.options import LockfileOptions, dry_run
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import LockfileError
from modelcache.pipeline.pins import read_lock
from modelcache.store.layout import Places
from modelcache.store.lookup import models_not_locked
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
            f"there is no {options.lockfile}, so nothing says which models to keep",
            hint="Write one with `cache-models lock`.",
        )
    with storage_errors(f"read {options.root}"):
        ours, foreign = models_not_locked(locked, Places.below(options.root))
    for home in foreign:
        reporter.event("leave", f"{home} has no receipt: not written by this tool")
    for home, model in ours.items():
        reporter.event("remove", f"{model.id:<52} {messages.size(model.size):>9}", model=model.id)
        if not options.dry_run:
            with storage_errors(f"remove {home}"):
                remove(home)
    if ours and not options.dry_run:
        set_collection_mtimes(Places.below(options.root).collections.values())
    verb = "would be removed" if options.dry_run else "removed"
    reporter.line("ready", f"{messages.models(len(ours))} {verb} from {options.root}.", removed=len(ours))
