"""`check` where the kernel confines nothing, or only half of it: a model's code is refused, or watched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.support import models, preloaded, tiny
from tests.support.sandboxed import without

pytestmark = pytest.mark.slow

ALTER = """
import os as _os
_path = {path!r}
with open(_path, "r+b") as _file:
    _first = _file.read(1)
    _file.seek(0)
    _file.write(bytes([_first[0] ^ 1]))
"""
STAY = """
import os as _os, time as _time
if not _os.fork():
    _os.setsid()
    if not _os.fork():
        _pid = str(_os.getpid())
        open({path!r}, "w").write(_pid)
        _time.sleep(600)
    _os._exit(0)
while not _os.path.exists({path!r}): _time.sleep(0.01)
"""


KILL_THE_EXAMINER = """
_parent = _os.getppid()
_os.kill(int(open(f"/proc/{_parent}/stat").read().rpartition(")")[2].split()[1]), 9)
_time.sleep(600)
"""
SPEAK_ODDLY = """
import os as _os
_os.write(3, bytes([0xE2, 0x82, 0xAC, 10]))
"""


@dataclass(frozen=True)
class Root:
    """A root with one model that has code and one plain one, after it by name."""

    folder: Path

    def __call__(self, *words: str, lacking: str = "", **env: str) -> tuple[int, list[dict[str, Any]]]:
        """Run the tool where some of the kernel's means are lacking; return the exit code and what was told."""
        tool = [str(PROJECT / "cache_models.py"), *words, "--log-format=json"]
        ran = preloaded.run(
            [sys.executable, *without(lacking, start_anew=False), *tool],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **env},
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode, [json.loads(line) for line in ran.stderr.splitlines()]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models, made once."""
    folder = tmp_path_factory.mktemp("sources")
    models.remote_code_embedding(folder / "code")
    tiny.tiny_embedding(folder / "plain")
    return folder


@pytest.fixture
def root(sources: Path, tmp_path: Path) -> Root:
    """A root of its own for each test."""
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    (tmp_path / "models.toml").write_text(
        '[[embedding]]\nid = "a/code"\npath = "code"\ntrust_remote_code = true\n\n'
        '[[embedding]]\nid = "b/plain"\npath = "plain"\n'
    )
    return Root(tmp_path)


def add_code(root: Root, text: str) -> None:
    """Let the model with code do something when it is imported."""
    code = root.folder / "code/modeling_tiny.py"
    code.write_text(code.read_text() + text)


def events(told: list[dict[str, Any]]) -> dict[str, str]:
    """Return what became of each model."""
    return {line["model"]: line["event"] for line in told if "peak" in line}


@pytest.mark.parametrize(
    ("lacking", "held", "why"),
    [
        ("namespaces Landlock seccomp", ["no privileges"], "no namespaces, no seccomp and no Landlock"),
        ("namespaces Landlock", ["no privileges", "seccomp"], "no namespaces, no Landlock"),
        ("namespaces seccomp", ["no privileges", "Landlock"], "no namespaces, no seccomp"),
    ],
)
def test_code_is_refused_where_nothing_confines_it(root: Root, lacking: str, held: list[str], why: str) -> None:
    """Exit 5, with the reason and the way out; a model without code is checked all the same."""
    assert root("sync")[0] == 0
    code, told = root("check", lacking=lacking)
    assert code == 5
    assert events(told) == {"b/plain": "unproven"}
    (cut,) = [line for line in told if line["event"] == "cut"]
    assert cut["held"] == [*held, "a subreaper", "a clean environment"]
    assert "(no namespaces: it cannot be confined: [Errno 1] unshare: Operation not permitted)" in cut["text"]
    assert f"a/code has code of its own, which cannot be confined here: {why}" in told[-1]["text"]
    assert "--unconfined" in told[-1]["text"]


def test_code_runs_where_half_is_lacking_and_half_is_enough(root: Root) -> None:
    """Seccomp and Landlock together keep it from the network and from files; namespaces do so alone."""
    assert root("sync")[0] == 0
    for lacking in ("namespaces", "Landlock", "seccomp", ""):
        code, told = root("check", lacking=lacking)
        assert (code, events(told)) == (0, {"a/code": "unproven", "b/plain": "unproven"}), (lacking, told)
        (cut,) = [line for line in told if line["event"] == "cut"]
        assert not set(lacking.split()) & set(cut["held"])
        assert ("no namespaces" in cut["text"]) == (lacking == "namespaces")


def test_unconfined_code_runs_when_it_is_allowed(root: Root) -> None:
    """What it leaves is ended, and the first line says that the disk is open to it."""
    alive = root.folder / "alive"
    add_code(root, STAY.format(path=str(alive)))
    assert root("sync")[0] == 0
    code, told = root("check", "--unconfined", lacking="namespaces Landlock seccomp")
    assert (code, events(told)) == (0, {"a/code": "unproven", "b/plain": "unproven"})
    (cut,) = [line for line in told if line["event"] == "cut"]
    assert cut["disk"] == "not restricted"
    assert not Path(f"/proc/{alive.read_text()}").exists()


def test_a_model_that_another_ones_code_has_altered_does_not_pass(root: Root) -> None:
    """Its bytes are compared again when all were loaded: exit 1, and its numbers are not recorded."""
    victim = root.folder / "cached_embedding_models/b__plain/README.md"
    add_code(root, ALTER.format(path=str(victim)))
    assert root("sync")[0] == 0
    code, told = root("check", "--unconfined", "--record", lacking="namespaces Landlock seccomp")
    assert code == 1
    assert "b/plain" in told[-1]["text"]
    assert "changed  README.md" in told[-1]["text"]
    assert told[-2]["text"] == f"2 models in {root.folder}: 1 recorded in models.golden.json, 1 failed."
    recorded = json.loads((root.folder / "models.golden.json").read_text())["models"].values()
    assert [one["id"] for one in recorded] == ["a/code"]


def test_a_killed_examiner_leaves_nothing_and_hides_nothing(root: Root) -> None:
    """Memory that runs out ends it as well: no process stays, and a model that was altered before it is told."""
    (root.folder / "models.toml").write_text((root.folder / "models.toml").read_text().replace("a/code", "c/code"))
    alive, victim = root.folder / "alive", root.folder / "cached_embedding_models/b__plain/README.md"
    add_code(root, ALTER.format(path=str(victim)) + STAY.format(path=str(alive)) + KILL_THE_EXAMINER)
    assert root("sync")[0] == 0
    code, told = root("check", "--unconfined", "--record", lacking="namespaces Landlock seccomp")
    text = told[-1]["text"]
    assert events(told) == {"b/plain": "recorded"}
    assert told[-2]["text"] == f"2 models in {root.folder}: 1 failed, 1 not checked."
    assert "has ended too early, with exit code 137; is there too little memory?" in text
    assert "changed  README.md" in text
    assert code == 6
    assert not Path(f"/proc/{alive.read_text()}").exists()
    assert (
        not (root.folder / "models.golden.json").exists()
        or "b/plain" not in (root.folder / "models.golden.json").read_text()
    )


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_them_leaves_nothing(root: Root, number: signal.Signals) -> None:
    """Ctrl-C, and a terminal that is closed, reach each process of the group: no daemon stays, and no file."""
    alive, temporary = root.folder / "alive", root.folder / "temporary"
    temporary.mkdir()
    add_code(root, STAY.format(path=str(alive)) + "_time.sleep(600)\n")
    assert root("sync")[0] == 0
    tool = [sys.executable, *without("namespaces Landlock seccomp"), str(PROJECT / "cache_models.py")]
    process = subprocess.Popen(
        [*tool, "check", "--unconfined", "--quiet"],
        cwd=root.folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    while not alive.exists() or not alive.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait() == 128 + number
    until = time.monotonic() + 60
    while (
        left := list(temporary.iterdir()) or Path(f"/proc/{alive.read_text()}").exists()
    ) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize("lacking", ["", "namespaces"])
def test_an_answer_in_other_characters_ends_nothing_else(root: Root, lacking: str) -> None:
    """In a locale without them, too."""
    add_code(root, SPEAK_ODDLY)
    assert root("sync")[0] == 0
    code, told = root("check", lacking=lacking, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (code, events(told)) == (6, {"a/code": "failed", "b/plain": "unproven"})
