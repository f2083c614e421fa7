"""The commands: each reads what is asked for, calls the story, and says how it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from modelcache import report
from modelcache.check import Surroundings, Verdict, check, recorded
from modelcache.digests import set_digest
from modelcache.disk import read_bytes, replace_text, storage_errors
from modelcache.environment import lazily
from modelcache.errors import CacheModelsError, CheckError, IntegrityError, LockfileError, StorageError, raise_all
from modelcache.glance import compare, facts_within
from modelcache.golden import GoldenFile, format_golden, parse_golden
from modelcache.layout import Places
from modelcache.lockfile import format_lock, parse_lock, read_lock
from modelcache.manifest import manifest_of, read_manifest, select
from modelcache.options import Options
from modelcache.pin import held_pins, refuse_stale_lock, resolve_all
from modelcache.publish import remove
from modelcache.quiet import nothing_to_do
from modelcache.records import Action, LockedModel, Patience, WantedModel
from modelcache.report import Report
from modelcache.stamp import Facts, key_of, read_stamp, write_stamp
from modelcache.status import model_path, row, surplus
from modelcache.sync import Synced, sync
from modelcache.tools import Tools


def run_sync(options: Options, voice: Report) -> None:
    """Make the root hold what the lock says, and keep lock and stamp true."""
    if not options.ids and not options.dry_run and _nothing_to_do(options):
        return
    # Each is read once: the stamp must vouch for what this run was about, not for what they say by then.
    manifest_bytes, lock_bytes = read_bytes(options.manifest), read_bytes(options.lockfile)
    manifest = manifest_of(manifest_bytes, options.manifest)
    locked = None if lock_bytes is None else parse_lock(lock_bytes, options.lockfile.name)
    wanted = select(manifest, options.ids)
    if options.locked:
        refuse_stale_lock(manifest, locked, options.lockfile.name)
    synced = sync(wanted, locked, _tools(options, voice), dry_run=options.dry_run)
    if options.dry_run:
        for line in report.planned(synced.steps):
            voice.line("plan", line)
        return
    for step in synced.steps:
        if step.action is Action.KEEP and any(other.action is not Action.KEEP for other in synced.steps):
            voice.say("keep", step.model.id, model=step.model.id)
    lock_bytes = _keep_lock_true(options, manifest, locked, synced, voice) or lock_bytes
    if not options.ids:
        facts = {path: fact for below in synced.facts.values() for path, fact in below.items()}
        key = key_of(manifest_bytes or b"", lock_bytes, locked=options.locked)
        write_stamp(str(options.root), key, len(synced.pins), facts)
    words = report.summary(synced.steps, options.root)
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
    resolved = resolve_all([model for model in manifest if model not in pins], _tools(options, voice), locked or ())
    for model in manifest:
        if model in pins:
            voice.say("keep", f"{model.id:<52} {pins[model].commit[:12]}", model=model.id)
            continue
        pinned, whole = resolved[model].model, resolved[model].repository_size
        told = (
            f"{model.id:<52} {report.files(len(pinned.files)):>9} {report.size(pinned.size):>9} of {report.size(whole)}"
        )
        voice.say("lock", told, model=model.id, commit=pinned.commit, bytes=pinned.size, repository_bytes=whole)
        if pinned.packages:
            needs = f"{model.id}: whoever loads it needs {', '.join(pinned.packages)}, which its code imports"
            voice.say("needs", needs, model=model.id, packages=pinned.packages)
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
    places, stamped = Places.below(options.root), _stamped(options.root)
    pins, lacking = _pins_offline(options)
    errors = list[CacheModelsError]()
    for model in pins:
        home = places.home(model.kind, model.id)
        try:
            _refuse_other_bytes(model, home, stamped(home), quick=options.quick)
            told = f"{model.id:<52} {report.files(len(model.files)):>9} {report.size(model.size):>9}"
            voice.say("ok", told, model=model.id)
        except (StorageError, IntegrityError) as error:
            errors.append(error)
    raise_all([*errors, *map(_not_there, lacking)])
    compared = "names, sizes and times" if options.quick else "every byte"
    voice.line("ready", f"{report.models(len(pins))} in {options.root}: {compared} as pinned.", models=len(pins))


def _refuse_other_bytes(model: LockedModel, home: Path, facts: Facts, *, quick: bool) -> None:
    """Raise what is wrong with a model on disk."""
    with storage_errors(f"read {home}"):
        found = compare(home, model, facts, quick=quick)
        if found.ok:
            return
        state = "does not match its pin" if home.exists() else "is not there"
    hint = "Run `python cache_models.py sync` to fetch it again."
    raise IntegrityError(f"{model.id} {state} ({home})", verification=found, hint=hint)


def _not_there(wanted: WantedModel) -> IntegrityError:
    hint = "Run `python cache_models.py sync`."
    return IntegrityError(f"{wanted.id} is not there, or not as models.toml asks", hint=hint)


def run_check(options: Options, voice: Report) -> None:
    """Load every model that is whole, cut off from the network, and tell what does not hold."""
    golden_path = options.manifest.with_suffix(".golden.json")
    content = read_bytes(golden_path)
    golden = GoldenFile() if content is None else parse_golden(content, golden_path.name)
    pins, lacking = _pins_offline(options)
    places, whole = Places.below(options.root), list[LockedModel]()
    errors: list[CacheModelsError] = [_not_there(wanted) for wanted in lacking]
    for model in pins:
        home = places.home(model.kind, model.id)
        try:
            _refuse_other_bytes(model, home, facts={}, quick=False)
            whole.append(model)
        except CacheModelsError as error:
            errors.append(error)
    verdicts, versions = [], {}
    for told in check(whole, options.root, golden) if whole else ():
        if isinstance(told, Surroundings):
            versions = dict(told.versions)
            voice.say("cut", report.surroundings(told), network=told.network, disk=told.disk, **versions)
            continue
        verdicts.append(told)
        event = "failed" if told.problems else "proven" if told.proven else "unproven"
        voice.say(event, report.row_of(told), **report.fields_of(told))
        for note in told.notes:
            voice.say("note", f"{told.model.id}: {note}", model=told.model.id)
        if told.problems:
            errors.append(_failed(told, golden, versions))
    if options.record and not options.dry_run:
        with storage_errors(f"write {golden_path}"):
            replace_text(golden_path, format_golden(recorded(verdicts, versions, golden)))
    raise_all(errors)
    voice.line("ready", report.proof(verdicts, options.root, recorded=options.record), models=len(verdicts))


def _failed(verdict: Verdict, golden: GoldenFile, versions: Mapping[str, str]) -> CheckError:
    """Say why a model does not pass, and with which libraries it did."""
    known = golden.models.get(set_digest(verdict.model.files))
    others = [f"{name} {old}" for name, old in known.versions.items() if versions.get(name) != old] if known else []
    recorded_with = f"\n  recorded with {', '.join(others)}" if others else ""
    return CheckError(
        f"{verdict.model.id} does not pass:\n  " + "\n  ".join(verdict.problems) + recorded_with,
        hint="" if verdict.faults else "If this is as it should be, record the new numbers with `check --record`.",
    )


def run_status(options: Options, voice: Report) -> None:
    """Print a row a model."""
    manifest, places = read_manifest(options.manifest), Places.below(options.root)
    pins = held_pins(manifest, read_lock(options.lockfile), places)
    stamped = _stamped(options.root)
    rows = [row(model, pins.get(model), places, stamped(places.home(model.kind, model.id))) for model in manifest]
    if options.json:
        report.show(json.dumps([asdict(one) for one in rows], indent=1))
        return
    for one in rows:
        report.show(f"{one.kind:<10} {one.id:<52} {one.commit[:12]:<12} {report.size(one.size):>9}  {one.state}")


def run_path(options: Options, voice: Report) -> None:
    """Print the absolute directory of a model."""
    with storage_errors(f"read {options.root}"):
        report.show(str(model_path(options.ids[0], Places.below(options.root))))


def run_prune(options: Options, voice: Report) -> None:
    """Remove the models that the lock no longer names."""
    locked = read_lock(options.lockfile)
    if locked is None:
        raise LockfileError(
            f"there is no {options.lockfile}, so nothing says which models to keep",
            hint="Write one with `python cache_models.py lock`.",
        )
    with storage_errors(f"read {options.root}"):
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
    "check": run_check,
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
        connect=lazily(patience, voice),
        manifest_folder=options.manifest.absolute().parent,
        stamped=_stamped(options.root),
        jobs=options.jobs,
        keeps=not options.dry_run,
        other_root=Places.below(options.other_root) if options.other_root else None,
    )


def _pins_offline(options: Options) -> tuple[Sequence[LockedModel], Sequence[WantedModel]]:
    """Return what the lock pins; without one what the receipts say, and the models that have none."""
    locked = read_lock(options.lockfile)
    if locked is not None:
        return locked, ()
    if options.locked:
        raise LockfileError(f"there is no {options.lockfile}", hint="Write one with `python cache_models.py lock`.")
    wanted = read_manifest(options.manifest)
    pins = held_pins(wanted, None, Places.below(options.root))
    return list(pins.values()), [model for model in wanted if model not in pins]


def _keep_lock_true(
    options: Options,
    manifest: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    synced: Synced,
    voice: Report,
) -> bytes | None:
    """Write the lock when it says less or other than what was just made; return its new content."""
    held = held_pins(manifest, locked, None)
    pins = held | dict(synced.pins)
    if pins == held or len(pins) < len(manifest):
        return None
    text = format_lock(pins.values())
    try:
        replace_text(options.lockfile, text)
    except OSError as error:
        voice.say("unpinned", f"{options.lockfile} cannot be written ({error.strerror}); the receipts are the pin")
        return None
    voice.say("pinned", f"{options.lockfile} has changed; commit it, so that others get the same bytes")
    return text.encode()


def _stamped(root: Path) -> Callable[[Path], Facts]:
    """Return what the stamp, read once, knows of a model's directory, by path within it."""
    note = read_stamp(str(root))
    facts = note["facts"] if note and isinstance(note["facts"], dict) else {}
    return partial(facts_within, facts)
