"""CONTRIBUTING.md: its lanes are those of scripts/test, its scripts are there, its first change can be made.

The commands themselves are run elsewhere: `scripts/demo` by test_docs, those of a release by test_release.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Tool
from tests.support import tiny
from tests.support.hub import StandInHub

PAGE = (PROJECT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/support/README.md", "docs/architecture.md")


def test_every_command_is_known_to_a_test() -> None:
    """Each names a script that is there, or a module that can be run."""
    assert [language for language, _ in BLOCKS] == ["console", "diff", "diff", "console", "console"]
    shown = "".join(text for language, text in BLOCKS if language == "console")
    commands = [line.partition("#")[0].strip() for line in re.findall(r"^ *\$ (.*)$", shown, re.MULTILINE)]
    assert commands == [
        "scripts/demo",
        "scripts/test fast",
        "scripts/test tests/unit/resolver/test_parts.py",
        "python -m scripts.release check v1.2.3",
        "python -m scripts.release build dist",
    ]
    for script in ("scripts/demo", "scripts/test"):
        assert os.access(PROJECT / script, os.X_OK), script


def test_the_lanes_are_those_of_the_script() -> None:
    """Each has a row with the time that it takes."""
    script = (PROJECT / "scripts/test").read_text()
    lanes = set(re.findall(r"^    (\w+)\)", script, re.MULTILINE))
    table = PAGE.partition("| `scripts/test` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    assert {name.strip("`") for name, _, _ in rows if re.fullmatch(r"`\w+`", name)} == lanes
    assert all(what and how_long for _, what, how_long in rows)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    """Of this repository; addresses are left to readers."""
    links = re.findall(r"\]\(([^)\s]+)\)", (PROJECT / page).read_text())
    assert [link for link in links if not link.startswith("https://") and not leads(PROJECT / page, link)] == []


def leads(page: Path, link: str) -> bool:
    """Whether there is the file, and in it the heading."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.is_file() or not anchor:
        return target.is_file()
    headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_first_change_is_of_use(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """As the page tells it: `outdated` calls such a file a setting, and an index may have to be made anew."""
    folder = tiny.tiny_embedding(tmp_path / "model")
    hub.add("tinyorg/embedding", folder, licence="mit")
    tool.want("tinyorg/embedding")
    assert tool("lock").exit_code == 0
    (folder / "training_notes.json").write_text('{"by": "us"}')
    hub.add("tinyorg/embedding", folder, licence="mit")
    said = tool("outdated")
    assert "training_notes.json" in said.out + said.err, said.out + said.err
    assert "index" in said.out + said.err


@pytest.mark.slow
def test_the_first_change_can_be_made(tmp_path: Path) -> None:
    """The test fails before the rule is there, and passes with it; both patches fit the files of today."""
    copy = tmp_path / "clone"
    for name in ("modelcache", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cache_models.py", "pyproject.toml"):
        shutil.copy(PROJECT / name, copy / name)
    (tests, rule) = (text for language, text in BLOCKS if language == "diff")
    (wanted,) = re.findall(r"^\$ scripts/test (\S+)$", "".join(text for _, text in BLOCKS), re.MULTILINE)

    def failed() -> bool:
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", wanted]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        ran = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode in (0, 1), ran.stdout
        return "training_notes.json" in ran.stdout and ran.returncode == 1

    assert not failed()
    subprocess.run(["git", "apply", "-"], cwd=copy, input=tests, text=True, check=True)
    assert failed()
    subprocess.run(["git", "apply", "-"], cwd=copy, input=rule, text=True, check=True)
    assert not failed()
