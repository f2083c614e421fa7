"""Text of the `check` command: how models are confined, the row of a model, why it fails, the last line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelcache.check.golden import GoldenFile, golden_of
from modelcache.check.launcher import WorkerInfo
from modelcache.check.verdict import Verdict
from modelcache.cli import messages
from modelcache.core.errors import CheckError
from modelcache.core.text import one_line


def worker_line(worker: WorkerInfo) -> str:
    """Return the line that says how the process that loads models is confined, and which libraries it has."""
    confinement = worker.confinement
    libraries = ", ".join(f"{name} {version}" for name, version in worker.versions.items())
    reason = f" (no namespaces: {one_line(worker.reason, 100)})" if worker.reason else ""
    return (
        f"network: {confinement.network}; disk: {confinement.disk};"
        f" held by: {', '.join(confinement.steps)}{reason}; {libraries}, imported in {worker.seconds:.1f} s"
    )


def row(verdict: Verdict) -> str:
    """Return the row of a checked model."""
    model, observed = verdict.model, verdict.observed
    if observed.error:
        return f"{model.id:<52} {model.kind}"
    limit = f"max {observed.max_seq_length}" if observed.max_seq_length else "no limit"
    return (
        f"{model.id:<52} {model.kind:<9} {observed.dimension:>5}  {limit:<9} {observed.similarity:<9}"
        f" {observed.seconds:6.1f} s {messages.size(observed.peak_memory):>8}"
    )


def fields(verdict: Verdict) -> dict[str, Any]:
    """Return the fields of a checked model for JSON, with every reason."""
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
    }


def failure(verdict: Verdict, golden: GoldenFile, versions: Mapping[str, str]) -> CheckError:
    """Return the error of a model that fails, with the libraries with which it was recorded if those were others."""
    known = golden_of(verdict.model, golden)
    others = [f"{name} {old}" for name, old in known.versions.items() if versions.get(name) != old] if known else []
    reasons = [*verdict.faults, *verdict.moves, *([f"recorded with {', '.join(others)}"] if others else [])]
    return CheckError(
        f"{verdict.model.id} does not pass:\n  " + "\n  ".join(reasons),
        hint="" if verdict.faults else "If this is as it should be, record the new numbers with `check --record`.",
    )


def summary(verdicts: Sequence[Verdict], where: Path, *, recorded: bool) -> str:
    """Return the last line: how many models load, and with how many the recorded numbers were compared."""
    proven = sum(verdict.proven for verdict in verdicts)
    counts = [f"{proven} with the recorded numbers"] if proven else []
    if unproven := len(verdicts) - proven:
        counts.append(
            f"{unproven} recorded" if recorded else f"{unproven} unproven (check --record records their numbers)"
        )
    return f"{messages.models(len(verdicts))} in {where} load with no network: {', '.join(counts)}."
