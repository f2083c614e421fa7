"""SECURITY.md claims nothing that no test tries to break."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache

import pytest
from markdown_it import MarkdownIt

from tests.conftest import PROJECT

PAGE = (PROJECT / "SECURITY.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+/test_\w+\.py)::(test_\w+)`")
ADVERSARIES = {
    "A hostile Hub",
    "A hostile mirror, content network or proxy",
    "A hostile registry",
    "A hostile repository",
    "Another user of the shared volume",
    "Another user of the machine",
    "Somebody who edits the lock or a receipt",
}


def tables() -> list[list[list[str]]]:
    """The rows of each table, header first, as the text of their cells."""
    found: list[list[list[str]]] = []
    within = False
    for token in MarkdownIt().enable("table").parse(PAGE):
        if token.type in ("table_open", "table_close"):
            within = token.type == "table_open"
            found += [[]] if within else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and within:
            found[-1][-1].append(token.content)
    return found


@cache
def functions_of(file: str) -> set[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((PROJECT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_line_of_each_table_names_a_test() -> None:
    """A claim that no test tries to break belongs to the risks."""
    assert len(tables()) == 9
    for header, *rows in tables():
        assert header[-1] == "test", header
        assert rows
        for row in rows:
            assert len(row) == len(header), row
            assert TEST.findall(row[-1]), row
            assert re.sub(rf"{TEST.pattern}|<br>", "", row[-1]).strip() == "", row


def test_each_adversary_has_both_lists() -> None:
    """What it can do is as much a part of the model as what it cannot."""
    sections = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
    assert set(sections) == ADVERSARIES
    for name, section in sections.items():
        assert section.count("| it cannot | because | test |") == 1, name
        assert section.count("\nIt can\n\n- ") == 1, name


def test_each_named_test_is_there() -> None:
    """A test that is renamed takes its name on the page with it."""
    named = TEST.findall(PAGE)
    assert len(named) > 70
    assert PAGE.count("::test_") == len(named)
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []


@pytest.mark.slow
def test_each_named_test_is_collected() -> None:
    """Pytest finds it under that name, so a run of everything includes it."""
    named = sorted({f"{file}::{name}" for file, name in TEST.findall(PAGE)})
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named]
    ran = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:]
    collected = {line.partition("[")[0] for line in ran.stdout.splitlines()}
    assert set(named) <= collected
