"""`sync`: fetch and publish what is missing in a root, then update models.lock and the stamp."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from modelcache.cli import messages
from modelcache.cli.options import TransferOptions, insecure, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import connector, run_context
from modelcache.core.plan import Action, Step
from modelcache.core.text import join_names
from modelcache.core.types import LockedModel, WantedModel
from modelcache.formats.lockfile import format_lock, parse_lock
from modelcache.formats.manifest import parse_models_and_policy, select
from modelcache.image.reference import Reference
from modelcache.pipeline.pins import matching_pins, refuse_unfit_lock
from modelcache.pipeline.sync import Synced, sync
from modelcache.sources.schemes import SourceAddress, open_source, parse_source
from modelcache.stamp import key_of, models_in_place, remove_stamp, write_stamp
from modelcache.store.layout import DIGESTS_NAME, Places
from modelcache.store.publish import set_collection_mtimes, set_published_mtime
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import read_bytes, storage_errors


def _source(text: str) -> SourceAddress | Reference | None:
    try:
        return parse_source(text) if text else None
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None  # of a ValueError argparse shows no text


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TransferOptions):
    """The options of `sync`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    source: SourceAddress | Reference | None = option(
        "--from",
        default=None,
        completes="source",
        metavar="SOURCE",
        type=_source,
        help="take models from another root (DIR) or an image (oci:DIR, oci-archive:FILE.tar, docker://REF) instead of"
        " the Hub",
    )
    insecure: bool = insecure()
    no_stamp: bool = switch(
        "--no-stamp", help="leave no stamp and a fixed mtime in the root, so that image builds make equal layers"
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Make the root hold what the lock pins; update the lock and the stamp."""
    # Each is read once: the stamp has to name the content that this run has used, even if it changes meanwhile.
    manifest_bytes, lock_bytes = read_bytes(options.manifest), read_bytes(options.lockfile)
    if manifest_bytes is not None and not (options.ids or options.dry_run or options.no_stamp):
        count = models_in_place(str(options.root), key_of(manifest_bytes, lock_bytes, locked=options.locked))
        if count is not None:
            _report_ready(Counter({Action.KEEP: count}), options, reporter)
            return
    whole = parse_models_and_policy(manifest_bytes, options.manifest)
    manifest, gate = whole.models, whole.policy
    locked = None if lock_bytes is None else parse_lock(lock_bytes, options.lockfile.name)
    wanted = select(manifest, options.ids)
    if options.locked:
        refuse_unfit_lock(manifest, locked, gate, options.lockfile)
    with ExitStack() as opened:
        source = None
        if options.source:
            connect = connector(options, reporter, insecure=options.insecure)
            source = opened.enter_context(open_source(options.source, connect, reporter))
        context = run_context(options, reporter, gate, source, keeps=not options.dry_run)
        synced = sync(wanted, locked, context, dry_run=options.dry_run)
    if options.dry_run:
        for step, line in zip(synced.steps, messages.plan_lines(synced.steps), strict=True):
            fields = {"action": step.action, "model": step.model.id, "bytes": step.size, "reason": step.reason}
            reporter.line("plan", line, **fields)
        _report_ready(Counter(step.action for step in synced.steps), options, reporter, synced.steps)
        return
    for step in synced.steps:
        if step.action is Action.KEEP and any(other.action is not Action.KEEP for other in synced.steps):
            reporter.event("keep", step.model.id, model=step.model.id)
    set_collection_mtimes(Places.below(options.root).collections.values())
    lock_bytes = _update_lock(options, manifest, locked, lock_bytes, synced, reporter) or lock_bytes
    if options.no_stamp:
        _make_reproducible(options.root, reporter)
    elif not options.ids and len(synced.facts) == len(synced.pins):  # a stamp covers only files that were looked at
        facts = {path: fact for below in synced.facts.values() for path, fact in below.items()}
        key = key_of(manifest_bytes or b"", lock_bytes, locked=options.locked)
        write_stamp(str(options.root), key, len(synced.pins), facts)
    _report_ready(Counter(step.action for step in synced.steps), options, reporter)


def _make_reproducible(root: Path, reporter: LineReporter) -> None:
    """Remove what differs between two roots of equal models: stamp, noted digests, and the mtime of the root itself."""
    if not root.exists():  # no model is wanted, and there was none before
        return
    with storage_errors(f"remove the stamp of {root}"):
        remove_stamp(str(root))
        (root / DIGESTS_NAME).unlink(missing_ok=True)
    try:
        set_published_mtime(root)
    except OSError as error:
        text = f"the mtime of {root} cannot be set ({error.strerror}), so every build makes another layer"
        reporter.event("warning", text)


def _report_ready(
    done: Counter[Action], options: Options, reporter: LineReporter, planned: Sequence[Step] | None = None
) -> None:
    """Print the last line; `planned` are the steps of a dry run."""
    counts = {past.replace(" ", "_"): done[action] for action, past in messages.PAST.items()}
    to_write = None if planned is None else sum(step.size for step in planned)
    counts |= {} if to_write is None else {"to_write": to_write}
    text = messages.summary(done, options.root, to_write)
    reporter.line("ready", text, models=done.total(), root=str(options.root), **counts)


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
    path, held = options.lockfile, matching_pins(manifest, locked, None)
    pins = held | {model: pin for model, pin in synced.pins.items() if locked is None or model in synced.pinned}
    for model in synced.pins:
        if model not in pins:
            text = f"{model.id} is kept by its receipt; to pin it in {path.name}, run `cache-models lock`"
            reporter.event("unpinned", text, model=model.id)
    if pins == held:
        return None
    lacking = [model.id for model in manifest if model not in pins]
    if lacking or not options.may_write_lock:
        reason = f"as it would lack {join_names(lacking)}: run `cache-models lock`"
        if not options.may_write_lock:
            reason = "as it would be in the directory of the tool itself: name another one with --lockfile"
        reporter.event("unpinned", f"{path} is not written, {reason}")
        return None
    text = format_lock(pins.values())
    try:
        found = read_bytes(path)
        if found == text.encode():  # another process has pinned the same
            return found
        if found != lock_bytes:
            reporter.event("unpinned", f"{path} has changed meanwhile and is left as it is; run this again")
            return None
        write_text_atomically(path, text)
    except OSError as error:
        reporter.event(
            "unpinned", f"{path} cannot be written ({error.strerror}); the receipts in the root pin the models"
        )
        return None
    verb = "now pins" if lock_bytes is None else "has changed and pins"
    message = f"{path} {verb} {messages.models(len(pins))}; commit it, so that others get the same bytes"
    reporter.event("pinned", message, lockfile=str(path), models=len(pins))
    return text.encode()
