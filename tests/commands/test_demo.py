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

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo() -> list[str]:
    """Its lines on a terminal of 80 columns."""
    with Terminal([sys.executable, "-m", "scripts.demo"], columns=80, folder=PROJECT, environment={}) as terminal:
        code, lines = terminal.finish()
    assert code == 0, "\n".join(lines)
    return lines


def test_it_fits_on_one_screen(demo: list[str]) -> None:
    """40 lines, where a path that is wider than the terminal takes two, and the first run says that it sets up."""
    assert sum(-(-len(line) // 80) for line in demo) <= 39


def test_it_keeps_what_it_says(demo: list[str]) -> None:
    """Each part shows its promise in figures, and a vector comes from a model that was loaded by its id."""
    said = "\n".join(demo)
    assert re.search(r"^  add +sentence-transformers/all-MiniLM-L6-v2  91\.6 of 977 MB", said, re.MULTILINE)
    assert re.search(
        r"^ +\d\d %  +\S+ of 91\.6 MB  +\S+ MB/s  +\d s left  █", said, re.MULTILINE
    )  # killed, the bar stays
    (sent,) = re.findall(
        r"^\(The Hub sent ([\d.]+) MB before the kill, and ([\d.]+) MB after it\.\)$", said, re.MULTILINE
    )
    before, after = map(float, sent)
    assert re.search(r"^\$ ls cached_embedding_models   # nothing of the model is visible yet\n\$ ", said, re.MULTILINE)
    assert re.search(r'^\$ grep commit models\.lock\ncommit = "[0-9a-f]{40}"$', said, re.MULTILINE)
    assert 90 < before + after < 110
    assert min(before, after) > 30
    assert re.search(r"^  changed  model\.safetensors +expected \w{12}…  found \w{12}…$", said, re.MULTILINE)
    assert re.search(r"unchanged\.\n\(0 requests, \d+ ms; `hf download`: [1-9]\d* requests?, \d+ ms\)", said)
    assert re.search(r"^sentence-transformers/all-MiniLM-L6-v2: \[ ?0\.09", said, re.MULTILINE)


def test_its_last_lines_work_as_typed(demo: list[str], tmp_path: Path) -> None:
    """In the directory of the project, with nothing of the tool on the PATH."""
    typed = demo[-2:]
    assert typed[-1] == "cache-models verify"
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": os.environ.get("LANG", "C.UTF-8")}
    ran = subprocess.run(
        ["bash", "-ec", "\n".join(typed)], cwd=PROJECT, env=plain, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "every byte as pinned" in ran.stderr


def test_a_pipe_gets_the_same_without_bars(demo: list[str]) -> None:
    """As in the log of a CI server."""
    del demo  # both use the same folder, so one after the other
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.replace("\n", "").isprintable()
    assert "every byte" not in ran.stdout  # it is left for the reader to type
    assert re.search(r"unchanged\.\n\(0 requests, \d+ ms; ", ran.stdout)


def test_the_picture_in_the_docs_shows_it(demo: list[str]) -> None:
    """`python -m tests.support.screenshot` draws it anew; figures and the place of the project differ."""

    def plain(lines: list[str]) -> str:
        places = [re.sub(r"/\S*(?=/\.demo)", "", line) for line in lines if not line.startswith("source ")]
        return re.sub(r"\b[0-9a-f]{12}\b|[\d.█▏▎▍▌▋▊▉\s]", "", "".join(places))

    assert plain(lines_of(DEMO.read_text(encoding="utf-8"))) == plain(demo)
