"""What the fault suite shares: the table of what was tried and survived, and the library that breaks calls."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tool
from tests.faults.network import Ground, on_ground
from tests.faults.preload import compiled


@dataclass
class Tally:
    """Counts the tries of one fault for the table that is printed at the end."""

    node: pytest.Item

    def __call__(self, fault: str, tries: int = 1, worst: float = 0.0) -> None:
        """Note that so many tries of a fault were survived; `worst` is the longest recovery in seconds."""
        self.node.user_properties.append(("tally", (fault, tries, worst)))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test notes what it tried; it does so at its end, so that a failing one notes nothing."""
    return Tally(request.node)


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that breaks the n-th call; without a compiler the suite cannot be run."""
    found = compiled()
    if found is not None:
        return found
    reason = "no C compiler: the library that breaks file-system calls cannot be built"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def ground(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A model that takes every kind of request to get, from a Hub that breaks where it is told."""
    with on_ground(tool, tmp_path / "embedding", monkeypatch) as ground:
        yield ground


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table: fault, tries, survived, worst recovery."""
    rows: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "tally" and report.when == "call":
                fault, tries, worst = value
                rows[fault] = rows[fault][0] + tries, max(rows[fault][1], worst)
    if not rows:
        return
    failed = len(terminalreporter.stats.get("failed", []))
    terminalreporter.section("faults")
    terminalreporter.write_line("| fault | tries | survived | worst recovery |")
    terminalreporter.write_line("|---|---|---|---|")
    for fault, (tries, worst) in rows.items():
        terminalreporter.write_line(f"| {fault} | {tries} | {tries} | {f'{worst:.1f} s' if worst else ''} |")
    if failed:
        terminalreporter.write_line(f"and {failed} tests that failed: see above")
