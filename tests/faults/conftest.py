"""What the fault suite shares: the table of what was tried and survived, and the library that breaks calls."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDING, Tool, files_below, unavailable
from tests.support import tiny
from tests.support.faults.bounds import Outside, make_sentinel
from tests.support.faults.forked_runs import ForkedRuns
from tests.support.faults.network import Ground, on_ground
from tests.support.faults.preload import compiled
from tests.support.faults.scenarios import Workspace
from tests.support.faults.table import ROWS, lines
from tests.support.hub import StandInHub


@dataclass
class Tally:
    """Counts the tries of one fault for the table that is printed at the end."""

    node: pytest.Item

    def __call__(self, fault: str, tries: int = 1, worst: float = 0.0) -> None:
        """Note that so many tries of a fault were survived; `worst` is the longest recovery in seconds.

        The fault is a row of the table, and may be told more closely behind a colon.
        """
        row = fault.partition(":")[0]
        assert row in ROWS
        self.node.user_properties.append(("tally", (row, tries, worst)))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Where a test notes what it tried; it does so at its end, so that a failing one notes nothing."""
    return Tally(request.node)


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that breaks the n-th call; without a compiler the suite cannot be run."""
    return compiled() or unavailable("no C compiler: the library that breaks file-system calls cannot be built")


@pytest.fixture(scope="session")
def runs(library: Path) -> Iterator[ForkedRuns]:
    """Runs of the tool that cost milliseconds."""
    made = ForkedRuns(library)
    yield made
    made.close()


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is room: a kill is the same there, and fsync costs nothing."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shutil.disk_usage(shared).free < 64 << 20:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="cache-models-faults-", dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def workspace(hub: StandInHub, runs: ForkedRuns, quick_folder: Path) -> Workspace:
    """The place where scenarios are made."""
    return Workspace(hub, runs, quick_folder)


@pytest.fixture
def ground(quick_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A model that takes every kind of request to get, from a Hub that breaks where it is told."""
    folder = quick_folder / "work"
    folder.mkdir()
    with on_ground(Tool(folder, capsys, monkeypatch), quick_folder / "embedding", monkeypatch) as ground:
        yield ground


@pytest.fixture
def outside(tool: Tool, tmp_path: Path) -> Iterator[Outside]:
    """What is not the tool's; at the end of a test it has to be as it was."""
    make_sentinel(tmp_path / "sentinel")
    watched = Outside(tmp_path, tool.folder)
    yield watched
    watched.assert_untouched()


@pytest.fixture
def one(hub: StandInHub, tool: Tool, model: Mapping[str, bytes]) -> Tool:
    """The tool, wanting one small model."""
    hub.add(EMBEDDING, model)
    tool.want(EMBEDDING)
    return tool


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files of a small model."""
    return files_below(tiny.tiny_embedding(tmp_path_factory.mktemp("model") / "embedding"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table: fault, tries, survived, worst recovery."""
    noted = [
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == "tally" and report.when == "call"
    ]
    if not noted:
        return
    failed = len(terminalreporter.stats.get("failed", []))
    terminalreporter.section("faults")
    for line in lines(noted):
        terminalreporter.write_line(line)
    if failed:
        terminalreporter.write_line(f"and {failed} tests that failed: see above")
