"""The `check` command: which models load with no network, and what their recorded numbers say to that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from modelcache.check.confinement import Confinement
from modelcache.check.golden import Golden, GoldenFile, format_golden, golden_of, parse_golden
from modelcache.check.launcher import WorkerInfo, check
from modelcache.check.verdict import Verdict, recorded
from modelcache.cli import messages
from modelcache.cli.options import Options
from modelcache.cli.progress import ConsoleReporter
from modelcache.core.errors import CacheModelsError, CheckError, PolicyError, StorageError, UsageError, raise_all
from modelcache.core.text import one_line
from modelcache.core.types import LockedModel, RemoteCode, WantedModel
from modelcache.pipeline.verify import intact_models, missing_errors, pins_without_network
from modelcache.system.files import read_bytes, storage_errors, write_text_atomically

_LARGEST_GOLDEN = 1 << 26


def prove(options: Options, reporter: ConsoleReporter) -> None:
    """Load every model that is whole, cut off from the network, and tell what does not hold."""
    record = options.record and not options.dry_run
    golden_path = options.manifest.with_suffix(".golden.json")
    golden = _read_golden(golden_path, reporter, anew=record)
    # A lock may still allow code that the manifest no longer allows, and here code is run.
    pins, absent = pins_without_network(options.project, fitting=options.locked or options.manifest.exists())
    errors = missing_errors(absent, options.project)
    whole = list(intact_models(pins, options.project, errors, quick=False))
    verdicts: list[Verdict] = []
    versions: dict[str, str] = {}
    held: Confinement | None = None
    for told in _told(whole, options, golden, errors) if whole else ():
        if isinstance(told, WorkerInfo):
            versions |= told.versions
            held = told.confinement
            reporter.event("cut", surroundings(told), network=held.network, disk=held.disk, held=held.steps, **versions)
            continue
        if isinstance(told, PolicyError):
            errors.append(told)
            continue
        verdicts.append(told)
        failed = told.faults or (told.moves and not record)
        event = "failed" if failed else "proven" if told.proven and not told.moves else "unproven"
        reporter.event(event, row_of(told), **fields_of(told))
        for note in [*told.notes, *(told.moves if record else ())]:
            reporter.event("note", f"{told.model.id}: {note}", model=told.model.id)
        if failed:
            errors.append(_failed(told, golden, versions))
    code = any(model.remote_code is RemoteCode.VENDORED for model in whole)
    if code and held and not held.namespaces and (held.holds or options.unconfined):
        # It ran beside the files of all other models.
        unaltered = list(intact_models([verdict.model for verdict in verdicts], options.project, errors, quick=False))
        verdicts = [verdict for verdict in verdicts if verdict.model in unaltered]
    if record:
        new = recorded(pins, verdicts, versions, golden)
        _write_golden(golden_path, {**_recorded_of(absent, golden), **new}, errors)
    raise_all(errors)
    reporter.line("ready", proof(verdicts, options.root, recorded=record), models=len(verdicts))


def _read_golden(path: Path, reporter: ConsoleReporter, *, anew: bool) -> GoldenFile:
    """Read the recorded numbers; a file that cannot be read is no hindrance to making it anew."""
    content = read_bytes(path, limit=_LARGEST_GOLDEN)
    try:
        return {} if content is None else parse_golden(content, path.name)
    except UsageError as error:
        if not anew:
            raise
        reporter.event("note", error.message)
        return {}


def _told(
    models: Sequence[LockedModel], options: Options, golden: GoldenFile, errors: list[CacheModelsError]
) -> Iterator[WorkerInfo | Verdict | PolicyError]:
    """Yield what the check tells; that it ended too early joins the errors, and hides nothing that came before."""
    try:
        with closing(check(models, options.root, golden, unconfined=options.unconfined)) as told:
            yield from told
    except CheckError as error:
        errors.append(error)


def _write_golden(path: Path, golden: GoldenFile, errors: list[CacheModelsError]) -> None:
    """Write the recorded numbers; that it cannot be done joins the errors."""
    text = format_golden(golden)
    if len(text.encode()) > _LARGEST_GOLDEN:
        largest = max(golden.values(), key=lambda one: sum(len(answer.values) for answer in one.answers))
        told = f"the numbers of all models would take more than {messages.size(_LARGEST_GOLDEN)}, so none are recorded"
        errors.append(CheckError(told, hint=f"Leave {largest.id} out: it gives the most."))
        return
    try:
        with storage_errors(f"write {path}"):
            write_text_atomically(path, text)
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


def surroundings(told: WorkerInfo) -> str:
    """Say what holds a process that loads models, and with what it loads them."""
    held = told.confinement
    libraries = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    steps = ", ".join(held.steps)
    reason = f" (no namespaces: {one_line(told.reason, 100)})" if told.reason else ""
    return (
        f"network: {held.network}; disk: {held.disk}; held by: {steps}{reason};"
        f" {libraries}, imported in {told.seconds:.1f} s"
    )


def row_of(verdict: Verdict) -> str:
    """Return the row of a model that was checked."""
    model, seen = verdict.model, verdict.observed
    if seen.error:
        return f"{model.id:<52} {model.kind}"
    limit = f"max {seen.max_seq_length}" if seen.max_seq_length else "no limit"
    return (
        f"{model.id:<52} {model.kind:<9} {seen.dimension:>5}  {limit:<9} {seen.similarity:<9}"
        f" {seen.seconds:6.1f} s {messages.size(seen.peak_memory):>8}"
    )


def fields_of(verdict: Verdict) -> dict[str, Any]:
    """Return the same for programs, with every reason."""
    seen = verdict.observed
    return {
        "model": verdict.model.id,
        "kind": str(verdict.model.kind),
        "dimension": seen.dimension,
        "limit": seen.max_seq_length,
        "similarity": seen.similarity,
        "seconds": round(seen.seconds, 3),
        "peak": seen.peak_memory,
        "proven": verdict.proven,
        "problems": [*verdict.faults, *verdict.moves],
    }


def proof(verdicts: Sequence[Verdict], where: Path, *, recorded: bool) -> str:
    """Return the last line of a check, which alone says what is known now."""
    proven = sum(verdict.proven for verdict in verdicts)
    told = [f"{proven} with the recorded numbers"] if proven else []
    if unproven := len(verdicts) - proven:
        told.append(
            f"{unproven} recorded" if recorded else f"{unproven} unproven (check --record records their numbers)"
        )
    return f"{messages.models(len(verdicts))} in {where} load with no network: {', '.join(told)}."


def run_check(options: Options, reporter: ConsoleReporter) -> None:
    """Load every model that is whole, cut off from the network, and tell what does not hold."""
    prove(options, reporter)
