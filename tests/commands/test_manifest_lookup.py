"""Which models.toml is taken: never, without a word, the one of the tool in somebody else's directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, PROJECT, Ran, Tool
from tests.support import tiny
from tests.support.hub import StandInHub


@pytest.fixture
def checkout(tmp_path: Path, hub: StandInHub) -> Path:
    """A clone of the tool whose own manifest lists one model of the Hub."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "made"))
    folder = tmp_path / "checkout"
    shutil.copytree(PROJECT / "modelcache", folder / "modelcache", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "cache_models.py", folder)
    (folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n')
    return folder


def script(checkout: Path, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run `python cache_models.py` of a checkout in another directory."""
    command = [sys.executable, str(checkout / "cache_models.py"), *words]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def names(folder: Path) -> set[str]:
    """Return what a directory holds."""
    return {path.name for path in folder.iterdir() if path.name != "__pycache__"}


def test_an_empty_directory_is_told_that_it_has_no_manifest(tool: Tool, hub: StandInHub) -> None:
    """The command fetches nothing, writes nothing, and names the directory and the way out."""
    for words in ((), ("lock",), ("sync", "--dry-run")):
        ran = tool(*words)
        assert (ran.exit_code, ran.out) == (2, "")
        assert str(tool.folder / "models.toml") in ran.err
        assert "[[embedding]]" in ran.err
        assert "--manifest" in ran.err
    assert names(tool.folder) == set()
    assert hub.requests == []


def test_the_script_of_a_checkout_takes_its_own_manifest_and_says_so(checkout: Path, tool: Tool) -> None:
    """In each output, also that of a start with nothing to do; in JSON as an event with the path."""
    before = names(checkout)
    for _ in range(2):
        ran = script(checkout, tool.folder)
        assert ran.exit_code == 0, ran.err
        assert str(checkout / "models.toml") in ran.err.splitlines()[0]
    assert "unchanged" in ran.err
    events = [json.loads(line) for line in script(checkout, tool.folder, "--log-format=json").err.splitlines()]
    assert [event["path"] for event in events if event["event"] == "manifest"] == [str(checkout / "models.toml")]
    assert script(checkout, tool.folder, "--quiet").err == ""
    assert (names(checkout), names(tool.folder)) == (before, {"cached_embedding_models", "hub", ".cache-models.stamp"})


def test_no_lock_is_written_into_the_folder_of_the_tool(checkout: Path, tool: Tool) -> None:
    """`lock` refuses, `sync` says that it writes none; with --lockfile, or in that folder, it is as everywhere."""
    refused = script(checkout, tool.folder, "lock")
    assert refused.exit_code == 2
    assert "--lockfile" in refused.err
    assert "--lockfile" in script(checkout, tool.folder, "sync").err
    assert not (checkout / "models.lock").exists()
    assert script(checkout, tool.folder, "lock", "--lockfile", "here.lock").exit_code == 0
    assert EMBEDDING in (tool.folder / "here.lock").read_text()
    assert script(checkout, checkout, "lock").exit_code == 0
    assert script(checkout, tool.folder, "verify").exit_code == 0  # a lock that its owner has put there is followed
    assert script(checkout, tool.folder, "--locked", "--dry-run").exit_code == 0


def test_a_manifest_of_the_current_directory_comes_first(checkout: Path, tool: Tool) -> None:
    """And nothing is said about it."""
    (tool.folder / "models.toml").write_text("")
    ran = script(checkout, tool.folder, "lock")
    assert ran.exit_code == 0
    assert str(checkout) not in ran.err
    assert names(tool.folder) == {"models.toml", "models.lock"}


def test_a_manifest_named_by_a_variable_is_told(checkout: Path, tool: Tool) -> None:
    """It comes before models.toml of the current directory, for commands and for programs; its lock lies beside it."""
    elsewhere = tool.folder / "conf"
    elsewhere.mkdir()
    shutil.copy(checkout / "models.toml", elsewhere / "m.toml")
    (tool.folder / "models.toml").write_text("")
    env = {"CACHE_MODELS_MANIFEST": "conf/m.toml"}
    ran = script(checkout, tool.folder, "lock", env=env)
    assert (ran.exit_code, ran.err.count("conf/m.toml")) == (0, 1)
    assert names(elsewhere) == {"m.toml", "m.lock"}
    for _ in range(2):
        ran = script(checkout, tool.folder, env=env)
        assert (ran.exit_code, "CACHE_MODELS_MANIFEST" in ran.err.splitlines()[0]) == (0, True)
        assert str(elsewhere / "m.toml") in ran.err.splitlines()[0]
    dotted = script(checkout, tool.folder, env={"CACHE_MODELS_MANIFEST": "conf/../conf/m.toml"})
    assert dotted.err == ran.err
    listed = [sys.executable, "-c", "import cache_models; print(cache_models.EMBEDDING_MODELS)"]
    paths = {**os.environ, "PYTHONPATH": str(checkout)}
    assert subprocess.check_output(listed, cwd=tool.folder, env={**paths, **env}, text=True) == f"['{EMBEDDING}']\n"
    assert subprocess.check_output(listed, cwd=tool.folder, env=paths, text=True) == "[]\n"


def test_an_unknown_variable_is_warned_of_and_the_start_stays_quiet(checkout: Path, tool: Tool) -> None:
    """Both ways of a start name it once; no module beyond those of a quiet start but difflib is imported."""
    shutil.copy(checkout / "models.toml", tool.folder)
    env = {
        "CACHE_MODELS_JOB": "3",
        "CACHE_MODELS_SERVICE_HOST": "10.0.0.1",
        "CACHE_MODELS_PORT_80_TCP": "tcp://10.0.0.1:80",
    }
    for words in ((), (), ("status",), ("--jobs=2",)):
        ran = script(checkout, tool.folder, *words, env=env)
        assert ran.exit_code == 0
        assert [line.split()[0] for line in ran.err.splitlines() if "CACHE_MODELS_" in line] == ["warning"]
        assert "did you mean 'CACHE_MODELS_JOBS'?" in ran.err
    assert script(checkout, tool.folder, "--quiet", env=env).err == ""
    code = "import sys, cache_models; cache_models.main([]); print('argparse' in sys.modules)"
    paths = {**os.environ, **env, "PYTHONPATH": str(checkout)}
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tool.folder, env=paths, text=True) == "False\n"
