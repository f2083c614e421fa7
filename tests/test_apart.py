"""Work in a process of its own: whatever becomes of it is told, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT, SOON

PROGRAM = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from modelcache.apart import EndedError, apart
from modelcache.cut import cut_off

scratch = Path(sys.argv[2])
cut = cut_off(scratch)

def asked(job, limit=30.0):
    try:
        return json.loads(apart(lambda: json.dumps({"said": job()}), cut, limit))["said"]
    except EndedError as error:
        return str(error)

def leave_behind():
    "Start somebody who holds every descriptor, in a session of his own, and is not waited for."
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execlp("sleep", "sleep", "4711")
        os._exit(0)
    (scratch / "left").mkdir()
    (scratch / "left" / "file").write_text("x")
    return "done"

def others():
    "Return the processes there are, as far as one can see."
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())

def seen(word, of):
    "Say whether a word is in the environment or the command line of any of them."
    for number in others():
        try:
            if word in Path(f"/proc/{number}/{of}").read_bytes().decode():
                return True
        except OSError:
            pass
    return False

said = {"namespaces": cut.namespaces}
"""


def run(tmp_path: Path, program: str) -> dict[str, Any]:
    """Run lines that fill `said`, cut off."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", f"{PROGRAM}{program}\nprint(json.dumps(said))", str(PROJECT), str(scratch)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_an_answer_of_any_length_arrives(tmp_path: Path) -> None:
    """Longer than a pipe holds."""
    said = run(tmp_path, "said['length'] = len(asked(lambda: 'é' * 3_000_000))")
    assert said["length"] == 3_000_000


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("os.kill(os.getpid(), 9)", "its process ended with -9; is there too little memory?"),
        ("os.kill(os.getpid(), 11)", "its process ended with -11"),
        ("os._exit(3)", "its process ended with 3"),
        ("os._exit(0)", "its process ended with 0"),
        ("os.kill(os.getppid(), 9)", "its process ended with -9; is there too little memory?"),
    ],
    ids=["killed", "crashed", "left", "left in peace", "killed whoever waits"],
)
def test_a_crash_is_told_and_the_next_one_is_asked(tmp_path: Path, job: str, told: str) -> None:
    """By number, as a shell would; killed is mostly killed for its memory."""
    said = run(tmp_path, f"said |= {{'first': asked(lambda: {job}), 'next': asked(lambda: 'here')}}")
    if not said["namespaces"] and "getppid" in job:
        pytest.skip("without a namespace nobody is kept from ending others")
    # The first process of a namespace is not to be killed from within.
    assert said["first"] == (told if "getppid" not in job else None)
    assert said["next"] == "here"


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A model that waits for ever must not keep the others waiting."""
    began = time.monotonic()
    said = run(tmp_path, "said |= {'first': asked(lambda: time.sleep(4711), 0.5), 'next': asked(lambda: 'here')}")
    assert (said["first"], said["next"]) == ("it gave no answer within 0 s", "here")
    assert time.monotonic() - began < SOON


def test_nothing_of_it_stays(tmp_path: Path) -> None:
    """Neither a process that went away into a session of its own, holding the pipe, nor what it wrote."""
    said = run(
        tmp_path,
        "said['first'] = asked(leave_behind)\n"
        "said['left'] = [path.name for path in scratch.iterdir()]\n"
        "until = time.monotonic() + 15\n"  # they are killed by then, and the kernel takes them away when it likes
        "while (running := seen('sleep\\x004711', 'cmdline')) and time.monotonic() < until: time.sleep(0.01)\n"
        "said['running'] = running",
    )
    assert (said["first"], said["left"]) == ("done", [])
    if not said["namespaces"]:
        pytest.skip("without a namespace, who leaves the group is not found")
    assert said["running"] is False


def test_nobody_else_is_seen(tmp_path: Path) -> None:
    """Whoever runs here, with whatever is in his environment: from within there are only the two."""
    said = run(
        tmp_path,
        "import subprocess\n"
        "neighbour = subprocess.Popen(['sleep', '60'], env={**os.environ, 'A_PASSWORD': 's3cret'})\n"
        "while not seen('s3cret', 'environ'): time.sleep(0.01)\n"
        "said |= {'seen': asked(lambda: seen('s3cret', 'environ')), 'others': asked(others)}\n"
        "neighbour.kill()",
    )
    if not said["namespaces"]:
        pytest.skip("without a namespace everybody sees everybody")
    assert said["others"] == [1, 2]
    assert said["seen"] is False
