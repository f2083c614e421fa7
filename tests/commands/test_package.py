"""The package: a wheel in an empty environment, `pip install .`, `uvx` and the script of a checkout are one program."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from modelcache.cli.completion import SHELLS
from tests.commands.test_docs import MINILM, blocks, plain
from tests.commands.test_docs import RERANKER as HOUSE_RERANKER
from tests.conftest import PROJECT, Ran, Tool
from tests.support import models, tiny
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

SOURCE: tuple[str, ...] = ("cache_models.py", "modelcache", "scripts/wheel_layout.py")
SOURCE += ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")
EMBEDDING, RERANKER = "tinyorg/embedding", "tinyorg/reranker"


def run(words: Sequence[object], folder: Path, env: Mapping[str, str] | None = None) -> Ran:
    """Run a program to its end, with no Python path of the tests; uv trusts the certificates that pip trusts here."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**environment, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def installed(folder: Path, *what: str | Path, by: str = "uv") -> Path:
    """Return the programs of a new environment in which this was installed; pip takes longer than uv."""
    programs = folder / "venv/bin"
    assert run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder).exit_code == 0
    tool: list[object] = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
    if by == "uv":
        tool = [sys.executable, "-m", "uv", "pip", "install", "--python", programs / "python"]
    ran = run([*tool, *what], folder)
    assert ran.exit_code == 0, ran.err
    return programs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone that make the package; a build may write into this copy."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCE:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(exist_ok=True)
        copy(PROJECT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, as a package index gets both."""
    folder = tmp_path_factory.mktemp("dist")
    ran = run([sys.executable, "-m", "uv", "build", "--out-dir", folder, source], source)
    assert ran.exit_code == 0, ran.err
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def from_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which only the wheel was installed."""
    return installed(tmp_path_factory.mktemp("wheel"), wheel)


@pytest.fixture(scope="module")
def ways(source: Path, from_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Every way to run the tool, by its name in the README."""
    uvx: list[object] = [sys.executable, "-m", "uv", "--quiet", "tool", "run", "--python", sys.executable]
    return {
        "pip install .": [installed(tmp_path_factory.mktemp("directory"), source, by="pip") / "cache-models"],
        "the wheel": [from_wheel / "cache-models"],
        "python -m cache_models": [from_wheel / "python", "-m", "cache_models"],
        "python -m modelcache": [from_wheel / "python", "-m", "modelcache"],
        "uvx --from .": [*uvx, "--from", source, "cache-models"],
        "python cache_models.py": [from_wheel / "python", source / "cache_models.py"],
    }


def test_every_way_of_running_it_prints_the_same(
    ways: dict[str, list[object]], tool: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """A session of a new user, word by word: `pip install .`, the wheel, `uvx --from .`, `python cache_models.py`."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    session = ["--version", "help", "help lock", "", "lock --check", "lock", "sync --quiet", "sync", "status", "path a"]
    session += ["verify --quick", f"path {EMBEDDING}", "synk", "lock --upgrad", "prune", "status --json"]
    said = {}
    for name, words in ways.items():
        folder = tool.folder / "work"
        folder.mkdir()
        said[name] = [(line, run([*words, *line.split()], folder)) for line in session[:4]]
        (folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n[[reranker]]\nid = "{RERANKER}"\n')
        said[name] += [(line, run([*words, *line.split()], folder)) for line in session[4:]]
        assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
            "cached_embedding_models",
            "cached_reranker_models",
            "hub",
            "models.lock",
            "models.toml",
        ]
        shutil.rmtree(folder)
    expected = said["python cache_models.py"]
    assert [ran.exit_code for _, ran in expected] == [0, 0, 0, 2, 2, 0, 0, 0, 0, 2, 0, 0, 2, 2, 0, 0]
    for name, outputs in said.items():
        assert dict(outputs) == dict(expected), name


def test_the_first_screen_of_the_readme_works_with_the_wheel(
    from_wheel: Path, tool: Tool, hub: StandInHub, tmp_path: Path
) -> None:
    """Typed in an empty directory, after nothing but the installation."""
    hub.add(MINILM, models.with_heavy_duplicates(models.minilm(tmp_path / "minilm"), real_size=True))
    hub.add(HOUSE_RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    session = blocks("console")[0]
    shown = ""
    for command in re.findall(r"^\$ (.*)$", session, re.MULTILINE):
        ran = run(["bash", "-ec", command], tool.folder, {"PATH": f"{from_wheel}:{os.environ['PATH']}"})
        shown += f"$ {command}\n{ran.out}{ran.err}"
    assert plain(shown, tool.folder) == plain(session, Path("/models"))


def test_the_wheel_needs_no_torch_and_holds_types_and_licence(wheel: Path, from_wheel: Path) -> None:
    """Four small packages and what they need; nothing of ours lies beside the two packages."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"cache_models", "modelcache"}
    assert {"cache_models/py.typed", "modelcache/py.typed"} < set(names)
    assert {f"modelcache/cli/completion.{shell}" for shell in SHELLS} < set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    uv = [sys.executable, "-m", "uv", "pip", "freeze", "--python", from_wheel / "python"]
    packages = run(uv, wheel.parent).out
    assert "cache-models @ " in packages
    assert not {"torch", "sentence-transformers", "numpy"} & {line.partition("==")[0] for line in packages.split()}


def test_a_type_checker_reads_the_types_of_the_installed_package(from_wheel: Path, tmp_path: Path) -> None:
    """A wrong argument is found, and the constants have types."""
    (tmp_path / "user.py").write_text(
        "import cache_models\n"
        "names: list[str] = cache_models.EMBEDDING_MODELS\n"
        "path = cache_models.model_path('owner/name') / 'config.json'\n"
        "cache_models.model_path(1)\n"
    )
    words = [sys.executable, "-m", "mypy", "--strict", "--python-executable", from_wheel / "python", "user.py"]
    ran = run(words, tmp_path)
    assert [line.partition(": error")[0] for line in ran.out.splitlines() if "error:" in line] == ["user.py:4"], ran.out


def test_equal_sources_make_equal_wheels(source: Path, wheel: Path, tmp_path: Path) -> None:
    """From the directory as from the source distribution, and at another time."""
    assert run([sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", tmp_path, source], source).exit_code == 0
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_an_editable_installation_follows_the_edits(source: Path, tmp_path: Path) -> None:
    """The module is not copied there."""
    programs = installed(tmp_path, "--no-deps", "-e", source)
    where = run([programs / "python", "-c", "import cache_models; print(cache_models.__file__)"], tmp_path).out
    assert Path(where.strip()) == source / "cache_models.py"


def test_an_older_python_is_told_in_one_line(tmp_path: Path) -> None:
    """Pip refuses it (`requires-python`); the script of a checkout says it without a traceback."""
    ast.parse((PROJECT / "cache_models.py").read_text(), feature_version=(3, 7))
    older = "import sys; sys.version_info = (3, 10, 1); import cache_models; sys.exit(cache_models.main(['--help']))"
    pretend = run([sys.executable, "-c", older], tmp_path, {"PYTHONPATH": str(PROJECT)})
    found = [Path(shutil.which(f"python3.{minor}") or "none") for minor in range(6, 11)]
    versions = {path.parents[1] / "versions" for path in found if path.parent.name == "shims"}
    real: list[object] = [path for path in found if path.exists() and path.parent.name != "shims"]
    real += [path for folder in versions for minor in range(6, 11) for path in folder.glob(f"3.{minor}.*/bin/python")]
    for ran in [pretend, *(run([python, PROJECT / "cache_models.py"], tmp_path) for python in real)]:
        assert (ran.exit_code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert "Python 3.11 or later" in ran.err


def test_the_project_says_what_it_is() -> None:
    """One version, a licence, and bounds on both sides of every dependency."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]
    assert project["license"] == "Apache-2.0"
    assert (PROJECT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    assert [one for one in wanted if not one.startswith("cache-models") and not (">=" in one and ",<" in one)] == []
