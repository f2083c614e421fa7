"""Parts of the demo that depend on the machine."""

from __future__ import annotations

from pathlib import Path

from scripts.demo import has_torch


def test_an_interpreter_that_is_not_there_has_no_torch(tmp_path: Path) -> None:
    """On a fresh clone only the demo's own environment exists, and nothing in it loads a model."""
    assert not has_torch(str(tmp_path / "python"))
    assert not has_torch(None)
    without = tmp_path / "without"
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    assert not has_torch(str(without))
