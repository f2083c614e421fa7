"""The shape of the package: its rooms import as pyproject.toml says, one of them prints, and few end the process.

Everything is read from the sources; nothing is executed but one import in a fresh process.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "modelcache"
SOURCES = {
    path.relative_to(PROJECT).as_posix(): ast.parse(path.read_text())
    for path in (PROJECT / "cache_models.py", *sorted(PACKAGE.rglob("*.py")))
}
# cache_models prints only when not even the command line can be imported.
PRINT = ("modelcache/cli/", "modelcache/fastpath.py", "cache_models.py")
EXIT = (
    "modelcache/__main__.py",
    "modelcache/cli/main.py",
    "modelcache/cli/parser.py",
    "modelcache/check/worker.py",
    "modelcache/check/confine/isolation.py",
    "cache_models.py",
)
LINT = str(Path(sys.executable).with_name("lint-imports"))


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for a chain of names, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the package and its contracts."""
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "modelcache", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def lint(project: Path) -> str:
    """Return what import-linter says of the contracts."""
    words = [LINT, "--no-cache", "--no-logo"]
    return subprocess.run(words, cwd=project, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("core/types", "from modelcache.system import files", "Every import runs down"),
        ("store/load", "from modelcache.transfer import download", "Every import runs down"),
        ("transfer/retry", "def f() -> None:\n    from modelcache.formats import toml", "transfer knows bytes"),
        ("formats/toml", "import os", "touch no file, socket, process or clock"),
        ("core/text", "import time", "touch no file, socket, process or clock"),
        ("system/files", "from modelcache import stamp", "know the stamp"),
        ("check/verdict", "from modelcache.formats import toml", "read our files"),
        ("check/verdict", "from modelcache.convert import pickle_vm", "converts nothing"),
        ("pipeline/sync", "from modelcache.sources import hub_responses", "are the doors of sources"),
        ("pipeline/push", "from modelcache.sources import registry_login", "are the doors of sources"),
        ("sources/registry_api", "from modelcache.sources import hub_responses", "knows nothing of the Hub"),
        ("sources/directory", "import subprocess", "the programs that keep logins"),
        ("pipeline/sync", "import urllib3", "the only door to the network"),
        ("cli/main", "from modelcache.pipeline import derive", "steps of pipeline"),
        ("cli/main", "from modelcache.check import worker", "are the doors of check"),
    ],
)
def test_an_import_that_runs_up_is_found(project: Path, module: str, planted: str, broken: str) -> None:
    """The contracts of pyproject.toml, which `scripts/test` checks, fail for one import too many."""
    with (project / f"modelcache/{module}.py").open("a") as file:
        file.write(f"\n\n{planted}\n")
    assert any(broken in line for line in lint(project).splitlines() if line.endswith("BROKEN"))


def test_the_package_holds_rooms_and_three_modules() -> None:
    """A new module goes into a room; beside them only `python -m modelcache` has a module."""
    modules = {"__init__.py", "__main__.py", "api.py", "fastpath.py", "stamp.py"}
    assert {path.name for path in PACKAGE.glob("*.py")} == modules


def test_a_room_says_its_rule_and_imports_nothing() -> None:
    """`check` and `convert` stay lazy, and a quiet start pays for no room; the package itself has the version."""
    rooms = {name: tree for name, tree in SOURCES.items() if name.endswith("/__init__.py")}
    assert len(rooms) == 16  # with the package itself, cli/commands, check/confine and check/weights
    lengths = {name: len(tree.body) for name, tree in rooms.items() if ast.get_docstring(tree)}
    assert lengths == {**dict.fromkeys(rooms, 1), "modelcache/__init__.py": 2}


def test_the_page_on_architecture_names_modules_that_exist() -> None:
    """A module that moves takes its name on the page with it."""
    page = (PROJECT / "docs/architecture.md").read_text()
    rooms = "|".join(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    named = set(re.findall(rf"`((?:{rooms})/[a-z_/]+)`", page))
    assert len(named) > 30
    assert {name for name in named if not ((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file())} == set()


def test_no_import_is_relative() -> None:
    """An import tells the whole name, so that it can be searched for."""
    nodes = [(name, node) for name, tree in SOURCES.items() for node in ast.walk(tree)]
    assert [f"{name}:{node.lineno}" for name, node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_command_line_prints(source: str) -> None:
    """Steps speak to a reporter; stdout and stderr belong to the command line and to the quiet start."""
    found = [
        f"{source}:{node.lineno}"
        for node in ast.walk(SOURCES[source])
        if (isinstance(node, ast.Call) and dotted(node.func) == "print")
        or (isinstance(node, ast.Attribute) and dotted(node) in ("sys.stdout", "sys.stderr"))
    ]
    assert source.startswith(PRINT) or not found


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_command_line_exits(source: str) -> None:
    """A step raises; cli and cache_models end the process, and a fork ends itself."""
    exits = {"sys.exit", "os._exit", "os.abort", "exit", "quit", "SystemExit"}
    found = [
        f"{source}:{node.lineno}"
        for node in ast.walk(SOURCES[source])
        if (isinstance(node, ast.Call) and dotted(node.func) in exits)
        or (isinstance(node, ast.Raise) and node.exc is not None and dotted(node.exc) == "SystemExit")
    ]
    assert source in EXIT or not found


def test_importing_cache_models_costs_nothing(tmp_path: Path) -> None:
    """An application that imports it gets no package from elsewhere, no argparse and no TOML."""
    program = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import cache_models
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(PROJECT)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    added = done.stdout.split()
    assert "cache_models" in added
    foreign = {name.partition(".")[0] for name in added} - sys.stdlib_module_names - {"cache_models", "modelcache"}
    assert foreign == set()
    assert not {"torch", "sentence_transformers", "huggingface_hub", "argparse", "tomllib"} & set(added)
