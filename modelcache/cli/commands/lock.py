"""`lock`: pin the models of models.toml in models.lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelcache.cli import messages
from modelcache.cli.options import TransferOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import pin_context, report_packages
from modelcache.core.errors import UsageError
from modelcache.core.pin_change import PinChange, pin_change, same_files
from modelcache.core.text import size_in_words
from modelcache.core.types import LockedModel
from modelcache.formats.lockfile import format_lock
from modelcache.formats.manifest import select
from modelcache.pipeline.bytes_to_fetch import bytes_to_fetch
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.pins import matching_pins, read_lock, read_manifest, refuse_stale_lock
from modelcache.resolver.resolve import Resolved
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TransferOptions):
    """The options of `lock`."""

    upgrade: Sequence[str] | None = option(
        "--upgrade",
        default=None,
        nargs="*",
        metavar="ID",
        help="pin these models anew (all, if none is named)",
    )
    check: bool = switch("--check", help="only check that the lock fits the manifest; needs no network")


def run(options: Options, reporter: LineReporter) -> None:
    """Pin each model that has no valid pin, and write models.lock."""
    manifest = read_manifest(options.manifest)
    locked = read_lock(options.lockfile)
    if options.check or options.locked:
        if options.upgrade is not None:
            flag = "--check" if options.check else "--locked"
            hint = "`cache-models lock --upgrade --dry-run` shows which models would move."
            raise UsageError(f"{flag} pins nothing, and --upgrade pins anew", hint=hint)
        refuse_stale_lock(manifest, locked, options.lockfile.name)
        reporter.line("ready", f"{options.lockfile.name} fits {options.manifest.name}.")
        return
    if not options.may_write_lock:
        hint = "Run this where your models.toml is, or name another lock with --lockfile."
        raise UsageError(f"{options.lockfile} would lie beside the tool", hint=hint)
    upgrade = options.upgrade is not None
    anew = set(select(manifest, options.upgrade or ())) if upgrade else set()
    pins = matching_pins([model for model in manifest if model not in anew], locked, None)
    unpinned = [model for model in manifest if model not in pins]
    context = pin_context(options, reporter)
    resolved = resolve_all(unpinned, context, locked or (), upgrade=upgrade)
    repinned = _Repinned(locked or (), [pins[model] if model in pins else resolved[model].model for model in manifest])
    width = max((len(model.id) for model in (*repinned.new, *repinned.dropped)), default=0)
    for wanted, new in zip(manifest, repinned.new, strict=True):
        if wanted in pins:
            reporter.event("keep", f"{new.id:<{width}} {_commit(new)}", model=new.id, commit=new.commit)
        else:
            _report(resolved[wanted], repinned.old_of(new), reporter, width)
    kinds = {model.id: model.kind for model in manifest}
    for old in repinned.dropped:
        why = f"lists it under [[{kinds[old.id]}]] now" if old.id in kinds else "does not list it any more"
        reporter.event("drop", f"{old.id:<{width}} {options.manifest.name} {why}", model=old.id, kind=str(old.kind))
    if not options.dry_run:
        with storage_errors(f"write {options.lockfile}", place="--lockfile"):
            write_text_atomically(options.lockfile, format_lock(repinned.new))
    _report_totals(options, repinned, [bytes_to_fetch(model, context) for model in repinned.new], reporter)


@dataclass(frozen=True, slots=True)
class _Repinned:
    """The pins of the earlier lock, and those of the new one."""

    before: Sequence[LockedModel]
    new: Sequence[LockedModel]

    def old_of(self, new: LockedModel) -> LockedModel | None:
        """Return the earlier pin of a model."""
        return next((old for old in self.before if (old.kind, old.id) == (new.kind, new.id)), None)

    @property
    def dropped(self) -> list[LockedModel]:
        """The models that are not pinned any more."""
        names = {(new.kind, new.id) for new in self.new}
        return [old for old in self.before if (old.kind, old.id) not in names]

    def counts(self) -> dict[str, int]:
        """Return how many pins are new, moved, changed, unchanged and dropped."""
        found = Counter(pin_change(self.old_of(new), new) for new in self.new)
        return {**{str(change): found[change] for change in PinChange}, "dropped": len(self.dropped)}


def _report(resolved: Resolved, old: LockedModel | None, reporter: LineReporter, width: int) -> None:
    """Print the row of a model that was pinned anew, and how the pin differs from the earlier one."""
    new, whole = resolved.model, resolved.repository_size
    fields = {"model": new.id, "commit": new.commit, "bytes": new.size, "repository_bytes": whole}
    row, change = messages.pinned_row(new, width), pin_change(old, new)
    if old is None:
        reporter.event("lock", f"{row}{messages.of_repository(new, whole)}", **fields)
    elif change is PinChange.MOVED:
        same = ", same files" if same_files(old, new) else ""
        fields |= {"old_commit": old.commit}
        reporter.event("upgrade", f"{row}  {_commit(old)} → {_commit(new)}{same}", **fields)
    elif change is PinChange.CHANGED:
        what = "settings" if same_files(old, new) else "files"
        where = "same commit" if new.commit else "same directory"
        reporter.event("change", f"{row}  {where}, other {what}", changed=what, **fields)
    else:
        reporter.event("same", f"{new.id:<{width}} {_commit(new):<12}  unchanged: {_why_unchanged(new)}", **fields)
    report_packages(new, reporter)


def _report_totals(
    options: Options, repinned: _Repinned, sizes: Sequence[tuple[int, bool]], reporter: LineReporter
) -> None:
    """Print the last line: how many models are pinned, what changed, and what `sync` will fetch into this root."""
    to_fetch, exact = sum(count for count, _ in sizes), all(is_exact for _, is_exact in sizes)
    verb, will = ("would pin", "would") if options.dry_run else ("pins", "will")
    counts = repinned.counts()
    text = f"{options.lockfile.name} {verb} {messages.models(len(sizes))}{_changes(counts)}"
    if to_fetch:
        text += f"; {'' if exact else 'at most '}{size_in_words(to_fetch)} {will} be fetched"
    else:
        text += "; nothing has to be fetched" if sizes else f"; {options.manifest.name} lists none"
    reporter.line("ready", f"{text}.", models=len(sizes), **counts, to_fetch=to_fetch)


def _changes(counts: Mapping[str, int]) -> str:
    """Return what changed, for the last line; nothing where every model is new."""
    found = {word: count for word, count in counts.items() if count}
    if not found or found.keys() == {PinChange.NEW}:
        return ""
    if found.keys() == {PinChange.UNCHANGED}:
        return ": unchanged"
    return ": " + ", ".join(f"{count} {word}" for word, count in found.items())


def _commit(model: LockedModel) -> str:
    return model.commit[:12] or "a directory"


def _why_unchanged(model: LockedModel) -> str:
    if not model.commit:
        return "its directory has the same files"
    return "its revision is that commit" if model.revision == model.commit else f"still the newest of {model.revision}"
