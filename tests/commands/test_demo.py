"""The demo fits on one screen, keeps what it says, and its last lines work as typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.screenshot import DEMO, lines_of
from tests.support.terminal import Terminal


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """On a terminal, then in a pipe. Both use one folder of the project, so all of it is one test."""
    with Terminal([sys.executable, "-m", "scripts.demo"], columns=80, folder=PROJECT, environment={}) as terminal:
        code, lines = terminal.finish()
    assert code == 0, "\n".join(lines)
    fits_on_one_screen(lines)
    keeps_what_it_says("\n".join(lines))
    is_what_the_picture_shows(lines)
    last_lines_work_as_typed(lines[-2:], tmp_path)
    gives_a_pipe_no_bars()


def fits_on_one_screen(lines: list[str]) -> None:
    """40 lines, where a path that is wider than the terminal takes two, and the first run says that it sets up."""
    assert sum(-(-len(line) // 80) for line in lines) <= 39


def keeps_what_it_says(said: str) -> None:
    """Each part shows its promise in figures, and a vector comes from a model that was loaded by its id."""
    for shown in (
        r"  add +sentence-transformers/all-MiniLM-L6-v2  91\.6 of 977 MB  \[\[embedding\]\]",
        r'\$ grep commit models\.lock\ncommit = "[0-9a-f]{40}"',
        r" +\d\d %  +\S+ of 91\.6 MB  +\S+ MB/s  +\d s left  █+\S?",  # it was killed, so the bar stays
        r"\$ ls cached_embedding_models   # nothing of the model is visible yet\n\$ cache-models",
        r"  changed  model\.safetensors +expected \w{12}…  found \w{12}…",
        r"1 model ready in \S+: unchanged\.\n\(0 requests, \d+ ms; `hf download`: [1-9]\d* requests?, \d+ ms\)",
        r"sentence-transformers/all-MiniLM-L6-v2: \[ ?0\.09.*",
    ):
        assert re.search(f"^{shown}$", said, re.MULTILINE), shown
    sent = re.search(r"^\(The Hub sent ([\d.]+) MB before the kill, and ([\d.]+) MB after it\.\)$", said, re.MULTILINE)
    assert sent
    before, after = map(float, sent.groups())
    assert 90 < before + after < 110
    assert min(before, after) > 30


def is_what_the_picture_shows(lines: list[str]) -> None:
    """`python -m tests.support.screenshot` draws it anew; figures and the place of the project differ."""

    def plain(lines: list[str]) -> str:
        places = [re.sub(r"/\S*(?=/\.demo)", "", line) for line in lines if not line.startswith("source ")]
        return re.sub(r"\b[0-9a-f]{12}\b|[\d.█▏▎▍▌▋▊▉\s]", "", "".join(places))

    assert plain(lines_of(DEMO.read_text(encoding="utf-8"))) == plain(lines)


def last_lines_work_as_typed(typed: list[str], home: Path) -> None:
    """In the directory of the project, with nothing of the tool on the PATH."""
    assert typed[-1] == "cache-models verify"
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": os.environ.get("LANG", "C.UTF-8")}
    ran = subprocess.run(
        ["bash", "-ec", "\n".join(typed)], cwd=PROJECT, env=plain, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "every byte as pinned" in ran.stderr


def gives_a_pipe_no_bars() -> None:
    """As in the log of a CI server."""
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.replace("\n", "").isprintable()
    assert re.search(r"unchanged\.\n\(0 requests, \d+ ms; ", ran.stdout)
