"""Running lines of Python in a sandbox, by a process of its own: a sandbox cannot be left again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT

_PROGRAM = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from modelcache.isolation import EndedError, run_isolated
from modelcache.libraries import library_paths
from modelcache.linux import CALL_NUMBERS, call
from modelcache.sandbox import Sandbox, refuse_sockets, unseen_packets

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
        return error.errno
    return 0

def asked(job, limit=30.0, model=None):
    "Return what a job returns, or why it returned nothing."
    def answer(confinement):
        try:
            return json.dumps({"it": job()})
        except Exception as error:
            return json.dumps({"it": repr(error)})
    try:
        return json.loads(run_isolated(answer, sandbox, model, limit))["it"]
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
) -> dict[str, Any]:
    """Run lines that fill `said`, with `asked` and `tried` at hand; `start` is put in front of the command."""
    command = [*start, python, "-c", f"{_PROGRAM}{lines}\nprint(json.dumps(said))", str(package), str(folder)]
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


def namespaces_are_permitted(start: Sequence[str] = ()) -> bool:
    """Whether this machine lets a process have namespaces of its own."""
    ran = subprocess.run([*start, "unshare", "--user", "--net", "--mount", "true"], capture_output=True, check=False)
    return ran.returncode == 0
