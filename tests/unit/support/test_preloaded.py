"""A process that is forked from one with torch is like one that was started: what it has, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import preloaded

pytestmark = pytest.mark.slow

TELL = """
import json, os, sys
before = sorted({name.partition(".")[0] for name in sys.modules})
from huggingface_hub import constants
json.dump({
    "argv": sys.argv, "env": dict(os.environ), "folder": os.getcwd(), "files": sorted(os.listdir("/proc/self/fd")),
    "first": sys.path[0], "home": constants.HF_HOME, "modules": before, "offline": constants.HF_HUB_OFFLINE,
    "parent": os.getppid(), "path": sys.path, "session": os.getsid(0) == os.getpid(), "stdin": sys.stdin.read(),
}, sys.stdout)
"""


def told(*words: str, folder: Path, env: dict[str, str], **options: Any) -> dict[str, Any]:
    """Return what a program that was forked tells of itself."""
    command = [sys.executable, *words]
    ran = preloaded.run(command, cwd=folder, env=env, input="asked", stdout=subprocess.PIPE, text=True, **options)
    assert ran.returncode == 0
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_a_fork_has_what_it_was_given_and_nothing_else(tmp_path: Path) -> None:
    """Its environment, directory, arguments and input, no file of ours, and settings that were read from there."""
    env = {"HF_HOME": f"{tmp_path}/hf", "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{tmp_path}/more"}
    said = told("-c", TELL, "word", folder=tmp_path, env=os.environ | env, start_new_session=True)
    assert (said["argv"], said["folder"], said["stdin"]) == (["-c", "word"], str(tmp_path), "asked")
    assert said["env"] == os.environ | env
    assert (said["home"], said["offline"]) == (f"{tmp_path}/hf", True)
    assert said["files"] == ["0", "1", "2", "3"]  # the last is the directory that is listed
    assert (said["parent"], said["session"]) == (os.getpid(), True)
    assert said["path"][:2] == ["", f"{tmp_path}/more"]
    assert "torch" in said["modules"]
    theirs = {"huggingface_hub", "sentence_transformers", "tokenizers", "transformers", "modelcache", "tests", "pytest"}
    assert not theirs & set(said["modules"])


def test_the_search_path_is_that_of_a_process(tmp_path: Path) -> None:
    """For a script, for a module, and isolated, after a fork and without."""
    (tmp_path / "folder").mkdir()
    script = tmp_path / "folder" / "show.py"
    script.write_text("import sys; print(sys.path, sys.argv, __name__)")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}/folder"}
    for words in (
        [str(script), "a"],
        ["-m", "show", "a"],
        ["-I", str(script)],
        ["-P", "-c", "import sys; print(sys.path)"],
    ):
        command = [sys.executable, *words]
        usual = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        forked = preloaded.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        assert forked.stdout == usual.stdout


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("", 0),
        ("import sys; sys.exit(6)", 6),
        ("import sys; sys.exit('no')", 1),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import atexit, os; atexit.register(os._exit, 9)", 9),
    ],
)
def test_it_ends_as_a_process_does(code: str, ends: int) -> None:
    assert preloaded.run([sys.executable, "-c", code], capture_output=True).returncode == ends


def test_settings_that_are_read_at_the_start_need_a_process() -> None:
    """A fork would have those of its parent."""
    code = "import sys; print('torch' in sys.modules)"
    for more, forked in (({}, "True"), ({"PYTHONUTF8": "0"}, "False"), ({"OMP_NUM_THREADS": "1"}, "False")):
        ran = preloaded.run([sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True)
        assert ran.stdout.strip() == forked
