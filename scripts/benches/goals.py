"""Figures and their goals: the rows of the table, as text, as Markdown and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that has a goal."""

    what: str
    value: float
    goal: float
    sign: str
    """`<=` or `>=`."""
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.sign == "<=" else self.value >= self.goal

    def told(self) -> tuple[str, str, str]:
        """Return the goal, the figure and the verdict as text."""
        return (
            f"{self.what} {'≤' if self.sign == '<=' else '≥'} {shown(self.goal, self.unit)}",
            shown(self.value, self.unit),
            "met" if self.met else "missed",
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """The results of one scenario: a line per peer, and the figures that have goals; or the reason for skipping it."""

    name: str
    peers: Sequence[tuple[str, str]] = ()
    """The name of each peer, and its measurements as text."""
    figures: Sequence[Figure] = ()
    skipped: str = ""
    points: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for a plot."""


def shown(value: float, unit: str) -> str:
    """Format a number with its significant digits."""
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    number = f"{value:,.{digits}f}"
    return f"{number} x" if unit == "x" else f"{number} {unit}".rstrip()


def as_text(scenario: Scenario) -> str:
    """Format a scenario for a terminal."""
    lines = [scenario.name]
    if scenario.skipped:
        return f"{scenario.name}\n  skipped: {scenario.skipped}\n"
    lines += [f"  {name:<34} {told}" for name, told in scenario.peers]
    for figure in scenario.figures:
        goal, found, verdict = figure.told()
        lines.append(f"  {verdict:<7} {found:>12}   {goal}")
    return "\n".join(lines) + "\n"


def as_markdown(scenarios: Iterable[Scenario]) -> str:
    """Format the table of goals for docs/performance.md."""
    lines = ["| scenario | goal | found | |", "|---|---|---|---|"]
    for scenario in scenarios:
        name = scenario.name
        if scenario.skipped:
            lines.append(f"| {name} | | skipped: {scenario.skipped} | |")
        for figure in scenario.figures:
            goal, found, verdict = figure.told()
            verdict = verdict if figure.met else f"**{verdict}**"
            lines.append(f"| {name} | {goal} | {found} | {verdict} |")
            name = ""
    return "\n".join(lines) + "\n"


def to_json(scenarios: Iterable[Scenario], machine: str) -> str:
    """Serialise all results."""
    found = {"machine": machine, "scenarios": [asdict(scenario) for scenario in scenarios]}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[list[Scenario], str]:
    """Parse the output of `to_json`."""
    found = json.loads(text)
    scenarios = [
        Scenario(
            one["name"],
            [(name, told) for name, told in one["peers"]],
            [Figure(**figure) for figure in one["figures"]],
            one["skipped"],
            one["points"],
        )
        for one in found["scenarios"]
    ]
    return scenarios, str(found["machine"])


def machine_of(folder: Path, cores: int, load: float) -> str:
    """Describe the machine; `load` is its load average."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = {line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")}
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if Path("/proc/mounts").exists() else []
    above = [line.split() for line in mounts]
    over = [words for words in above if folder.resolve().is_relative_to(words[1])]
    system = max(over, key=lambda words: len(words[1]))[2] if over else "an unknown file system"
    name = ", ".join(sorted(names)) or platform.machine()
    kernel = platform.release().partition("-")[0]
    python = platform.python_version()
    return f"{cores} cores of {name}, {system}, Linux {kernel}, Python {python}, load average {load:.0f}"
