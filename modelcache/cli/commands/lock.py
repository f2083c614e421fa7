"""`lock`: pin the models of models.toml in models.lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelcache.cli import messages, progress
from modelcache.cli.changes_text import change_rows, difference_fields, meaning
from modelcache.cli.lock_diff import DiffFormat, diff_lines, old_lock_name, read_old_lock
from modelcache.cli.messages import short_commit
from modelcache.cli.options import TransferOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import pin_context, report_packages, run_context
from modelcache.core.errors import LockfileError, UsageError
from modelcache.core.pin_change import PinChange, same_files
from modelcache.core.policy import NO_RULES
from modelcache.core.text import escape_lines, size_in_words
from modelcache.core.types import LockedModel
from modelcache.formats.lockfile import format_lock
from modelcache.formats.manifest import parse_models_and_policy, select
from modelcache.pipeline.bytes_to_fetch import bytes_to_fetch
from modelcache.pipeline.lock import resolve_all
from modelcache.pipeline.lock_diff import DROPPED, PinDifference, compare_locks
from modelcache.pipeline.pins import matching_pins, read_lock, refuse_unfit_lock
from modelcache.resolver.resolve import Resolved
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import read_bytes, storage_errors


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
    check: bool = switch("--check", help="only check that models.lock fits models.toml; needs no network")
    diff: str | None = option(
        "--diff",
        default=None,
        completes="file",
        metavar="OLD",
        help="print how models.lock differs from OLD, an earlier one (- is stdin)",
    )
    format: DiffFormat = option(
        "--format",
        default=DiffFormat.TEXT,
        choices=tuple(DiffFormat),
        type=DiffFormat,
        help="how --diff prints (default: text)",
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Pin each model that has no valid pin, and write models.lock."""
    locked = read_lock(options.lockfile)
    if options.diff is not None:
        _explain(options, options.diff, locked, reporter)
        return
    if options.format is not DiffFormat.TEXT:
        raise UsageError("--format is for --diff, which is not given", hint="Leave it out, or add --diff OLD.")
    whole = parse_models_and_policy(read_bytes(options.manifest), options.manifest)
    manifest, gate = whole.models, whole.policy
    if options.check or options.locked:
        if options.upgrade is not None:
            flag = "--check" if options.check else "--locked"
            hint = "`cache-models lock --upgrade --dry-run` shows which models would move."
            raise UsageError(f"{flag} pins nothing, and --upgrade pins anew", hint=hint)
        refuse_unfit_lock(manifest, locked, gate, options.lockfile)
        reporter.line("ready", f"{options.lockfile.name} fits {options.manifest.name}.")
        return
    if not options.may_write_lock:
        hint = "Run this where your models.toml is, or name another lock with --lockfile."
        raise UsageError(
            f"{options.lockfile} is not written: it would be in the directory of the tool itself", hint=hint
        )
    upgrade = options.upgrade is not None
    anew = set(select(manifest, options.upgrade or ())) if upgrade else set()
    pins = matching_pins([model for model in manifest if model not in anew], locked, None)
    unpinned = [model for model in manifest if model not in pins]
    context = pin_context(options, reporter, gate)
    resolved = resolve_all(unpinned, context, locked or (), pinned=pins, upgrade=upgrade)
    new = [pins[model] if model in pins else resolved[model].model for model in manifest]
    differences = compare_locks(locked or (), new, context.with_paths(manifest))
    _report_pins(options, differences, resolved.values(), reporter)
    if not options.dry_run:
        with storage_errors(f"write {options.lockfile}", place="--lockfile"):
            write_text_atomically(options.lockfile, format_lock(new))
    _report_totals(options, differences, [bytes_to_fetch(model, context) for model in new], reporter)


def _explain(options: Options, old: str, locked: Sequence[LockedModel] | None, reporter: LineReporter) -> None:
    """Print how the lock differs from an older one."""
    if options.check or options.upgrade is not None:
        flag = "--check" if options.check else "--upgrade"
        raise UsageError(f"--diff compares two locks, and {flag} does something else", hint="Give one of the two.")
    if locked is None:
        raise LockfileError(f"there is no {options.lockfile}", hint="Write one with `cache-models lock`.")
    differences = compare_locks(read_old_lock(old), locked, run_context(options, reporter, NO_RULES))
    for line in diff_lines(differences, options.format):
        progress.show(escape_lines(line))
    counts = _counts(differences)
    text = _changes(counts) or f": {len(differences)} new"
    reporter.line("ready", f"{options.lockfile.name} against {old_lock_name(old)}{text}.", **counts)


def _report_pins(
    options: Options, differences: Sequence[PinDifference], resolved: Iterable[Resolved], reporter: LineReporter
) -> None:
    """Print a row for each model of the old lock and the new one."""
    width = max((len(one.id) for one in differences), default=0)
    sizes = {(resolution.model.kind, resolution.model.id): resolution.repository_size for resolution in resolved}
    kinds = {one.id: one.kind for one in differences if one.new}
    for one in differences:
        row = f"{one.id:<{width}}"
        if one.new is None:
            why = f"lists it under [[{kinds[one.id]}]] now" if one.id in kinds else "does not list it any more"
            reporter.event("drop", f"{row} {options.manifest.name} {why}", model=one.id, kind=str(one.kind))
        elif (one.kind, one.id) not in sizes:
            reporter.event("keep", f"{row} {short_commit(one.new)}", model=one.id, commit=one.new.commit)
        else:
            _report_new_pin(one, one.new, sizes[one.kind, one.id], reporter, width)


def _report_new_pin(one: PinDifference, new: LockedModel, whole: int, reporter: LineReporter, width: int) -> None:
    """Print the row of a model that was pinned anew, of `whole` bytes, and how the pin differs from the earlier one."""
    old, change, row = one.old, one.word, messages.pinned_row(new, width)
    fields = {"model": new.id, "commit": new.commit, "bytes": new.size, "repository_bytes": whole}
    if old is None:
        reporter.event("lock", messages.new_pin_row(new, whole, width), **fields)
    elif change == PinChange.MOVED:
        same = ", same files" if same_files(old, new) else ""
        fields |= {"old_commit": old.commit, **difference_fields(one.difference, one.kind)}
        reporter.event("upgrade", f"{row}  {short_commit(old)} → {short_commit(new)}{same}", **fields)
    elif change == PinChange.CHANGED:
        what = "settings" if same_files(old, new) else "files"
        where = "same commit" if new.commit else "same directory"
        fields |= {"changed": what, **difference_fields(one.difference, one.kind)}
        reporter.event("change", f"{row}  {where}, other {what}", **fields)
    else:
        text = f"{new.id:<{width}} {short_commit(new):<12}  unchanged: {_why_unchanged(new)}"
        reporter.event("same", text, **fields)
    if one.difference and change in (PinChange.MOVED, PinChange.CHANGED):
        for part, text in change_rows(one.difference):
            reporter.event("differs", f"{new.id}: {part}: {text}", model=new.id, part=part)
        reporter.event("effect", f"{new.id}: {meaning(one.difference, one.kind)}", model=new.id)
    report_packages(new, reporter)


def _counts(differences: Sequence[PinDifference]) -> dict[str, int]:
    """Return how many pins are new, moved, changed, unchanged and dropped."""
    found = Counter(one.word for one in differences)
    return {word: found[word] for word in (*map(str, PinChange), DROPPED)}


def _report_totals(
    options: Options, differences: Sequence[PinDifference], sizes: Sequence[tuple[int, bool]], reporter: LineReporter
) -> None:
    """Print the last line: how many models are pinned, what changed, and what `sync` will fetch into this root."""
    to_fetch, exact = sum(count for count, _ in sizes), all(is_exact for _, is_exact in sizes)
    verb, will = ("would pin", "would") if options.dry_run else ("pins", "will")
    counts = _counts(differences)
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


def _why_unchanged(model: LockedModel) -> str:
    if not model.commit:
        return "its directory has the same files"
    return "its revision is that commit" if model.revision == model.commit else f"still the newest of {model.revision}"
