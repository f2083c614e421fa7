"""Machines that give little, and surroundings that nobody thought of: what can be done is done, the rest ends in words.

No run ends as a bug (70), with what Python says when it cannot flush (120), by a signal of its own, or never. Each is a
process of its own, so that imports meet the limit, too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from modelcache.system.remove_tree import remove_tree
from tests.conftest import EMBEDDING, PROJECT, Ran, Tool, files_below, unavailable
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.forked_runs import Fault, ForkedRuns
from tests.support.faults.scenarios import ALL
from tests.support.hub import StandInHub

_TOO_LONG = 60.0
COLD = "sync --retries=0 --root new"
COMMANDS = (
    COLD,
    "status --json --root root",
    "verify --root root",
    f"path {EMBEDDING} --root root",
    "--help",
    "nonsense",
    "sync --root root --log-format json",
    "lock --upgrade --retries=0 --lockfile new.lock --root new",
    "status --root root",
    "prune --dry-run --root root",
    f"add {EMBEDDING} --retries=0 --manifest new.toml --root new",
)


@dataclass(frozen=True)
class Place:
    """A directory with a root that holds a model, and a Hub that has it."""

    folder: Path
    url: str

    def run(self, script: str, folder: Path | None = None, env: Mapping[str, str] = MappingProxyType({})) -> Ran:
        """Run a shell script in which `tool` is the tool."""
        where = {"HF_ENDPOINT": self.url, "PY": sys.executable, "MAIN": str(PROJECT / "cache_models.py")}
        process = subprocess.Popen(
            ["bash", "-c", f'tool() {{ exec "$PY" "$MAIN" "$@"; }}\n{script}'],
            cwd=folder or self.folder,
            env={**os.environ, **where, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
        )
        try:
            out, err = process.communicate(timeout=_TOO_LONG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"it hangs: {script}") from None
        return Ran(process.returncode, out, err)

    def anew(self, name: str) -> Path:
        """Make a directory of its own, in which the root and the manifest are those of all."""
        folder = self.folder / name
        folder.mkdir()
        for path in ("models.toml", "models.lock", "root"):
            (folder / path).symlink_to(self.folder / path)
        return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where every run of this module takes place."""
    folder = tmp_path_factory.mktemp("place")
    with StandInHub() as hub:
        hub.add(EMBEDDING, files_below(tiny.tiny_embedding(folder / "embedding")), licence="mit")
        (folder / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n')
        made = Place(folder, hub.url)
        ran = made.run("tool sync --root root")
        assert ran.exit_code == 0, ran.err
        yield made
        assert made.run("tool verify --root root").exit_code == 0


def refuse_bug(ran: Ran, told: str, codes: tuple[int, ...]) -> None:
    """Check that a run has ended with a code of the table, in words."""
    assert ran.exit_code in codes, (told, ran)
    assert "Traceback" not in ran.err, (told, ran)
    assert ran.exit_code in (0, 2) or "error: " in ran.err, (told, ran)


def good_again(place: Place, folder: Path) -> float:
    """Do once more, in good surroundings, what may have failed; return the seconds that it took."""
    began = time.monotonic()
    ran = place.run(f"tool {COLD}", folder)
    assert ran.exit_code == 0, ran.err
    assert not [*(folder / "new").glob("*/.cache-models")]
    return time.monotonic() - began


# What surrounds a run: what the shell does before and after, what is in the environment, and how it may end.
SURROUNDINGS: Mapping[str, tuple[str, Mapping[str, str], tuple[int, ...]]] = {
    "stdout full": ("tool {} >/dev/full", {}, (0, 2, 4)),
    "stderr full": ("tool {} 2>/dev/full", {}, (0, 2)),
    "stdin closed": ("tool {} <&-", {}, (0, 2)),
    "stdout closed": ("tool {} >&-", {}, (0, 2)),
    "stderr closed": ("tool {} 2>&-", {}, (0, 2)),
    "std all closed": ("tool {} <&- >&- 2>&-", {}, (0, 2)),
    "stdout unread": ("set -o pipefail; (tool {}) | true", {}, (0, 2)),
    "ascii": ("tool {}", {"PYTHONIOENCODING": "ascii:strict"}, (0, 2)),
    "utf-16": ("tool {}", {"PYTHONIOENCODING": "utf-16"}, (0, 2)),
    "locale C": ("tool {}", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, (0, 2)),
    "no such locale": ("tool {}", {"LC_ALL": "xx_YY.ZZ"}, (0, 2)),
    "no home": ("unset HOME HF_HOME; tool {}", {}, (0, 2)),
    "home is /dev/null": ("unset HF_HOME; tool {}", {"HOME": "/dev/null"}, (0, 2)),
    "home is empty": ("tool {}", {"HOME": "", "HF_HOME": ""}, (0, 2)),
    "HF_HOME is /dev/null": ("tool {}", {"HF_HOME": "/dev/null"}, (0, 2)),
    "HF_HUB_CACHE is /dev/null": ("tool {}", {"HF_HUB_CACHE": "/dev/null"}, (0, 2)),
    "no TMPDIR": ("tool {}", {"TMPDIR": "/nowhere"}, (0, 2)),
    "warnings are errors": ("tool {}", {"PYTHONWARNINGS": "error"}, (0, 2)),
    "no asserts, no docstrings": ("tool {}", {"PYTHONOPTIMIZE": "2"}, (0, 2)),
    "short numbers": ("tool {}", {"PYTHONINTMAXSTRDIGITS": "640"}, (0, 2)),
    "no time zone": ("tool {}", {"TZ": "No/Where"}, (0, 2)),
    "a terminal of no width": ("tool {}", {"COLUMNS": "-1", "LINES": "none"}, (0, 2)),
    "signals ignored": ("trap '' CHLD INT TERM HUP; tool {}", {}, (0, 2)),
    "empty files only": ("ulimit -f 0; tool {}", {}, (0, 2, 4)),
    "no stack for a thread": ("ulimit -s 68719476736 && tool {}", {}, (0, 2)),
    "a small stack": ("ulimit -s 256; tool {}", {}, (0, 2)),
    "no current directory": ("mkdir gone; cd gone; rmdir ../gone; tool {}", {}, (0, 2)),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_odd_surroundings(place: Place, tally: Tally, name: str) -> None:
    """Every command, in each of them."""
    script, env, codes = SURROUNDINGS[name]
    folder = place.anew(name.replace("/", "_"))
    # What is about streams is met by every command, what is about machine and interpreter by any.
    commands = COMMANDS if ALL else COMMANDS[:6] if "std" in name else COMMANDS[:2]
    for words in commands:
        ran = place.run(script.format(words), folder, env)
        if ran.exit_code == 4 and name == "stdout full":
            assert re.search("^error: .*stdout", ran.err, re.MULTILINE)
        refuse_bug(ran, words, codes)
    tally("odd surroundings", len(commands), good_again(place, folder))


def test_no_current_directory_is_no_obstacle_to_absolute_paths(place: Place, tally: Tally) -> None:
    """What is relative is refused in words; what is absolute is done."""
    gone = "mkdir away; cd away; rmdir ../away; "
    there = f"--manifest {place.folder}/models.toml --root {place.folder}/root"
    for words in ("sync", "verify", "status", "lock --check", "prune", f"path {EMBEDDING}", f"add {EMBEDDING}"):
        ran = place.run(f"{gone} tool {words} {there}")
        assert ran.exit_code == 0, (words, ran)
    ran = place.run(f"{gone} tool status")
    assert ran.exit_code == 2
    assert re.search("^error: .*^hint: ", ran.err, re.MULTILINE | re.DOTALL)
    tally("odd surroundings", 8)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {}])
@pytest.mark.parametrize("name", ["é", "x\udcff", "two  spaces"])
def test_a_path_is_printed_in_its_own_bytes(place: Place, tally: Tally, name: str, env: Mapping[str, str]) -> None:
    """A program reads it: no locale changes it. JSON stays JSON."""
    root = place.folder / name
    if not root.exists():
        root.symlink_to(place.folder / "root")
    ran = place.run(f'tool path {EMBEDDING} --root "$ROOT"', env={"ROOT": str(root), **env})
    assert (ran.exit_code, ran.out) == (0, f"{root}/cached_embedding_models/{EMBEDDING.replace('/', '__')}\n")
    ran = place.run('tool status --json --root "$ROOT"', env={"ROOT": str(root), **env})
    assert [row["state"] for row in json.loads(ran.out)] == ["ready"]
    tally("odd surroundings", 2)


@pytest.mark.parametrize("what", ["/proc", "/dev"])
def test_a_bare_container(place: Place, tally: Tally, what: str) -> None:
    """No /proc, or no /dev/null and nothing else in /dev."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        unavailable("a mount namespace is not permitted here")
    folder = place.anew(f"without {what[1:]}")
    for words in COMMANDS[:4]:
        bare = f'mount -t tmpfs -o ro none {what} && exec "$PY" "$MAIN" {words}'
        refuse_bug(place.run(f"unshare -m bash -c '{bare}'", folder), words, (0, 2))
    tally("odd surroundings", 4, good_again(place, folder))


LIMITED = (COLD, "verify --root root", "lock --upgrade --retries=0 --lockfile new.lock --root new")[: 3 if ALL else 2]
MEMORY = (26, 32, 36, 40, 48, 64, 96, 128, 192, 256)
"""MiB of address space. Below 24 Python itself does not begin."""


@pytest.mark.parametrize("kind", ["v", "d"])
def test_too_little_memory(place: Place, tally: Tally, kind: str) -> None:
    """It is done with fewer threads, or ends with 4; it never hangs, and never ends as a bug."""
    most = MEMORY if ALL else (32, 40, 64, 128) if kind == "v" else (26, 64)
    worst = 0.0
    for number, size in enumerate(most):
        folder = place.anew(f"memory {kind} {size}")
        for words in LIMITED:
            ran = place.run(f"ulimit -{kind} {size * 1024}; tool {words}", folder)
            refuse_bug(ran, f"{size} MiB: {words}", (0, 4))
            assert ran.exit_code == 0 or size < 64, (size, words, ran)
        if not number % 2:
            worst = max(worst, good_again(place, folder))
    tally("too little memory", len(LIMITED) * len(most), worst)


def test_too_few_descriptors(place: Place, tally: Tally) -> None:
    """It is done with fewer transfers at the same time, or ends with 4."""
    most = range(6, 40) if ALL else (6, 8, 11, 12, 20)
    worst = 0.0
    for number, count in enumerate(most):
        folder = place.anew(f"files {count}")
        for words in LIMITED:
            ran = place.run(f"ulimit -n {count}; CACHE_MODELS_JOBS=16 tool {words}", folder)
            refuse_bug(ran, f"{count} descriptors: {words}", (0, 4))
            assert ran.exit_code == 0 or count < 12, (count, words, ran)
        if not number % 2:
            worst = max(worst, good_again(place, folder))
    tally("too few descriptors", len(LIMITED) * len(most), worst)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else, who has no process yet")
def test_too_few_threads(place: Place, runs: ForkedRuns, tally: Tally) -> None:
    """Each command succeeds with any number of processes that a user may have."""
    most = range(1, 25) if ALL else (1, 2, 3, 4, 6, 9, 14)
    for number, count in enumerate(most):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o777)
            (folder / "models.toml").write_bytes((place.folder / "models.toml").read_bytes())
            for words in ("lock", "sync", "sync", "verify"):
                fault = Fault(user=61000 + number, processes=count)
                env = {"HF_ENDPOINT": place.url, "HF_TOKEN": "hf_of_nobody"}  # the other place is root's
                ended = runs.run(folder, words, fault=fault, env=env)
                assert ended.code == 0, (count, words, ended.err)
    tally("too few threads", 4 * len(most))


DEPTH = 1500


@pytest.fixture
def shallow(tmp_path: Path) -> Iterator[None]:
    """Leave nothing behind that pytest could not remove."""
    yield
    remove_tree(tmp_path)


def dig(folder: Path, *, files: bool = True) -> None:
    """Make directories, one in another, deeper than Python calls and longer than a path may be."""
    fd = os.open(folder, os.O_RDONLY)
    for number in range(DEPTH):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        if files and not number % 100:
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("where", ["model", "staging", "half removed", "set aside"])
def test_directories_of_any_depth_are_removed(pair: Tool, tally: Tally, where: str) -> None:
    """In a published model they are a difference, and it is replaced; among what a dead run left they are cleared."""
    assert pair("sync").exit_code == 0
    home = pair.home(EMBEDDING)
    state = home.parent / ".cache-models"
    places = {
        "model": home / "more",
        "staging": state / f"{home.name}~0123456789ab",
        "half removed": state / ".gone~0123456789abcdef",
        "set aside": state / f"{home.name}.old",
    }
    places[where].mkdir(parents=True)
    dig(places[where])
    if where == "model":
        for words in ("verify", "verify --quick"):
            ran = pair(*words.split())
            assert (ran.exit_code, "extra    more" in ran.err) == (1, True), ran.err
        assert pair("status").exit_code == 0
    began = time.monotonic()
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    assert not places[where].exists()
    assert not state.exists()
    assert pair("verify").exit_code == 0
    tally("a thousand directories, one in another", 1, time.monotonic() - began)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("files", [False, True])
def test_a_model_of_a_directory_with_directories_of_any_depth(
    pair: Tool, tally: Tally, tmp_path: Path, *, files: bool
) -> None:
    """Directories beside a model are nothing to it, and neither are files that nothing opens, however deep."""
    source = tmp_path / "embedding"
    dig(source, files=files)
    pair.want(extra=f'[[embedding]]\nid = "house/model"\npath = "{source}"\n')
    ran = pair("lock")
    assert ran.exit_code == 0, ran.err
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    tally("a thousand directories, one in another", 2)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("depth", [100, 950, 1500, 1900])
def test_a_root_of_any_depth(pair: Tool, tally: Tally, depth: int) -> None:
    """It is made, or cannot be named: then it is refused."""
    root = "a/" * depth
    ran = pair("sync", "--root", root)
    assert (ran.exit_code, "Traceback" in ran.err) in ((0, False), (4, False)), ran.err
    tally("a thousand directories, one in another", 1)
