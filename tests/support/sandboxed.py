"""Running lines of Python in a sandbox, by a process of its own: a sandbox cannot be left again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

_PROGRAM = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from modelcache.check.confine.isolation import EndedError, run_isolated
from modelcache.check.confine.library_paths import library_paths
from modelcache.system.syscalls import CALL_NUMBERS, call
from modelcache.check.confine.sandbox import Sandbox, refuse_sockets, unseen_packets

attempts = refuse_sockets()
scratch, outside = Path(sys.argv[2]) / "scratch", Path(sys.argv[2])
scratch.mkdir(exist_ok=True)
sandbox = Sandbox(scratch, library_paths(), sys.argv[3] == "namespaces")
said = {}

def tried(job):
    "Return the number of the error, 0 for none."
    try:
        job()
    except OSError as error:
        return error.errno or -1
    return 0

def asked(job, limit=30.0, model=None):
    "Return what a job returns, or why it returned nothing."
    def answer(confinement):
        try:
            return json.dumps({"it": job()}).encode()
        except Exception as error:
            return json.dumps({"it": repr(error)}).encode()
    held = replace(sandbox, readable=[*sandbox.readable, model]) if model else sandbox
    try:
        return json.loads(run_isolated(answer, held, limit))["it"]
    except EndedError as error:
        return str(error)

"""


def said_by(
    lines: str,
    folder: Path,
    *,
    namespaces: bool,
    start: Sequence[str] = (),
    python: str = sys.executable,
    package: Path = PROJECT,
    env: Mapping[str, str] | None = None,
    lacking: str = "",
) -> dict[str, Any]:
    """Run lines that fill `said`, with `asked` and `tried` at hand; `start` is put in front of the command."""
    command = [
        *start,
        python,
        *without(lacking),
        "-c",
        f"{_PROGRAM}{lines}\nprint(json.dumps(said))",
        str(package),
        str(folder),
    ]
    ran = subprocess.run(
        [*command, "namespaces" if namespaces else "none"],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


# An outer filter that refuses the calls themselves, as the profile of a container does.
WITHOUT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from modelcache.check.confine import seccomp
from modelcache.system.process import drop_privileges
names = {"namespaces": ("unshare",), "Landlock": ("landlock_create_ruleset",), "seccomp": ("seccomp",)}
if os.getuid():  # root may filter without giving up anything
    drop_privileges()
seccomp.install([seccomp.Rule(name) for lacking in sys.argv[2].split() for name in names[lacking]])
"""
_START_ANEW = "os.execv(sys.executable, [sys.executable, *sys.argv[3:]])"
_GO_ON = "import runpy; del sys.argv[:3], sys.path[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def without(lacking: str, *, start_anew: bool = True) -> list[str]:
    """Return what stands before the arguments of a Python so that some of the kernel's means are lacking.

    Those are a script and its arguments where the same process is to go on with them, with the libraries that it has.
    """
    return ["-c", WITHOUT + (_START_ANEW if start_anew else _GO_ON), str(PROJECT), lacking] if lacking else []


@cache
def namespaces_are_permitted(start: Sequence[str] = (), python: str = sys.executable, package: Path = PROJECT) -> bool:
    """Whether a process here can have namespaces of its own; in CI it must."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # `start` may make somebody else of it
        lines = "said['it'] = asked(lambda: 'here')"
        said = said_by(lines, Path(folder), namespaces=True, start=start, python=python, package=package)["it"]
    assert said == "here" or "CI" not in os.environ, said
    return bool(said == "here")


needs_namespaces = pytest.mark.skipif(not namespaces_are_permitted(), reason="not permitted here")
WITH_AND_WITHOUT_NAMESPACES = pytest.mark.parametrize(
    "namespaces", [pytest.param(True, id="namespaces", marks=needs_namespaces), pytest.param(False, id="none")]
)
