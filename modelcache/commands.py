"""The commands: each reads what is asked for, calls the story, and says how it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from modelcache import report, words
from modelcache.conversion import Known
from modelcache.disk import absolute, read_bytes, replace_text, storage_errors
from modelcache.environment import lazily
from modelcache.errors import LockfileError, raise_all
from modelcache.layout import Places
from modelcache.limits import affordable
from modelcache.lockfile import format_lock, parse_lock, read_lock
from modelcache.manifest import manifest_of, read_manifest, select
from modelcache.ondisk import not_there, pins_offline, stamped_in, whole_of
from modelcache.options import Options
from modelcache.pin import held_pins, refuse_stale_lock, resolve_all
from modelcache.publish import remove, settle_collections
from modelcache.quiet import nothing_to_do
from modelcache.records import Action, LockedModel, Patience, WantedModel
from modelcache.report import Report
from modelcache.stamp import key_of, write_stamp
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
        for line in words.planned(synced.steps):
            voice.line("plan", line)
        return
    for step in synced.steps:
        if step.action is Action.KEEP and any(other.action is not Action.KEEP for other in synced.steps):
            voice.say("keep", step.model.id, model=step.model.id)
    settle_collections(Places.below(options.root).collections.values())
    lock_bytes = _keep_lock_true(options, manifest, locked, lock_bytes, synced, voice) or lock_bytes
    if not options.ids and len(synced.facts) == len(synced.pins):  # a stamp vouches for what was looked at
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
    known = Known(locked or (), at_hand=options.upgrade is not None)
    resolved = resolve_all([model for model in manifest if model not in pins], _tools(options, voice), known)
    for model in manifest:
        if model in pins:
            voice.say("keep", f"{model.id:<52} {pins[model].commit[:12]}", model=model.id)
            continue
        pinned, whole = resolved[model].model, resolved[model].repository_size
        told = f"{words.pinned_row(pinned)} of {words.size(whole)}"
        voice.say("lock", told, model=model.id, commit=pinned.commit, bytes=pinned.size, repository_bytes=whole)
        if pinned.packages:
            voice.say("needs", f"{model.id}: {_needs(pinned.packages)}", model=model.id, packages=pinned.packages)
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
    pins, absent = pins_offline(options, fitting=options.locked)
    errors = not_there(absent, options.root)
    for model in whole_of(pins, options, errors, quick=options.quick):
        voice.say("ok", words.pinned_row(model), model=model.id)
    raise_all(errors)
    compared = "names, sizes and times" if options.quick else "every byte"
    voice.line("ready", f"{words.models(len(pins))} in {options.root}: {compared} as pinned.", models=len(pins))


def run_check(options: Options, voice: Report) -> None:
    """Load every model that is whole, cut off from the network, and tell what does not hold."""
    from modelcache.proof import prove  # golden numbers and what judges them take time to import

    prove(options, voice)


def run_status(options: Options, voice: Report) -> None:
    """Print a row a model."""
    manifest, places = read_manifest(options.manifest), Places.below(options.root)
    pins = held_pins(manifest, read_lock(options.lockfile), places)
    stamped = stamped_in(options.root)
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
    if ours and not options.dry_run:
        settle_collections(Places.below(options.root).collections.values())
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


def _needs(imported: Sequence[str]) -> str:
    """Say what has to be installed for a model's code; no pip line for a name that only the code vouches for."""
    from modelcache.pip_packages import PACKAGES, installing  # few models need it, and it takes time to import

    known = [PACKAGES[name] for name in imported if name in PACKAGES]
    unknown = [name for name in imported if name not in PACKAGES]
    ways = [f"`{installing(known)}`"] if known else []
    ways += [f"the model's card may say where {', '.join(unknown)} is from"] if unknown else []
    return f"loading it needs {', '.join(imported)}, which its code imports: {'; '.join(ways)}"


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
    patience, jobs = Patience(timeout=options.timeout, retries=options.retries), affordable(options.jobs)
    return Tools(
        places=Places.below(options.root),
        voice=voice,
        connect=lazily(patience, voice, jobs),
        manifest_folder=absolute(options.manifest).parent,
        stamped=stamped_in(options.root),
        jobs=jobs,
        keeps=not options.dry_run,
        other_root=Places.below(options.other_root) if options.other_root else None,
    )


def _keep_lock_true(
    options: Options,
    manifest: Sequence[WantedModel],
    locked: Sequence[LockedModel] | None,
    lock_bytes: bytes | None,
    synced: Synced,
    voice: Report,
) -> bytes | None:
    """Write the lock when it says less or other than what was just made; return its new content.

    Into a lock that is there comes what this run has pinned, and no receipt: it may have been put into the root.
    """
    held = held_pins(manifest, locked, None)
    pins = held | {model: pin for model, pin in synced.pins.items() if locked is None or model in synced.pinned}
    for model in synced.pins.keys() - pins.keys():
        told = f"{model.id} is kept as its receipt says, and {options.lockfile.name} does not name it: run `lock`"
        voice.say("unpinned", told, model=model.id)
    if pins == held or len(pins) < len(manifest):
        return None
    text = format_lock(pins.values())
    try:
        if read_bytes(options.lockfile) != lock_bytes:
            voice.say("unpinned", f"{options.lockfile} has changed meanwhile and is left as it is; run this again")
            return None
        replace_text(options.lockfile, text)
    except OSError as error:
        voice.say("unpinned", f"{options.lockfile} cannot be written ({error.strerror}); the receipts are the pin")
        return None
    voice.say("pinned", f"{options.lockfile} has changed; commit it, so that others get the same bytes")
    return text.encode()
