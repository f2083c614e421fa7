"""A process that dies at any point: what readers see, what the next run makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import PROJECT, Tool
from tests.faults.preload import breaking


def run(folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a sync in a process of its own."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "cache_models.py"), "--retries=0"],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_how_many_calls_there_are(pair: Tool, library: Path, tmp_path: Path) -> None:
    env = breaking(library, count=str(tmp_path / "count"))
    ran = run(pair.folder, env)
    assert ran.returncode == 0, ran.stderr
    print(int((tmp_path / "count").read_text()))
