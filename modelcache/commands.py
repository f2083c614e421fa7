"""The commands: each reads what is asked for, calls the story, and says how it went."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from modelcache import report
from modelcache.disk import replace_text, storage_errors
from modelcache.environment import connect
from modelcache.errors import CacheModelsError, IntegrityError, LockfileError, raise_all
from modelcache.glance import facts_below, facts_within, glance
from modelcache.layout import Places
from modelcache.lockfile import format_lock, read_lock
from modelcache.manifest import read_manifest, select
from modelcache.options import Options
from modelcache.pin import Tools, held_pins, refuse_stale_lock, resolve_all
from modelcache.publish import remove
from modelcache.quiet import nothing_to_do
from modelcache.records import Action, LockedModel, Patience, WantedModel
from modelcache.report import Report
from modelcache.stamp import Facts, key_of, read_stamp, write_stamp
from modelcache.status import model_path, row, surplus
from modelcache.sync import Synced, sync
from modelcache.verify import verify


def run_sync(options: Options, voice: Report) -> None:
    """Make the root hold what the lock says, and keep lock and stamp true."""
    if not options.ids and not options.dry_run and _nothing_to_do(options):
        return
    manifest = read_manifest(options.manifest)
    wanted = select(manifest, options.ids)
    locked = read_lock(options.lockfile)
    if options.locked:
        refuse_stale_lock(manifest, locked, options.lockfile.name)
    synced = sync(wanted, locked, _tools(options, voice), dry_run=options.dry_run)
    if options.dry_run:
        for line in report.planned(synced.steps):
            voice.line("plan", line)
        return
    for step in synced.steps:
        if step.action is Action.KEEP and len(synced.steps) > _count(synced, Action.KEEP):
            voice.say("keep", step.model.id, model=step.model.id)
    _write_lock_after_sync(options, manifest, locked, synced, voice)
    words = report.summary(synced.steps, options.root)
    if not options.ids:
        _stamp(options, synced)
    voice.line("ready", words, models=len(synced.steps), root=str(options.root))


def run_lock(options: Options, voice: Report) -> None:
    """Write models.lock: what models.toml means today."""
    manifest = read_manifest(options.manifest)
    locked = read_lock(options.lockfile)
    if options.check or options.locked:
        refuse_stale_lock(manifest, locked, options.lockfile.name)
        voice.line("ready", f"{options.lockfile.name} fits {options.manifest.name}.")
        return
    anew = set(select(manifest, options.upgrade)) if options.upgrade is not None else set()
    pins = held_pins([model for model in manifest if model not in anew], locked, None)
    resolved = resolve_all([model for model in manifest if model not in pins], _tools(options, voice))
    for model in manifest:
        if model in pins:
            voice.say("keep", f"{model.id:<52} {pins[model].commit[:12]}", model=model.id)
            continue
        pinned, whole = resolved[model].model, resolved[model].repository_size
        told = (
            f"{model.id:<52} {report.files(len(pinned.files)):>9} {report.size(pinned.size):>9} of {report.size(whole)}"
        )
        voice.say("lock", told, model=model.id, commit=pinned.commit, bytes=pinned.size, repository_bytes=whole)
    models = [pins[model] if model in pins else resolved[model].model for model in manifest]
    text = format_lock(models)
    if not options.dry_run:
        with storage_errors(f"write {options.lockfile}"):
            replace_text(options.lockfile, text)
    kept = report.size(sum(one.model.size for one in resolved.values()))
    whole_size = report.size(sum(one.repository_size for one in resolved.values()))
    saving = f"; {kept} of {whole_size} will be fetched" if resolved else ""
    verb = "would pin" if options.dry_run else "pins"
    voice.line("ready", f"{options.lockfile.name} {verb} {report.models(len(models))}{saving}.", models=len(models))


def run_verify(options: Options, voice: Report) -> None:
    """Compare every model with its pin; tell every difference of all of them."""
    places = Places.below(options.root)
    pins = _pins_offline(options)
    errors: list[CacheModelsError] = []
    for model in pins:
        home = places.home(model.kind, model.id)
        with storage_errors(f"read {home}"):
            if options.quick and glance(home, model, _stamped(options.root, home)) is None:
                found = verify(home, model, quick=True)
            else:
                found = verify(home, model, jobs=max(2, os.cpu_count() or 2))
        if found.ok:
            voice.say(
                "ok", f"{model.id:<52} {report.files(len(model.files)):>9} {report.size(model.size):>9}", model=model.id
            )
        else:
            state = "does not match its pin" if home.exists() else "is not there"
            errors.append(
                IntegrityError(
                    f"{model.id} {state} ({home})",
                    verification=found,
                    hint="Run `python cache_models.py sync` to fetch it again.",
                )
            )
    raise_all(errors)
    voice.line(
        "ready",
        f"{report.models(len(pins))} in {options.root}: every byte as pinned."
        if not options.quick
        else f"{report.models(len(pins))} in {options.root}: names, sizes and times as pinned.",
    )


def run_status(options: Options, voice: Report) -> None:
    """Print a row a model."""
    manifest, places = read_manifest(options.manifest), Places.below(options.root)
    pins = held_pins(manifest, read_lock(options.lockfile), places)
    rows = [
        row(model, pins.get(model), places, _stamped(options.root, places.home(model.kind, model.id)))
        for model in manifest
    ]
    if options.json:
        print(json.dumps([asdict(one) for one in rows], indent=1))
        return
    for one in rows:
        print(f"{one.kind:<10} {one.id:<52} {one.commit[:12]:<12} {report.size(one.size):>9}  {one.state}")


def run_path(options: Options, voice: Report) -> None:
    """Print the absolute directory of a model."""
    print(model_path(options.ids[0], Places.below(options.root)))


def run_prune(options: Options, voice: Report) -> None:
    """Remove the models that the lock no longer names."""
    locked = read_lock(options.lockfile)
    if locked is None:
        raise LockfileError(
            f"there is no {options.lockfile}, so nothing says which models to keep",
            hint="Write one with `python cache_models.py lock`.",
        )
    ours, foreign = surplus(locked, Places.below(options.root))
    for home in foreign:
        voice.say("leave", f"{home} has no receipt: not written by this tool")
    for home, model in ours.items():
        voice.say("remove", f"{model.id:<52} {report.size(model.size):>9}", model=model.id)
        if not options.dry_run:
            with storage_errors(f"remove {home}"):
                remove(home)
    verb = "would be removed" if options.dry_run else "removed"
    voice.line("ready", f"{report.models(len(ours))} {verb} from {options.root}.", removed=len(ours))


COMMANDS: dict[str, Callable[[Options, Report], None]] = {
    "sync": run_sync,
    "lock": run_lock,
    "verify": run_verify,
    "status": run_status,
    "path": run_path,
    "prune": run_prune,
}


def _nothing_to_do(options: Options) -> bool:
    return nothing_to_do(
        root=str(options.root),
        manifest=str(options.manifest),
        lockfile=str(options.lockfile),
        locked=options.locked,
        quiet=options.quiet,
        as_json=options.log_format == "json",
    )


def _tools(options: Options, voice: Report) -> Tools:
    patience = Patience(timeout=options.timeout, retries=options.retries)
    return Tools(
        places=Places.below(options.root),
        voice=voice,
        connect=cache(lambda: connect(patience, voice)),
        manifest_folder=options.manifest.absolute().parent,
        stamped=lambda home: _stamped(options.root, home),
        jobs=options.jobs,
        origin=Places.below(options.origin) if options.origin else None,
    )


def _pins_offline(options: Options) -> Sequence[LockedModel]:
    """Return what the lock pins; without one, what the receipts of the wanted models say."""
    locked = read_lock(options.lockfile)
    if locked is not None:
        return locked
    if options.locked:
        raise LockfileError(f"there is no {options.lockfile}", hint="Write one with `python cache_models.py lock`.")
    wanted = read_manifest(options.manifest)
    pins = held_pins(wanted, None, Places.below(options.root))
    raise_all(
        [
            IntegrityError(
                f"{model.id} is not there, or not as models.toml asks", hint="Run `python cache_models.py sync`."
            )
            for model in wanted
            if model not in pins
        ]
    )
    return list(pins.values())


def _write_lock_after_sync(
    options: Options,
    manifest: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    synced: Synced,
    voice: Report,
) -> None:
    """Keep the lock true: write it when it says less or other than what was just made."""
    pins = held_pins(manifest, locked, None) | dict(synced.pins)
    if list(pins.values()) == list(held_pins(manifest, locked, None).values()) or len(pins) < len(manifest):
        return
    try:
        replace_text(options.lockfile, format_lock(pins.values()))
    except OSError as error:
        voice.say("unpinned", f"{options.lockfile} cannot be written ({error.strerror}); the receipts are the pin")
        return
    voice.say("pinned", f"{options.lockfile} is new; commit it, so that others get the same bytes")


def _stamp(options: Options, synced: Synced) -> None:
    """Note what is in place, for the quiet path of the next run."""
    places, facts = Places.below(options.root), Facts()
    with suppress(OSError):
        for model in synced.pins.values():
            home = places.home(model.kind, model.id)
            facts |= facts_below(home)
        lock = options.lockfile.read_bytes() if options.lockfile.exists() else None
        write_stamp(
            str(options.root),
            key_of(options.manifest.read_bytes(), lock, locked=options.locked),
            len(synced.pins),
            facts,
        )


def _stamped(root: Path, home: Path) -> Facts:
    """Return what the stamp knows of one model, by path within it."""
    note = read_stamp(str(root))
    facts = note["facts"] if note else {}
    return facts_within(facts, home) if isinstance(facts, dict) else {}


def _count(synced: Synced, action: Action) -> int:
    return sum(step.action is action for step in synced.steps)
