"""`sync`: fetch and publish what is missing in a root, then update models.lock and the stamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.cli import messages
from modelcache.cli.options import TransferOptions, option
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import run_context
from modelcache.core.plan import Action
from modelcache.core.types import LockedModel, WantedModel
from modelcache.fastpath import nothing_to_do
from modelcache.formats.lockfile import format_lock, parse_lock
from modelcache.formats.manifest import parse_manifest, select
from modelcache.pipeline.pins import matching_pins, refuse_stale_lock
from modelcache.pipeline.sync import Synced, sync
from modelcache.stamp import key_of, write_stamp
from modelcache.store.layout import Places
from modelcache.store.publish import set_collection_mtimes
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import absolute, read_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TransferOptions):
    """The options of `sync`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models of the manifest")
    other_root: Path | None = option(
        "--from",
        default=None,
        metavar="DIR",
        type=lambda text: absolute(text) if text else None,
        help="copy from another root instead of asking the Hub",
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Make the root hold what the lock pins; update the lock and the stamp."""
    if not options.ids and not options.dry_run and _nothing_to_do(options):
        return
    # Each is read once: the stamp has to name the content that this run has used, even if it changes meanwhile.
    manifest_bytes, lock_bytes = read_bytes(options.manifest), read_bytes(options.lockfile)
    manifest = parse_manifest(manifest_bytes, options.manifest)
    locked = None if lock_bytes is None else parse_lock(lock_bytes, options.lockfile.name)
    wanted = select(manifest, options.ids)
    if options.locked:
        refuse_stale_lock(manifest, locked, options.lockfile.name)
    synced = sync(wanted, locked, run_context(options, reporter, options.other_root), dry_run=options.dry_run)
    if options.dry_run:
        for line in messages.plan_lines(synced.steps):
            reporter.line("plan", line)
        return
    for step in synced.steps:
        if step.action is Action.KEEP and any(other.action is not Action.KEEP for other in synced.steps):
            reporter.event("keep", step.model.id, model=step.model.id)
    set_collection_mtimes(Places.below(options.root).collections.values())
    lock_bytes = _update_lock(options, manifest, locked, lock_bytes, synced, reporter) or lock_bytes
    if not options.ids and len(synced.facts) == len(synced.pins):  # a stamp covers only files that were looked at
        facts = {path: fact for below in synced.facts.values() for path, fact in below.items()}
        key = key_of(manifest_bytes or b"", lock_bytes, locked=options.locked)
        write_stamp(str(options.root), key, len(synced.pins), facts)
    reporter.line(
        "ready", messages.summary(synced.steps, options.root), models=len(synced.steps), root=str(options.root)
    )


def _nothing_to_do(options: Options) -> bool:
    return nothing_to_do(
        root=str(options.root),
        manifest=str(options.manifest),
        lockfile=str(options.lockfile),
        locked=options.locked,
        quiet=options.quiet,
        as_json=options.log_format == "json",
    )


def _update_lock(
    options: Options,
    manifest: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    lock_bytes: bytes | None,
    synced: Synced,
    reporter: LineReporter,
) -> bytes | None:
    """Write the lock if this run has pinned more or otherwise; return its new content.

    An existing lock gets the pins of this run, and none of a receipt: another user may have written it.
    """
    held = matching_pins(manifest, locked, None)
    pins = held | {model: pin for model, pin in synced.pins.items() if locked is None or model in synced.pinned}
    for model in synced.pins.keys() - pins.keys():
        text = f"{model.id} is kept as its receipt says, and {options.lockfile.name} does not name it: run `lock`"
        reporter.event("unpinned", text, model=model.id)
    if pins == held or len(pins) < len(manifest):
        return None
    text = format_lock(pins.values())
    try:
        if read_bytes(options.lockfile) != lock_bytes:
            reporter.event("unpinned", f"{options.lockfile} has changed meanwhile and is left as it is; run this again")
            return None
        write_text_atomically(options.lockfile, text)
    except OSError as error:
        reporter.event("unpinned", f"{options.lockfile} cannot be written ({error.strerror}); the receipts are the pin")
        return None
    reporter.event("pinned", f"{options.lockfile} has changed; commit it, so that others get the same bytes")
    return text.encode()
