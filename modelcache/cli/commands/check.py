"""`check`: load each model without network, and compare the numbers it gives with the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcache.check.golden import LARGEST_GOLDEN, Golden, GoldenFile, format_golden, golden_of, parse_golden
from modelcache.check.launcher import WorkerInfo, check
from modelcache.check.verdict import Verdict, recorded
from modelcache.cli import messages
from modelcache.cli.options import ProjectOptions, dry_run, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import CacheModelsError, CheckError, PolicyError, StorageError, UsageError, raise_all
from modelcache.core.kinds import Kind, Output
from modelcache.core.policy import Policy
from modelcache.core.text import one_line, size_in_words
from modelcache.core.types import LockedModel, RemoteCode, WantedModel
from modelcache.pipeline.pins import read_policy
from modelcache.pipeline.verify import intact_models, missing_errors, pins_without_network
from modelcache.system.atomic_write import write_text_atomically
from modelcache.system.files import read_bytes, storage_errors

_UNPROVEN = "unproven (`cache-models check --record` records the numbers)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ProjectOptions):
    """The options of `check`."""

    dry_run: bool = dry_run()
    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    record: bool = switch("--record", help="write the numbers to models.golden.json")
    unconfined: bool = switch(
        "--unconfined", help="run a model's own code even where no sandbox can confine it (default: exit code 5)"
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Load every intact model without network; report each one that fails."""
    record = options.record and not options.dry_run
    golden_path = options.project.golden
    golden = _read_golden(golden_path, reporter, anew=record and not options.ids)
    # A lock may still allow code that the manifest no longer allows, and here code is run.
    fitting = options.locked or options.manifest.exists()
    pins, absent = pins_without_network(options.project, options.ids, fitting=fitting)
    raise_all(Policy(remote_code=read_policy(options.manifest).remote_code).refusals((), pins))
    errors = missing_errors(absent, options.project)
    intact = list(intact_models(pins, options.project, errors, quick=False, reporter=reporter))
    models = [model for model in intact if model.kind.spec.loads]
    unloaded = [model for model in intact if not model.kind.spec.loads]
    for model in unloaded:
        text = f"{model.id:<52} {model.kind:<9} never loaded; its bytes are as pinned"
        reporter.event("intact", text, model=model.id, kind=str(model.kind))
    verdicts: list[Verdict] = []
    worker: WorkerInfo | None = None
    unchecked = len(models)
    for result in _results(models, options, golden, errors, reporter) if models else ():
        unchecked -= not isinstance(result, WorkerInfo)
        if isinstance(result, WorkerInfo):
            worker = result
            _report_worker(worker, reporter)
        elif isinstance(result, PolicyError):
            errors.append(result)
        else:
            verdicts.append(result)
            if _report(result, reporter, record=record):
                errors.append(failure(result, golden, worker.versions if worker else {}))
    if worker and _code_ran_beside_files(models, worker, unconfined=options.unconfined):
        checked = [verdict.model for verdict in verdicts]
        unaltered = list(intact_models(checked, options.project, errors, quick=False))
        verdicts = [verdict for verdict in verdicts if verdict.model in unaltered]
    written = False
    if record:
        new = recorded(pins, verdicts, worker.versions if worker else {}, golden)
        kept = _golden_of_others(pins, golden) if options.ids else _golden_of_absent(absent, golden)
        written = _write_golden(golden_path, {**kept, **new}, errors)
    passed = [verdict for verdict in verdicts if not _fails(verdict, record=record)]
    failed = len(pins) + len(absent) - len(passed) - len(unloaded) - unchecked
    counts = Counts(sum(_as_recorded(verdict) for verdict in passed), len(passed), len(unloaded), failed, unchecked)
    fate = f"recorded in {golden_path.name}" if written else "not recorded" if record else _UNPROVEN
    event = "checked" if errors else "ready"
    reporter.line(event, summary(counts, options.root, fate), models=len(passed), failed=failed, unchecked=unchecked)
    raise_all(errors)


def _report_worker(worker: WorkerInfo, reporter: LineReporter) -> None:
    """Print how the process that loads the models is confined, and its libraries."""
    held = worker.confinement
    text = confinement_line(worker)
    reporter.event("cut", text, network=held.network, disk=held.disk, held=held.steps, **worker.versions)
    libraries = ", ".join(f"{name} {version}" for name, version in worker.versions.items())
    reporter.event("using", f"{libraries}; imported in {worker.seconds:.1f} s", seconds=round(worker.seconds, 1))


def _results(
    models: Sequence[LockedModel],
    options: Options,
    golden: GoldenFile,
    errors: list[CacheModelsError],
    reporter: LineReporter,
) -> Iterator[WorkerInfo | Verdict | PolicyError]:
    """Yield the results of the worker; when it ends too early, that error joins the others."""
    try:
        found = check(models, options.root, golden, unconfined=options.unconfined, waiting=reporter.waiting)
        with closing(found) as results:
            yield from results
    except CheckError as error:
        errors.append(error)


def _report(verdict: Verdict, reporter: LineReporter, *, record: bool) -> bool:
    """Print the row and the notes of a model; return whether it fails. Numbers to be recorded may move."""
    failed = _fails(verdict, record=record)
    event = "failed" if failed else "proven" if _as_recorded(verdict) else "recorded" if record else "unproven"
    reporter.event(event, row(verdict), **fields(verdict))
    for note in [*verdict.notes, *(verdict.moves if record else ())]:
        reporter.event("note", f"{verdict.model.id}: {note}", model=verdict.model.id)
    return failed


def _fails(verdict: Verdict, *, record: bool) -> bool:
    """Whether a model fails; numbers to be recorded may move."""
    return bool(verdict.faults or (verdict.moves and not record))


def _as_recorded(verdict: Verdict) -> bool:
    """Whether its numbers are those that were recorded before."""
    return verdict.proven and not verdict.moves


def _code_ran_beside_files(models: Sequence[LockedModel], worker: WorkerInfo, *, unconfined: bool) -> bool:
    """Whether a model's code has run where it could see the files of the other models."""
    held = worker.confinement
    has_code = any(model.remote_code is RemoteCode.VENDORED for model in models)
    return has_code and not held.namespaces and (held.holds or unconfined)


def _read_golden(path: Path, reporter: LineReporter, *, anew: bool) -> GoldenFile:
    """Read the recorded numbers; a damaged file may be recorded anew."""
    content = read_bytes(path, limit=LARGEST_GOLDEN)
    try:
        return {} if content is None else parse_golden(content, path.name)
    except UsageError as error:
        if not anew:
            raise
        reporter.event("note", error.message)
        return {}


def _write_golden(path: Path, golden: GoldenFile, errors: list[CacheModelsError], limit: int = LARGEST_GOLDEN) -> bool:
    """Write the recorded numbers, and return whether they were; a failure joins the errors.

    A file with nothing in it is not made; one that is there is kept in order.
    """
    if not golden and not path.exists():
        return False
    text = format_golden(golden)
    if len(text.encode()) > limit:
        largest = max(golden.values(), key=lambda one: sum(len(answer.values) for answer in one.answers))
        message = f"the numbers of all models would take more than {size_in_words(limit)}, so none are recorded"
        errors.append(CheckError(message, hint=f"Leave {largest.id} out: it gives the most."))
        return False
    try:
        with storage_errors(f"write {path}", place="--manifest"):
            write_text_atomically(path, text)
    except StorageError as error:
        errors.append(error)
        return False
    return True


def _golden_of_absent(absent: Sequence[WantedModel], golden: GoldenFile) -> dict[str, Golden]:
    """Return what was recorded of wanted models that are not on disk now; it is kept."""
    names = {(model.kind, model.id) for model in absent}
    return {digest: one for digest, one in golden.items() if (one.kind, one.id) in names}


def _golden_of_others(pins: Sequence[LockedModel], golden: GoldenFile) -> dict[str, Golden]:
    """Return what was recorded of models other than these; it is kept where only these are recorded anew."""
    names = {(model.kind, model.id) for model in pins}
    return {digest: one for digest, one in golden.items() if (one.kind, one.id) not in names}


def confinement_line(worker: WorkerInfo) -> str:
    """Return the line that says how the process that loads models is confined."""
    confinement = worker.confinement
    reason = f" (no namespaces: {one_line(worker.reason, 100)})" if worker.reason else ""
    return f"network: {confinement.network}; disk: {confinement.disk}; held by: {', '.join(confinement.steps)}{reason}"


def row(verdict: Verdict) -> str:
    """Return the row of a checked model."""
    model, observed = verdict.model, verdict.observed
    if observed.error:
        return f"{model.id:<52} {model.kind}"
    limit = f"max {observed.max_seq_length}" if observed.max_seq_length else "no limit"
    numbers = str(observed.dimension)
    if model.kind.spec.output is Output.SPARSE_VECTOR:
        numbers = f"{observed.dimension} numbers, {len(observed.answers[0].values)} non-zero"
    elif model.kind.spec.output is Output.MATRIX:
        numbers = f"{observed.dimension} numbers a token"
    row = f"{model.id:<52} {observed.seconds:5.1f} s {size_in_words(observed.peak_memory):>7}"
    return f"{row}  {model.kind}  {numbers}  {limit}  {observed.similarity}".rstrip()


def fields(verdict: Verdict) -> dict[str, Any]:
    """Return the fields of a checked model for JSON, with every reason, and figures where numbers are recorded."""
    observed = verdict.observed
    return {
        "model": verdict.model.id,
        "kind": str(verdict.model.kind),
        "dimension": observed.dimension,
        "limit": observed.max_seq_length,
        "similarity": observed.similarity,
        "seconds": round(observed.seconds, 3),
        "peak": observed.peak_memory,
        "proven": verdict.proven,
        "problems": [*verdict.faults, *verdict.moves],
        **verdict.figures(),
    }


def failure(verdict: Verdict, golden: GoldenFile, versions: Mapping[str, str]) -> CheckError:
    """Return the error of a model that fails, with the libraries with which it was recorded if those were others."""
    known = golden_of(verdict.model, golden)
    others = [f"{name} {old}" for name, old in known.versions.items() if versions.get(name) != old] if known else []
    reasons = [*verdict.faults, *verdict.moves, *([f"recorded with {', '.join(others)}"] if others else [])]
    return CheckError(
        f"{verdict.model.id} does not pass:\n  " + "\n  ".join(reasons),
        hint="Its files are as pinned, so fetching them again does not help. Follow the message, use versions of the"
        " libraries that fit the model, or pin another `revision`."
        if verdict.faults
        else "If this is as it should be, record the new numbers with `cache-models check --record`.",
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many models of a run ended in which way."""

    as_recorded: int
    """Of those that pass: models with the numbers that were recorded before."""
    passed: int
    unloaded: int
    """They are never loaded."""
    failed: int
    unchecked: int
    """The process that loads the models had ended before."""


def summary(counts: Counts, where: Path, fate: str) -> str:
    """Return the last line; `fate` says what became of the numbers that were not recorded before."""
    more = f"{messages.models(counts.unloaded)} of [[{Kind.OTHER}]] never loaded"
    numbered = {
        "with the recorded numbers": counts.as_recorded,
        fate: counts.passed - counts.as_recorded,
        "failed": counts.failed,
        "not checked": counts.unchecked,
    }
    parts = [f"{count} {words}" for words, count in numbered.items() if count]
    if not parts:
        return f"Nothing to load in {where}: {more if counts.unloaded else 'the manifest lists none'}."
    total = counts.passed + counts.failed + counts.unchecked
    load = "" if counts.passed < total else f" {'loads' if total == 1 else 'load'} with no network"
    return f"{messages.models(total)} in {where}{load}: {', '.join([*parts, *([more] if counts.unloaded else [])])}."
