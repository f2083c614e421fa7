"""What README and the pages of reference show is what happens: commands are run, tables compared with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from modelcache.cli.parser import COMMANDS
from modelcache.core import errors
from modelcache.core.kinds import Kind
from modelcache.core.policy import Policy
from modelcache.formats.manifest import parse_manifest, parse_policy
from tests.conftest import PROJECT, Tool
from tests.support import models, preloaded, tiny
from tests.support.faults.table import ROWS, lines
from tests.support.hub import StandInHub

README = (PROJECT / "README.md").read_text()
MINILM, RERANKER = "sentence-transformers/all-MiniLM-L6-v2", "acme/house-reranker"
PAGES = ["README.md", "SECURITY.md", *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md")))]


def page(name: str) -> str:
    """The text of a page in docs."""
    return (PROJECT / "docs" / name).read_text()


def all_blocks(text: str) -> list[tuple[str, str]]:
    """The code blocks of a text, each with its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language, of the README or of another text."""
    return [block for name, block in all_blocks(text) if name == language]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (README, {"console": 4, "python": 1, "sh": 1, "dockerfile": 1, "yaml": 2, "toml": 1, "text": 1}),
        (page("models-toml.md"), {"toml": 3, "console": 1}),
        (page("python.md"), {"python": 1}),
        (page("check.md"), {"console": 1, "text": 1}),
        (page("reliability.md"), {}),
    ],
    ids=["README", "models-toml", "python", "check", "reliability"],
)
def test_every_block_is_known_to_a_test(text: str, counts: dict[str, int]) -> None:
    """No block is shown that no test runs: also test_package, test_movement and tests/containers read some."""
    assert Counter(language for language, _ in all_blocks(text)) == counts


def test_the_first_screen_is_one() -> None:
    """A reader sees what it is, a session and a program before any heading; every heading is in the contents."""
    assert len(README.partition("\n## ")[0].splitlines()) <= 40
    contents = README.partition("\n## Contents\n")[2].partition("\n## ")[0]
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)[1:]
    assert re.findall(r"\(#(.*?)\)", contents) == [anchor(heading) for heading in headings]


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_three_ways_in_are_those_of_their_pages() -> None:
    """What tests/containers runs of these pages stands in the README, too."""
    compose, deployment = blocks("yaml")
    assert blocks("dockerfile") == blocks("dockerfile", page("own-image.md"))[:1]
    assert compose == blocks("yaml", page("compose.md"))[0]
    assert yaml.safe_load(deployment) == yaml.safe_load(blocks("yaml", page("kubernetes.md"))[0])
    assert blocks("console")[3] == blocks("console", page("kubernetes.md"))[0]


@pytest.mark.slow
def test_the_commands_print_what_is_shown(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The README's session, run word by word against the real model: equal but for places and seconds."""
    hub.add(MINILM, models.with_heavy_duplicates(models.minilm(tmp_path / "minilm"), real_size=True))
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    session = blocks("console")[0]
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        shown += f"$ {command}\n{shell(tool, command)}"
    assert plain(shown, tool.folder) == plain(session, Path("/models"))
    assert (tool.folder / "models.toml").read_text() == blocks("toml")[0]

    (session,), shown = blocks("console", page("check.md")), ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        shown += f"$ {command}\n{shell(tool, command)}"
    assert plain(shown, tool.folder) == plain(session, Path("/models"))

    (session,) = blocks("console", page("models-toml.md"))
    digest = shell(tool, "\n".join(re.findall(r"^\$ (.*)$", session, re.MULTILINE)))
    assert f'set_digest = "{digest.split()[0]}"' in (tool.folder / "models.lock").read_text()

    hub.close()
    offline = {"HF_HUB_CACHE": str(tool.folder / "hub"), "HF_HUB_OFFLINE": "1"}
    for code, environment in (
        (blocks("python")[0], offline),
        (blocks("python", page("python.md"))[0], {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}),
    ):
        uses = "assert model.encode('x').shape == (384,) and reranker.predict([('a', 'b')]).size == 1\n"
        ran = preloaded.run(
            [sys.executable, "-c", code + uses],
            cwd=tool.folder,
            env={**os.environ, **environment},
            check=False,
            capture_output=True,
        )
        assert ran.returncode == 0, ran.stderr.decode()


def test_the_commands_of_a_clone_are_there() -> None:
    """`scripts/demo` is run by a test of its own; `scripts/test` is running. test_package runs `pip install .`."""
    assert blocks("console")[1].startswith("$ pip install . ")
    commands = re.findall(r"^\$ (\S+)", blocks("console")[2], re.MULTILINE)
    assert commands == ["scripts/demo", "scripts/test"]
    for command in commands:
        assert os.access(PROJECT / command, os.X_OK), command


def test_the_manifest_shown_is_a_manifest() -> None:
    """Every key of the example is one that is read."""
    tables = [*blocks("toml"), *blocks("toml", page("models-toml.md"))]
    first, shown, more, rules = (parse_manifest(block.encode(), Path("README")) for block in tables)
    assert [model.id for model in first] == [MINILM, RERANKER]
    assert [model.id for model in shown] == [MINILM, "acme/house-model", "acme/bert-of-2019", "acme/own-architecture"]
    assert [(model.kind, bool(model.include)) for model in more] == [(Kind.EMBEDDING, True), (Kind.OTHER, False)]
    assert rules == ()
    strict = Policy(("apache-2.0", "mit"), remote_code=False, pickle=False)
    assert parse_policy(tables[3].encode(), Path("README")) == strict


def test_the_table_of_kinds_is_that_of_the_code() -> None:
    """Table, class and directory of each kind."""
    shown = re.findall(r"^\| `\[\[(\w+)\]\]` \| (\S+).*? \| `(\w+)` \|", page("models-toml.md"), re.MULTILINE)
    assert shown == [
        (kind.value, f"`{kind.spec.model_class}`" if kind.spec.loads else "nothing", kind.spec.collection)
        for kind in Kind
    ]


def test_git_sees_the_two_files_to_commit_and_no_weights(pair: Tool) -> None:
    """With the lines that the README gives, `git add .` after a `sync` takes nothing else into a repository."""
    sentence = re.search(r"Where the root is in a git repository, add (.*?) to its", README, re.DOTALL)
    assert sentence
    (pair.folder / ".gitignore").write_text("\n".join(re.findall("`([^`]+)`", sentence[1])))
    subprocess.run(["git", "init", "-q", str(pair.folder)], check=True)
    assert pair("sync").exit_code == 0
    listed = ["git", "-C", str(pair.folder), "ls-files", "--others", "--exclude-standard", "*model*"]
    assert subprocess.check_output(listed, text=True).split() == ["models.lock", "models.toml"]


def test_the_tables_hold_every_command_and_every_exit_code() -> None:
    """Code and README cannot part ways."""
    for command in COMMANDS:
        assert re.search(rf"^\| `{command}\b", README, re.MULTILINE), command
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)
             and hasattr(cls, "exit_code")}  # fmt: skip
    assert set(errors.exit_codes()) == codes
    for code in codes | {0}:
        assert re.search(rf"^\| {code} \|", README, re.MULTILINE), code


def test_the_table_of_messages_quotes_the_code() -> None:
    """Each quoted part, between the values that are filled in, stands in a message of the sources."""
    sources = "\n".join(path.read_text() for path in (PROJECT / "modelcache").rglob("*.py"))
    messages = re.sub(r'"\s*\n\s*f?"', "", sources)  # a long message is several literals
    table = README.partition("## When it fails")[2].partition("\n## ")[0]
    quoted = [
        part.strip()
        for cell in re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", cell)
        for part in message.split("…")
    ]
    assert len(quoted) >= 10
    assert [part for part in quoted if part not in messages] == []


def test_the_table_of_faults_is_one_that_the_suite_prints() -> None:
    """Its rows are those of the suite, in that order, and what is shown was survived and sums up."""
    shown = page("reliability.md")
    rows = re.findall(r"^\| (.*?) \| ([\d,]+) \| ([\d,]+) \| (?:([\d.]+) s)? \|$", shown, re.MULTILINE)
    noted = [(name, int(tries.replace(",", "")), float(worst or 0)) for name, tries, _, worst in rows[:-1]]
    assert [name for name, _, _ in noted] == [row for row in ROWS if row in {name for name, _, _ in noted}]
    table = list(lines(noted))
    assert "\n".join(table) in shown
    some = re.findall(r"^\|.*\|$", README.partition("## Reliability")[2].partition("\n## ")[0], re.MULTILINE)
    assert [row for row in table if row in some] == some
    assert some[-1] == table[-1]
    assert f"Some rows of {len(noted)}," in README


def shell(tool: Tool, command: str) -> str:
    """Run a line as shown; `cache-models` runs with this interpreter."""
    bin_folder = tool.folder.parent / "bin"
    bin_folder.mkdir(exist_ok=True)
    command_file = bin_folder / "cache-models"
    command_file.write_text(f'#!/bin/sh\nexec {sys.executable} {PROJECT}/cache_models.py "$@"\n')
    command_file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-ec", command], cwd=tool.folder, env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout + ran.stderr


def plain(text: str, root: Path) -> str:
    """Take away what differs from run to run."""
    text = re.sub(r" +\d+\.\d s +\d+ MB  ", " N s N MB  ", text)
    text = re.sub(r"^  cut .*$", "  cut", text, flags=re.MULTILINE)
    return re.sub(r" +\d+\.\d s$", " N s", text, flags=re.MULTILINE).replace(str(root), "ROOT")
