"""The hook for pre-commit: a commit with a lock that does not fit is refused, and nothing else is."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelcache.cli.parser import COMMANDS
from tests.conftest import EMBEDDING, PROJECT, Ran, Tool

ID = "cache-models-lock"


def hook() -> dict[str, Any]:
    """The one hook."""
    (only,) = yaml.safe_load((PROJECT / ".pre-commit-hooks.yaml").read_text())
    assert isinstance(only, dict)
    return only


def repository(tool: Tool) -> Path:
    """A repository with both files, all of it to be committed."""
    for words in (["init", "--quiet"], ["add", "models.toml", "models.lock"]):
        subprocess.run(["git", *words], cwd=tool.folder, check=True)
    return tool.folder


def pre_commit(folder: Path, *words: str | Path, home: Path) -> Ran:
    """Run it with an environment of its own, in which nothing of the tests is on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(
        [sys.executable, "-m", "pre_commit", *words],
        cwd=folder,
        env=environment | {"PRE_COMMIT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def test_the_hook_is_valid(tmp_path: Path) -> None:
    """By pre-commit itself; it starts for the two files at the root, and its command is one of the tool."""
    ran = pre_commit(tmp_path, "validate-manifest", PROJECT / ".pre-commit-hooks.yaml", home=tmp_path)
    assert ran.exit_code == 0, ran.out
    assert hook()["id"] == ID
    program, command, option = shlex.split(hook()["entry"])
    assert (program, command in COMMANDS, option) == ("cache-models", True, "--check")


def test_its_command_refuses_a_stale_lock(pair: Tool) -> None:
    """0 for a lock that fits and 2 for one that does not, without the Hub; nothing is written."""
    _, *words = shlex.split(hook()["entry"])
    assert pair("lock").exit_code == 0
    before = sorted(path.name for path in pair.folder.iterdir())
    assert pair(*words).exit_code == 0
    pair.want(EMBEDDING)
    assert pair(*words).exit_code == 2
    assert sorted(path.name for path in pair.folder.iterdir()) == before


@pytest.mark.slow
def test_pre_commit_runs_it(pair: Tool, tmp_path: Path) -> None:
    """From a clone, in an environment of its own: it looks at its two files alone, and says what does not fit."""
    clone = tmp_path / "clone"
    clone.mkdir()
    source = ("cache_models.py", "modelcache", "scripts", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
    for name in (*source, ".pre-commit-hooks.yaml"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, clone / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *words], cwd=clone, check=True)

    assert pair("lock").exit_code == 0
    folder = repository(pair)
    try_repo: list[str | Path] = ["try-repo", clone, ID, "--all-files"]
    ran = pre_commit(folder, *try_repo, home=tmp_path / "home")
    assert (ran.exit_code, "Passed" in ran.out) == (0, True), ran.out + ran.err
    pair.want(EMBEDDING)
    ran = pre_commit(folder, *try_repo, home=tmp_path / "home")
    assert ran.exit_code == 1, ran.out
    assert "exit code: 2" in ran.out
    assert "models.lock" in ran.out.partition("exit code: 2")[2]
    (folder / "notes.txt").write_text("")
    ran = pre_commit(folder, "try-repo", clone, ID, "--files", "notes.txt", home=tmp_path / "home")
    assert (ran.exit_code, "no files to check" in ran.out) == (0, True), ran.out
