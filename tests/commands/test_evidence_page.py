"""docs/evidence.md: its commands are run word by word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from modelcache.check.golden import Golden, format_golden
from modelcache.check.probes import Answer, Probe
from modelcache.core.kinds import Kind
from modelcache.core.types import set_digest
from modelcache.pipeline.pins import read_lock
from tests.conftest import PROJECT, Tool, files_below
from tests.support import tiny
from tests.support.hub import StandInHub

PAGE = (PROJECT / "docs" / "evidence.md").read_text()
REPORT = re.findall(
    r"^```(\w+)\n(.*?)^```$", PAGE.partition("\n## Report\n")[2].partition("\n## ")[0], re.MULTILINE | re.DOTALL
)
READ, PROGRAMS, CI = (text for language, text in REPORT if language == "console")
(BILL,) = (text for language, text in REPORT if language == "json")
EMBEDDING, RERANKER = "acme/house-embedding", "acme/house-reranker"


@pytest.fixture
def house(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The root of the page: one model whose card names its licence and that is proven, and one of neither."""
    embedding = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add(EMBEDDING, {**embedding, "README.md": b"---\nlicense: apache-2.0\nbase_model: BAAI/bge-m3\n---\n"})
    hub.add(RERANKER, {**files_below(tiny.tiny_reranker(tmp_path / "reranker")), "README.md": b"# House reranker\n"})
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    assert tool("sync").exit_code == 0
    (digest,) = (set_digest(pin.files) for pin in read_lock(tool.folder / "models.lock") or () if pin.id == EMBEDDING)
    golden = Golden(EMBEDDING, Kind.EMBEDDING, (Answer(Probe("one"), array("f", [1])),), versions={"torch": "2.13.0"})
    (tool.folder / "models.golden.json").write_text(format_golden({digest: golden}))
    return tool


def shell(tool: Tool, session: str) -> str:
    """Run the commands of a session in one shell, and return what they print."""
    commands = "\n".join(re.findall(r"^\$ (.*)$", session, re.MULTILINE))
    programs = f'python() {{ "{sys.executable}" "$@"; }}\n'
    programs += f'cache-models() {{ "{sys.executable}" "{PROJECT / "cache_models.py"}" "$@"; }}\n'
    ran = subprocess.run(
        ["bash", "-euc", programs + commands], cwd=tool.folder, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return ran.stdout


def shown(session: str) -> str:
    """The output that a session shows."""
    return "".join(line for line in session.splitlines(keepends=True) if not line.startswith("$ "))


def test_the_page_shows_the_first_screen_of_a_report(house: Tool) -> None:
    """Up to the details of the first model."""
    assert shell(house, READ).startswith(f"{shown(READ)}\n## {EMBEDDING}\n")


def test_a_program_finds_the_models_without_a_licence(house: Tool) -> None:
    """In the JSON that the page names."""
    assert shell(house, PROGRAMS) == shown(PROGRAMS)


def test_a_ci_keeps_a_bill_of_materials(house: Tool) -> None:
    """Of the date of the commit, and with the component that the page shows."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run(["git", "init", "-q"], cwd=house.folder, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=house.folder, check=True)
    assert shell(house, CI) == ""
    text = (house.folder / "models.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["timestamp"].startswith("20")
    part = json.loads(BILL)
    (component,) = [one for one in document["components"] if one["name"] == part["name"]]
    assert {key: component[key] for key in part} == part
