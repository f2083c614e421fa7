"""Make data files, which `coverage combine` takes, of what processes without a disk have left."""

from __future__ import annotations

from pathlib import Path

from coverage import CoverageData

for torn in Path.cwd().glob(".coverage-new.*"):
    torn.unlink()  # of a process that was killed while it wrote
for left in Path.cwd().glob(".coverage-cut.*"):
    data = CoverageData(suffix=f"cut{left.suffix}")
    data.loads(left.read_bytes())
    left.unlink()
