"""Without torch or sentence-transformers: what lacks, and what to install, which never pulls CUDA by surprise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from modelcache.check.pip_packages import missing_library, pip_install
from tests.conftest import PROJECT, Tool

CPU = "`pip install torch --index-url https://download.pytorch.org/whl/cpu`"
LIBRARIES = "`pip install 'sentence-transformers>=6.2,<7'`"
SERVE = "`pip install '.[serve]'`"
NEEDED = ("huggingface_hub", "tqdm", "urllib3")
OF_SERVER = ("msgspec", "numpy", "starlette", "uvicorn")
STANDS_IN = {
    "torch": {"torch/__init__.py": "", "torch-2.13.0.dist-info/METADATA": "Name: torch\nVersion: 2.13.0\n"},
    "sentence_transformers": {"sentence_transformers/__init__.py": "import torch\n"},
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without packages."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def run(bare: Path, folder: Path, names: tuple[str, ...], *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that has these packages: the real ones, but for the libraries that load models."""
    packages = folder / "packages"
    packages.mkdir()
    for name in names:
        if name in STANDS_IN:
            for path, text in STANDS_IN[name].items():
                (packages / path).parent.mkdir(exist_ok=True)
                (packages / path).write_text(text)
        else:
            found = find_spec(name)
            assert found
            assert found.origin
            (packages / name).symlink_to(Path(found.origin).parent)
    path = os.pathsep.join([str(packages), str(PROJECT)])
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([bare, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def hint_of(ran: subprocess.CompletedProcess[str], lacking: str) -> str:
    """Return the hint of an error with exit 2 that names what lacks."""
    first, hint = ran.stderr.splitlines()
    assert ran.returncode == 2, ran.stderr
    assert first.startswith("error: ")
    assert f" {lacking}" in first
    assert hint.startswith("hint: ")
    return hint


def commands_in(hint: str) -> list[str]:
    """Return what a hint has between backticks."""
    return re.findall("`[^`]*`", hint)


@pytest.mark.parametrize(
    ("here", "lacking", "commands"),
    [
        ((), "sentence_transformers", [CPU, LIBRARIES]),
        (("torch",), "sentence_transformers", [LIBRARIES]),
        (("sentence_transformers",), "torch", [CPU]),
    ],
    ids=["neither", "torch alone", "sentence-transformers alone"],
)
def test_without_the_libraries_check_names_the_cpu_line_first(
    bare: Path, pair: Tool, here: tuple[str, ...], lacking: str, commands: list[str]
) -> None:
    """Where torch is, its line is left out; exit 2 and no traceback, as in the init image."""
    assert pair("sync").exit_code == 0
    ran = run(bare, pair.folder, (*NEEDED, *here), PROJECT / "cache_models.py", "check")
    assert commands_in(hint_of(ran, lacking)) == commands


@pytest.mark.parametrize(
    ("here", "lacking", "commands"),
    [
        ((), "msgspec", [CPU, SERVE]),
        (("torch", *OF_SERVER), "sentence_transformers", [SERVE]),
        (("sentence_transformers", *OF_SERVER), "torch", [CPU, SERVE]),
    ],
    ids=["nothing", "no sentence-transformers", "no torch"],
)
def test_without_the_libraries_the_server_names_the_cpu_line_first(
    bare: Path, tmp_path: Path, here: tuple[str, ...], lacking: str, commands: list[str]
) -> None:
    """Then its extra, which has all that it needs but torch."""
    ran = run(bare, tmp_path, here, "-m", "scripts.serve")
    assert commands_in(hint_of(ran, lacking)) == commands


def test_a_loader_without_libraries_names_the_cpu_line_first() -> None:
    """As `check` does, by the same words."""
    for torch, commands in ((False, [CPU, LIBRARIES]), (True, [LIBRARIES])):
        error = missing_library("sentence_transformers", "load_embedding_model", torch=torch)
        assert commands_in(error.hint) == commands
        assert "load_embedding_model" in error.message


@pytest.mark.parametrize(
    ("packages", "torch", "line"),
    [
        (["einops", "Pillow"], "", "pip install einops Pillow"),
        (["peft"], "2.13.0+cpu", "pip install peft"),
        (["peft"], "2.13.0", "pip install peft"),
        (["peft"], "", f"{CPU[1:-1]} && pip install peft"),
        (
            ["torchvision", "einops"],
            "2.13.0+cpu",
            "pip install torchvision --index-url https://download.pytorch.org/whl/cpu && pip install einops",
        ),
        (["torchvision"], "2.13.0", "pip install torchvision"),
        (
            ["timm"],
            "",
            "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu && pip install timm",
        ),
    ],
)
def test_no_pip_line_pulls_another_torch(packages: list[str], torch: str, line: str) -> None:
    """Neither a CUDA build beside a CPU build, nor torch itself where there is none."""
    assert pip_install(packages, torch) == line


@pytest.mark.parametrize("page", sorted((PROJECT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_each_page_installs_the_cpu_build_of_torch_first(page: Path) -> None:
    """A line that would pull torch follows the one that installs the CPU build."""
    lines = page.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.search(r"pip install .*(sentence-transformers|\[(serve|check)])", line):
            assert CPU[1:-1] in before, line


def test_the_pages_of_the_server_and_the_frameworks_have_install_lines() -> None:
    """Those that the test above is about."""
    counts = {name: (PROJECT / "docs" / name).read_text().count(CPU[1:-1]) for name in ("serve.md", "frameworks.md")}
    assert counts == {"serve.md": 1, "frameworks.md": 3}


@pytest.mark.parametrize("loader", ["load_embedding_model", "load_reranker"])
def test_the_loaders_of_a_program_name_the_cpu_line_first(loader: str, bare: Path, tmp_path: Path) -> None:
    """The error stays Python's own; the installation is a note at its end."""
    ran = run(bare, tmp_path, NEEDED, "-c", f"import cache_models; cache_models.{loader}('a/b')")
    *_, error, note = ran.stderr.splitlines()
    assert error.startswith("ModuleNotFoundError: ")
    assert commands_in(note) == [CPU, LIBRARIES]
