"""The three surroundings in which hostile models are tried; namespaces around each keep this machine from harm."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.hostile.outside import MARK

PROJECT = Path(__file__).parents[3]
SURROUNDINGS = ("root", "user", "no namespaces")
USER = 12345
_AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
# Other numbers of processes than the first ones, which a namespace inside has too. And two layers of /proc without the
# machine's below them: an attack that takes one away must not meet the processes of other tests.
_INSIDE = """
umount -l /proc && umount -l /proc && mount -t proc proc /proc && mount -t proc proc /proc &&
mount -t tmpfs -o size=3g,mode=1777 tmpfs "$0" && mkdir -m 0700 "$0/home" && chown "$1" "$0/home" && shift &&
mkdir "$0/home/tmp" && mount -t tmpfs -o size=3g,mode=1777 tmpfs "$0/home/tmp" &&
mount -t tmpfs -o mode=1777 tmpfs /dev/shm && echo 5000 > /proc/sys/kernel/ns_last_pid && "$@"; exit $?
"""


@cache
def interpreter(user: int) -> tuple[str, dict[str, str]]:
    """Return a Python that a user can start, and the environment in which it has the libraries of this one."""
    if not user:
        return sys.executable, {}
    libraries = {"PYTHONPATH": sysconfig.get_path("purelib")}
    for python, more in ((sys.executable, {}), ("/usr/bin/python3", libraries)):
        # setpriv itself can start what its user cannot, so Python has to start itself again.
        program = (
            "import importlib.util as i, numpy, tests.support.hostile; assert i.find_spec('sentence_transformers')"
        )
        command = [*_AS_USER, "sh", "-c", '"$0" -c "$1"', python, program]
        ran = subprocess.run(
            command, cwd=PROJECT, env={**os.environ, **more, "HOME": "/"}, capture_output=True, check=False
        )
        if not ran.returncode:
            return python, more
    raise FileNotFoundError("no Python that another user can start has the libraries of this one")


def attack(way: str, surrounding: str, *doors: str) -> dict[str, Any]:
    """Try hostile models on a `check` or a `plain` load; return what `python -m tests.support.hostile` tells."""
    user = 0 if surrounding == "root" else USER
    python, more = interpreter(user)
    program = [python, "-m", "tests.support.hostile", way]
    if surrounding == "no namespaces":
        program = [python, str(Path(__file__).with_name("without_namespaces.py")), *program]
    folder = tempfile.mkdtemp(prefix="hostile-")
    try:
        Path(folder).chmod(0o755)
        command = [
            "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-c", _INSIDE, folder, str(user), *(_AS_USER if user else ()), *program, f"{folder}/home", *doors,
        ]  # fmt: skip
        env = {**os.environ, **more, "HF_TOKEN": f"hf_{MARK}", "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{shlex.join(command)}\n{ran.stdout}{ran.stderr}"
        told: dict[str, Any] = json.loads(ran.stdout)
        return told
    finally:
        shutil.rmtree(folder)
