"""The commands: each reads what is asked for, calls the story, and says how it went."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from modelcache import report, words
from modelcache.check import Surroundings, check
from modelcache.disk import read_bytes, replace_text, storage_errors
from modelcache.environment import lazily, secret_places
from modelcache.errors import (
    CacheModelsError,
    CheckError,
    IntegrityError,
    LockfileError,
    StorageError,
    UsageError,
    raise_all,
)
from modelcache.glance import compare, facts_within
from modelcache.golden import Golden, GoldenFile, format_golden, golden_of, parse_golden
from modelcache.layout import Places
from modelcache.lockfile import format_lock, parse_lock, read_lock
from modelcache.manifest import manifest_of, read_manifest, select
from modelcache.options import Options
from modelcache.pin import held_pins, refuse_stale_lock, resolve_all
from modelcache.publish import remove
from modelcache.quiet import nothing_to_do
from modelcache.records import Action, LockedModel, Patience, Verification, WantedModel
from modelcache.report import Report
from modelcache.stamp import Facts, facts_in_stamp, key_of, write_stamp
from modelcache.status import model_path, row, surplus
from modelcache.sync import Synced, sync
from modelcache.tools import Tools
from modelcache.verdict import Verdict, recorded

_LARGEST_GOLDEN = 1 << 26


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
        for line in words.planned(synced.steps):
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
    voice.line("ready", words.summary(synced.steps, options.root), models=len(synced.steps), root=str(options.root))


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
    # What another version of this tool converted may be what somebody wants to get away from.
    known = (locked or ()) if options.upgrade is None else ()
    resolved = resolve_all([model for model in manifest if model not in pins], _tools(options, voice), known)
    for model in manifest:
        if model in pins:
            voice.say("keep", f"{model.id:<52} {pins[model].commit[:12]}", model=model.id)
            continue
        pinned, whole = resolved[model].model, resolved[model].repository_size
        told = f"{words.pinned_row(pinned)} of {words.size(whole)}"
        voice.say("lock", told, model=model.id, commit=pinned.commit, bytes=pinned.size, repository_bytes=whole)
        if pinned.packages:
            needs = f"{model.id}: whoever loads it needs {', '.join(pinned.packages)}, which its code imports"
            voice.say("needs", needs, model=model.id, packages=pinned.packages)
    models = [pins[model] if model in pins else resolved[model].model for model in manifest]
    text = format_lock(models)
    if not options.dry_run:
        with storage_errors(f"write {options.lockfile}"):
            replace_text(options.lockfile, text)
    fetched = sum(one.model.size_to_fetch for one in resolved.values())
    repositories = sum(one.repository_size for one in resolved.values())
    of_whole = f" of {words.size(repositories)}" if fetched <= repositories else ""
    saving = f"; {words.size(fetched)}{of_whole} will be fetched" if resolved else ""
    verb = "would pin" if options.dry_run else "pins"
    voice.line("ready", f"{options.lockfile.name} {verb} {words.models(len(models))}{saving}.", models=len(models))


def run_verify(options: Options, voice: Report) -> None:
    """Compare every model with its pin; tell every difference of all of them."""
    pins, absent = _pins_offline(options, fitting=options.locked)
    errors = _not_there(absent)
    for model in _whole(pins, options, errors, quick=options.quick):
        voice.say("ok", words.pinned_row(model), model=model.id)
    raise_all(errors)
    compared = "names, sizes and times" if options.quick else "every byte"
    voice.line("ready", f"{words.models(len(pins))} in {options.root}: {compared} as pinned.", models=len(pins))


def run_check(options: Options, voice: Report) -> None:
    """Load every model that is whole, cut off from the network, and tell what does not hold."""
    record = options.record and not options.dry_run
    golden_path = options.manifest.with_suffix(".golden.json")
    golden = _read_golden(golden_path, voice, anew=record)
    # A lock may still allow code that the manifest no longer allows, and here code is run.
    pins, absent = _pins_offline(options, fitting=options.locked or options.manifest.exists())
    errors = _not_there(absent)
    whole = list(_whole(pins, options, errors, quick=False))
    verdicts: list[Verdict] = []
    versions: dict[str, str] = {}
    for told in _told(whole, options, golden, errors) if whole else ():
        if isinstance(told, Surroundings):
            versions |= told.versions
            voice.say("cut", words.surroundings(told), network=told.network, disk=told.disk, **versions)
            continue
        verdicts.append(told)
        failed = told.faults or (told.moves and not record)
        event = "failed" if failed else "proven" if told.proven and not told.moves else "unproven"
        voice.say(event, words.row_of(told), **words.fields_of(told))
        for note in [*told.notes, *(told.moves if record else ())]:
            voice.say("note", f"{told.model.id}: {note}", model=told.model.id)
        if failed:
            errors.append(_failed(told, golden, versions))
    if record:
        new = recorded(pins, verdicts, versions, golden)
        _write_golden(golden_path, {**_recorded_of(absent, golden), **new}, errors)
    raise_all(errors)
    voice.line("ready", words.proof(verdicts, options.root, recorded=record), models=len(verdicts))


def _whole(
    pins: Sequence[LockedModel], options: Options, errors: list[CacheModelsError], *, quick: bool
) -> Iterator[LockedModel]:
    """Yield the models that are on disk as pinned; what is wrong with the others joins the errors."""
    places, stamped = Places.below(options.root), _stamped(options.root)
    cores = max(2, os.cpu_count() or 2)
    # A model is often one large file, which is hashed on one core: so several models at a time.
    with ThreadPoolExecutor(cores) as models, ThreadPoolExecutor(cores) as files:

        def found_of(model: LockedModel) -> Verification | StorageError:
            home = places.home(model.kind, model.id)
            try:
                with storage_errors(f"read {home}"):
                    return compare(home, model, stamped(home), quick=quick, pool=files)
            except StorageError as error:
                return error

        for model, found in zip(pins, models.map(found_of, pins), strict=True):
            if isinstance(found, StorageError):
                errors.append(found)
            elif found.ok:
                yield model
            else:
                home = places.home(model.kind, model.id)
                state = "does not match its pin" if home.exists() else "is not there"
                hint = "Run `python cache_models.py sync` to fetch it again."
                errors.append(IntegrityError(f"{model.id} {state} ({home})", verification=found, hint=hint))


def _read_golden(path: Path, voice: Report, *, anew: bool) -> GoldenFile:
    """Read the recorded numbers; a file that cannot be read is no hindrance to making it anew."""
    content = read_bytes(path, limit=_LARGEST_GOLDEN)
    try:
        return {} if content is None else parse_golden(content, path.name)
    except UsageError as error:
        if not anew:
            raise
        voice.say("note", error.message)
        return {}


def _told(
    models: Sequence[LockedModel], options: Options, golden: GoldenFile, errors: list[CacheModelsError]
) -> Iterator[Surroundings | Verdict]:
    """Yield what the check tells; that it ended too early joins the errors, and hides nothing that came before."""
    try:
        yield from check(models, options.root, golden, secret=secret_places())
    except CheckError as error:
        errors.append(error)


def _write_golden(path: Path, golden: GoldenFile, errors: list[CacheModelsError]) -> None:
    """Write the recorded numbers; that it cannot be done joins the errors."""
    try:
        with storage_errors(f"write {path}"):
            replace_text(path, format_golden(golden))
    except StorageError as error:
        errors.append(error)


def _recorded_of(absent: Sequence[WantedModel], golden: GoldenFile) -> dict[str, Golden]:
    """Return what was recorded of models that are not there now: they are no less wanted for that."""
    names = {(model.kind, model.id) for model in absent}
    return {digest: one for digest, one in golden.items() if (one.kind, one.id) in names}


def _failed(verdict: Verdict, golden: GoldenFile, versions: Mapping[str, str]) -> CheckError:
    """Say why a model does not pass, and with which libraries it did."""
    known = golden_of(verdict.model, golden)
    others = [f"{name} {old}" for name, old in known.versions.items() if versions.get(name) != old] if known else []
    reasons = [*verdict.faults, *verdict.moves, *([f"recorded with {', '.join(others)}"] if others else [])]
    return CheckError(
        f"{verdict.model.id} does not pass:\n  " + "\n  ".join(reasons),
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
        told = f"{one.kind:<10} {one.id:<52} {one.commit[:12]:<12} {words.size(one.size):>9}  {one.state}"
        report.show(words.printable(told))


def run_path(options: Options, voice: Report) -> None:
    """Print the absolute directory of a model."""
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
        voice.say("remove", f"{model.id:<52} {words.size(model.size):>9}", model=model.id)
        if not options.dry_run:
            with storage_errors(f"remove {home}"):
                remove(home)
    verb = "would be removed" if options.dry_run else "removed"
    voice.line("ready", f"{words.models(len(ours))} {verb} from {options.root}.", removed=len(ours))


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


def _pins_offline(options: Options, *, fitting: bool) -> tuple[Sequence[LockedModel], Sequence[WantedModel]]:
    """Return what the lock pins, which with `fitting` has to agree with the manifest.

    Without a lock what the receipts say, and which wanted models have none.
    """
    locked = read_lock(options.lockfile)
    if locked is not None:
        if fitting:
            refuse_stale_lock(read_manifest(options.manifest), locked, options.lockfile.name)
        return locked, ()
    if options.locked:
        raise LockfileError(f"there is no {options.lockfile}", hint="Write one with `python cache_models.py lock`.")
    wanted = read_manifest(options.manifest)
    pins = held_pins(wanted, None, Places.below(options.root))
    return list(pins.values()), [model for model in wanted if model not in pins]


def _not_there(absent: Sequence[WantedModel]) -> list[CacheModelsError]:
    hint = "Run `python cache_models.py sync`."
    return [IntegrityError(f"{model.id} is not there, or not as models.toml asks", hint=hint) for model in absent]


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
    return partial(facts_within, facts_in_stamp(str(root)))
