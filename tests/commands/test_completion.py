"""`completion`: a user turns it on with the line of its help, types in a real shell, and presses TAB."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelcache.cli.completion import SHELLS, script
from modelcache.cli.parser import COMMANDS
from tests.conftest import PROJECT, Tool
from tests.support import shells

MANIFEST = """
# id = "acme/old"
other = [{ id = "acme/one", revision = "x" }, { id = "acme/two" }]
[[embedding]]
id = "acme/first"
revision = "valid = 'acme/none'"
[[reranker]]
  id='house/second'  # id = "acme/none"
"""
LINES = {
    # commands
    "lo": ["lock"],
    "": sorted([*COMMANDS, "help"]),
    "--root lists lo": ["lock"],
    "--root=lists lo": ["lock"],
    "--root lock --root lists pru": ["prune"],
    "help pr": ["prune"],
    # options
    "lock --up": ["--upgrade"],
    "--root lists lock --up": ["--upgrade"],
    "status --lo": ["--lockfile", "--log-format"],
    "status house/second --js": ["--json"],
    "push --only acme/first --pl": ["--platform"],
    "--no-s": ["--no-stamp"],
    "prune --zz": [],
    # values
    "report --format=c": ["--format=cyclonedx"],
    "report --format ": ["cyclonedx", "json", "md"],
    "--format json report --format c": ["cyclonedx"],
    "lock --format ": ["json", "md", "text"],
    "completion ": sorted(SHELLS),
    "sync --jobs ": [],
    # paths
    "--manifest lists/own.t": ["lists/own.toml"],
    "--root li": ["lists/"],
    "--root=li": ["--root=lists/"],
    "export li": ["lists/"],
    "lock --diff mod": ["models.toml"],
    "sync --from oci:li": ["oci:lists/"],
    "sync --from li": ["lists/"],
    # ids
    "status ": ["acme/first", "acme/one", "acme/two", "house/second"],
    "path h": ["house/second"],
    "hou": ["house/second"],
    "-- lo": [],
    "-- ho": ["house/second"],
    "lock --upgrade acme/first h": ["house/second"],
    "export --only h": ["house/second"],
    "lock h": [],
    "add h": [],
    "--manifest lists/own.toml status ": ["acme/locked", "acme/own"],
    "status --manifest=lists/own.toml acme/o": ["acme/own"],
    "status --lockfile lists/own.lock acme/l": ["acme/locked"],
    "status --manifest nowhere.toml ": [],
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell."""
    shells.program(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def home(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user of that shell, who has followed the help; each call of `cache-models` is noted in `home/calls`."""
    home = tmp_path_factory.mktemp(shell)
    (home / "bin").mkdir()
    command = home / "bin/cache-models"
    command.write_text(f'#!/bin/sh\necho "$@" >> {home}/calls\nexec {sys.executable} {PROJECT}/cache_models.py "$@"\n')
    command.chmod(0o755)
    shells.prepare(shell, home)
    shown = subprocess.check_output([command, "completion", "--help"], text=True)
    (line,) = re.findall(rf"^{shell} +(.*)$", shown, re.MULTILINE)
    assert all(len(one) <= 80 for one in shown.splitlines())
    subprocess.run(["sh", "-c", line], env=shells.environment(shell, home), check=True)
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a manifest, and another one in a directory below."""
    (tmp_path / "models.toml").write_text(MANIFEST)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/own.toml").write_text('[[embedding]]\nid = "acme/own"\n')
    (tmp_path / "lists/own.lock").write_text('[[model]]\nid = "acme/locked"\n')
    return tmp_path


def offered(shell: str, home: Path, folder: Path, *typed: str, **variables: str) -> dict[str, list[str]]:
    """What is offered at the end of each line."""
    found = shells.press_tab(shell, home, [f"cache-models {line}" for line in typed], folder, **variables)
    return dict(zip(typed, found, strict=True))


def test_tab_offers_what_fits(shell: str, home: Path, folder: Path) -> None:
    """Commands, options, choices, paths and ids; Python runs as the shell starts, and at no TAB."""
    (home / "calls").unlink(missing_ok=True)
    assert offered(shell, home, folder, *LINES) == LINES
    assert (home / "calls").read_text() == f"completion {shell}\n"


def test_the_options_of_a_command_are_those_of_its_help(shell: str, home: Path, folder: Path) -> None:
    """All of them, and no other."""
    found = offered(shell, home, folder, *(f"{command} --" for command in COMMANDS))
    for command in COMMANDS:
        text = subprocess.check_output([sys.executable, PROJECT / "cache_models.py", command, "--help"], text=True)
        options = re.findall(r"^ +(?:-h, )?(--[a-z-]+)", text.partition("\n\n")[2], re.MULTILINE)
        assert found[f"{command} --"] == sorted([*options, "--version"])


def test_a_hostile_manifest_runs_nothing(shell: str, home: Path, folder: Path) -> None:
    """Somebody may press TAB in a directory that was cloned a moment ago."""
    ids = ["$(touch ran)", "`touch ran`", "acme/$(touch ran)", "a;touch ran", "acme/(touch ran)", "*", "acme/good"]
    (folder / "models.toml").write_text("".join(f'[[embedding]]\nid = "{one}"\n' for one in ids))
    found = offered(shell, home, folder, "status ", "status acme/", "-- ", "export --only ")
    assert set(map(tuple, found.values())) == {("acme/good",)}
    assert not (folder / "ran").exists()


def test_places_that_variables_name(shell: str, home: Path, folder: Path) -> None:
    """As for the command itself; a path below the home directory, too."""
    (home / "far.toml").write_text('[[embedding]]\nid = "acme/far"\n')
    (home / "other.lock").write_text('[[model]]\nid = "acme/other"\n')
    manifest, lockfile = f"{home}/far.toml", f"{home}/other.lock"
    assert offered(shell, home, folder, "path ", CACHE_MODELS_MANIFEST=manifest) == {"path ": ["acme/far"]}
    found = offered(shell, home, folder, "path ", CACHE_MODELS_MANIFEST=manifest, CACHE_MODELS_LOCKFILE=lockfile)
    assert found == {"path ": ["acme/far", "acme/other"]}
    line = "--manifest ~/far.toml path "
    assert offered(shell, home, folder, line) == {line: ["acme/far"]}


def test_a_path_with_a_space_is_quoted(shell: str, home: Path, folder: Path) -> None:
    """`complete -C` of fish prints it as it is, and fish quotes it as it inserts it."""
    (folder / "own list.toml").touch()
    (folder / "own models").mkdir()
    space = " " if shell == "fish" else r"\ "
    files, directories = [f"own{space}list.toml"], [f"own{space}models/"]
    line = r"--manifest own\ l"
    assert offered(shell, home, folder, line, "--root o") == {line: files, "--root o": directories}


def test_the_script_is_sound(shell: str, home: Path, tool: Tool) -> None:
    """Printed as it was made, and read by its shell without a complaint."""
    printed = tool("completion", shell)
    assert (printed.exit_code, printed.out, printed.err) == (0, script(shell) + "\n", "")
    checked = subprocess.run(
        [shells.program(shell), "-n"],
        input=printed.out,
        env=shells.environment(shell, home),
        check=True,
        capture_output=True,
        text=True,
    )
    assert (checked.stdout, checked.stderr) == ("", "")


def test_zsh_loads_it_from_a_directory_of_functions(tmp_path: Path, folder: Path) -> None:
    """As packages of distributions install it."""
    shells.prepare("zsh", tmp_path)
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/_cache-models").write_text(script("zsh"))
    (tmp_path / ".zshrc").write_text("fpath+=(~/functions)\nautoload -Uz compinit && compinit -u\n")
    assert offered("zsh", tmp_path, folder, "lo", "path h") == {"lo": ["lock"], "path h": ["house/second"]}


@pytest.mark.parametrize("word", ["tcsh", "", "BASH"])
def test_another_shell_is_refused_with_the_names(tool: Tool, word: str) -> None:
    """Exit code 2."""
    ran = tool("completion", word)
    assert (ran.exit_code, ran.out) == (2, "")
    assert not [name for name in SHELLS if name not in ran.err]


def test_a_start_of_a_shell_prints_nothing(tool: Tool) -> None:
    """Neither that the manifest of a checkout is taken, nor that of a variable: it reads none."""
    for variables in ({}, {"CACHE_MODELS_MANIFEST": "x.toml"}):
        ran = tool.run("completion", "bash", env=variables)
        assert (ran.exit_code, ran.err) == (0, "")
