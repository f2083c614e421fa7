"""Make data files, which `coverage combine` takes, of what processes without a disk have left."""

from __future__ import annotations

from pathlib import Path

from coverage import CoverageData

_HEADER = 32 + 1 + 8 + 1

for left in Path.cwd().glob(".coverage-cut.*"):
    rest, found = left.read_bytes(), {}
    while len(rest) > _HEADER:
        name, length = rest[:_HEADER].split()
        content, rest = rest[_HEADER : _HEADER + int(length, 16)], rest[_HEADER + int(length, 16) :]
        if len(content) == int(length, 16):  # else the process was killed while it wrote
            found[name.decode()] = content
    for process, content in found.items():
        data = CoverageData(suffix=f"cut.{process}")
        data.loads(content)
    left.unlink()
