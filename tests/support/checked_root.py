"""A root in which `check` is run as a process of its own, and how that ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT
from tests.support import preloaded
from tests.support.hub import StandInHub
from tests.support.models.layouts import Layout, layout_of


@dataclass(frozen=True)
class Root:
    """A root that was filled through the stand-in Hub, which is gone."""

    folder: Path

    def check(self, *words: str, env: dict[str, str] | None = None, run: Callable[..., Any] = preloaded.run) -> Checked:
        """Run the command in a process of its own."""
        ran = run(
            [sys.executable, str(PROJECT / "cache_models.py"), "check", "--log-format=json", *words],
            cwd=self.folder,
            env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in ran.stderr.splitlines()]
        return Checked(ran.returncode, lines, {line["model"]: line for line in lines if "peak" in line})

    @classmethod
    def cached(cls, folder: Path, hub: StandInHub, tables: Iterable[str]) -> Root:
        """Fill a new root with the models of these tables."""
        folder.mkdir()
        (folder / "models.toml").write_text("\n".join(tables))
        command = [sys.executable, str(PROJECT / "cache_models.py"), "--quiet"]
        subprocess.run(command, cwd=folder, env={**os.environ, "HF_ENDPOINT": hub.url}, check=True)
        return cls(folder)

    def home(self, layout: Layout) -> Path:
        """Where a layout is published."""
        return layout.home(self.folder)

    def with_only(self, to: Path, *names: str) -> Root:
        """Have some of the models again, to be spoiled, without a lock: their receipts are the pin."""
        layouts = [layout_of(name) for name in names]
        to.mkdir()
        (to / "models.toml").write_text("\n".join(layout.table for layout in layouts))
        shutil.copy(self.folder / "models.golden.json", to)
        for layout in layouts:
            shutil.copytree(self.home(layout), layout.home(to))
        return Root(to)


@dataclass(frozen=True)
class Checked:
    """How a check ended: its exit code, every line, and the row of each model."""

    exit_code: int
    lines: list[dict[str, Any]]
    rows: dict[str, dict[str, Any]]

    def problems(self, layout: Layout) -> str:
        """All that is wrong with a model, as one text."""
        return "\n".join(self.rows[layout.id]["problems"])
