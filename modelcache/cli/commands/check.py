"""`check`: load each model without network, and compare the numbers it gives with the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from modelcache.check.golden import Golden, GoldenFile, format_golden, parse_golden
from modelcache.check.launcher import WorkerInfo, check
from modelcache.check.verdict import Verdict, recorded
from modelcache.cli import check_messages, messages
from modelcache.cli.options import CommonOptions, switch
from modelcache.cli.progress import ConsoleReporter
from modelcache.core.errors import CacheModelsError, CheckError, PolicyError, StorageError, UsageError, raise_all
from modelcache.core.types import LockedModel, RemoteCode, WantedModel
from modelcache.pipeline.verify import intact_models, missing_errors, pins_without_network
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import read_bytes, storage_errors

_LARGEST_GOLDEN = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(CommonOptions):
    """The options of `check`."""

    record: bool = switch("--record", help="write the numbers to models.golden.json")
    unconfined: bool = switch(
        "--unconfined", help="run a model's code even where it cannot be confined (otherwise exit code 5)"
    )


def run(options: Options, reporter: ConsoleReporter) -> None:
    """Load every intact model without network; report each one that fails."""
    record = options.record and not options.dry_run
    golden_path = options.manifest.with_suffix(".golden.json")
    golden = _read_golden(golden_path, reporter, anew=record)
    # A lock may still allow code that the manifest no longer allows, and here code is run.
    pins, absent = pins_without_network(options.project, fitting=options.locked or options.manifest.exists())
    errors = missing_errors(absent, options.project)
    models = list(intact_models(pins, options.project, errors, quick=False))
    verdicts: list[Verdict] = []
    worker: WorkerInfo | None = None
    for result in _results(models, options, golden, errors) if models else ():
        if isinstance(result, WorkerInfo):
            worker, held = result, result.confinement
            text = check_messages.worker_line(worker)
            reporter.event("cut", text, network=held.network, disk=held.disk, held=held.steps, **worker.versions)
        elif isinstance(result, PolicyError):
            errors.append(result)
        else:
            verdicts.append(result)
            if _report(result, reporter, record=record):
                errors.append(check_messages.failure(result, golden, worker.versions if worker else {}))
    if worker and _code_ran_beside_files(models, worker, unconfined=options.unconfined):
        checked = [verdict.model for verdict in verdicts]
        unaltered = list(intact_models(checked, options.project, errors, quick=False))
        verdicts = [verdict for verdict in verdicts if verdict.model in unaltered]
    if record:
        new = recorded(pins, verdicts, worker.versions if worker else {}, golden)
        _write_golden(golden_path, {**_golden_of_absent(absent, golden), **new}, errors)
    raise_all(errors)
    summary = check_messages.summary(verdicts, options.root, recorded=record)
    reporter.line("ready", summary, models=len(verdicts))


def _results(
    models: Sequence[LockedModel], options: Options, golden: GoldenFile, errors: list[CacheModelsError]
) -> Iterator[WorkerInfo | Verdict | PolicyError]:
    """Yield the results of the worker; when it ends too early, that error joins the others."""
    try:
        with closing(check(models, options.root, golden, unconfined=options.unconfined)) as results:
            yield from results
    except CheckError as error:
        errors.append(error)


def _report(verdict: Verdict, reporter: ConsoleReporter, *, record: bool) -> bool:
    """Print the row and the notes of a model; return whether it fails. Numbers to be recorded may move."""
    failed = bool(verdict.faults or (verdict.moves and not record))
    event = "failed" if failed else "proven" if verdict.proven and not verdict.moves else "unproven"
    reporter.event(event, check_messages.row(verdict), **check_messages.fields(verdict))
    for note in [*verdict.notes, *(verdict.moves if record else ())]:
        reporter.event("note", f"{verdict.model.id}: {note}", model=verdict.model.id)
    return failed


def _code_ran_beside_files(models: Sequence[LockedModel], worker: WorkerInfo, *, unconfined: bool) -> bool:
    """Whether a model's code has run where it could see the files of the other models."""
    held = worker.confinement
    has_code = any(model.remote_code is RemoteCode.VENDORED for model in models)
    return has_code and not held.namespaces and (held.holds or unconfined)


def _read_golden(path: Path, reporter: ConsoleReporter, *, anew: bool) -> GoldenFile:
    """Read the recorded numbers; a damaged file may be recorded anew."""
    content = read_bytes(path, limit=_LARGEST_GOLDEN)
    try:
        return {} if content is None else parse_golden(content, path.name)
    except UsageError as error:
        if not anew:
            raise
        reporter.event("note", error.message)
        return {}


def _write_golden(path: Path, golden: GoldenFile, errors: list[CacheModelsError], limit: int = _LARGEST_GOLDEN) -> None:
    """Write the recorded numbers; a failure joins the errors."""
    text = format_golden(golden)
    if len(text.encode()) > limit:
        largest = max(golden.values(), key=lambda one: sum(len(answer.values) for answer in one.answers))
        message = f"the numbers of all models would take more than {messages.size(limit)}, so none are recorded"
        errors.append(CheckError(message, hint=f"Leave {largest.id} out: it gives the most."))
        return
    try:
        with storage_errors(f"write {path}"):
            write_text_atomically(path, text)
    except StorageError as error:
        errors.append(error)


def _golden_of_absent(absent: Sequence[WantedModel], golden: GoldenFile) -> dict[str, Golden]:
    """Return what was recorded of wanted models that are not on disk now; it is kept."""
    names = {(model.kind, model.id) for model in absent}
    return {digest: one for digest, one in golden.items() if (one.kind, one.id) in names}
