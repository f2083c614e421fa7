"""The rows of the README: a few scenarios in plain words, from the figures that were kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.benches.goals import Scenario, shown

OURS = "cache-models"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: a scenario by its name, and the peers that are compared."""

    words: str
    scenario: str
    peer: str
    other_way: str
    """The peer, in words of the reader."""
    ours: str = OURS


_SMALL_START = "quiet restart, 5 models, 52 files, 3.4 GB in place"
_LARGE = "cold, 1.1 GB embedding model and 1.1 GB reranker"
_SAVE = "load and `.save()` both models"
ROWS: Sequence[Row] = (
    Row("a later start, 5 models of together 3.4 GB in place", _SMALL_START, "hub, same files", "`snapshot_download`"),
    Row("the same", _SMALL_START, "naive", "load and `.save()` again"),
    Row("the first start, two models of 1.1 GB, fast network", _LARGE, "naive", _SAVE),
    Row("the same", _LARGE, "hub, same files", "`snapshot_download`, only the files needed"),
    Row(
        "the first start, 192 MB over a line of 200 Mbit/s",
        "cold, 192 MB, behind 40 ms a round trip and 200 Mbit/s",
        "hub, same files",
        "`snapshot_download`, only the files needed",
    ),
    Row(
        "a file of 1.1 GB, where each connection gets 50 MB/s",
        "cold, one file of 1.1 GB, each connection held to 50 MB/s",
        "curl",
        "`curl`, one connection",
    ),
    Row(
        "from process start to the first vector, 1.1 GB model baked into the image",
        "process start to first embedding, 1.1 GB model",
        "library downloads",
        "sentence-transformers downloads at the start",
        ours="baked",
    ),
    Row(
        "2.2 GB of models into a registry",
        "push of 2.2 GB",
        "docker build and push",
        "`docker build`, `docker push`",
        ours="cache-models push",
    ),
)


def as_summary(scenarios: Iterable[Scenario]) -> str:
    """Format the table of the README."""
    peers = {(scenario.name, name): told for scenario in scenarios for name, told in scenario.peers}
    lines = ["| what is timed | cache-models | the other way | | times as long |", "|---|--:|---|--:|--:|"]
    for row in ROWS:
        ours, theirs = peers[row.scenario, row.ours], peers[row.scenario, row.peer]
        ratio = _found(r"([\d.]+) x ours", theirs)
        lines.append(
            f"| {row.words} | {_seconds(ours)} | {row.other_way} | {_seconds(theirs)} | {shown(float(ratio), 'x')} |"
        )
    return "\n".join(lines) + "\n"


def goals_met(scenarios: Iterable[Scenario]) -> str:
    """Tell how many goals are met: `1 of 2 goals`."""
    met = [figure.met for scenario in scenarios for figure in scenario.figures]
    return f"{sum(met)} of {len(met)} goals"


def _seconds(told: str) -> str:
    return _found(r"^\s*([\d.]+ m?s)\b", told)


def _found(pattern: str, told: str) -> str:
    found = re.search(pattern, told)
    if not found:
        raise ValueError(f"no {pattern} in {told!r}")
    return found[1]
