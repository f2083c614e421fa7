"""Cutting a process off: tried in processes of their own, since it cannot be taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from modelcache.cut import cut_off
scratch = Path(sys.argv[2])
cut = cut_off(scratch)

def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0

pair = socket.socketpair()
said = {
    "network": cut.network,
    "disk": cut.disk,
    "connect": tried(lambda: socket.create_connection(("1.2.3.4", 80))),
    "loopback": tried(lambda: socket.socket().connect(("127.0.0.1", 9))),
    "lookup": tried(lambda: socket.getaddrinfo("example.org", 443)),
    "datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.2.3.4", 53))),
    "local": tried(lambda: pair[0].send(b"x")),
    "elsewhere": tried(lambda: open(sys.argv[3], "w")),
    "scratch": tried(lambda: (scratch / "x").write_text("x")),
    "null": tried(lambda: open("/dev/null", "w")),
    "attempts": cut.attempts,
    "unseen": cut.unseen(),
}
print(json.dumps(said))
"""


def cut(tmp_path: Path, *before: str) -> dict[str, Any]:
    """Cut a process off and let it try things."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [*before, sys.executable, "-c", PROGRAM, str(PROJECT), str(scratch), str(tmp_path / "elsewhere")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


def test_nothing_can_be_reached_and_every_attempt_is_noted(tmp_path: Path) -> None:
    """By name, by address, on loopback, by datagram; local sockets go on working."""
    said = cut(tmp_path)
    assert 0 not in (said["connect"], said["loopback"], said["lookup"], said["datagram"])
    assert said["attempts"] == ["1.2.3.4", "127.0.0.1:9", "example.org", "1.2.3.4:53"]
    assert said["local"] == said["null"] == said["scratch"] == 0


def test_with_namespaces_nothing_else_can_be_written(tmp_path: Path) -> None:
    """Root or not: where they are permitted, every mount is read-only but one."""
    said = cut(tmp_path)
    if said["network"] != "a network namespace of its own":
        pytest.skip(f"not permitted here: {said['network']}")
    assert said["disk"] == "read-only"
    assert said["elsewhere"] == 30  # EROFS
    assert not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "scratch").iterdir()) == []  # it was memory of the process's own


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_plain_user_is_cut_off_likewise(tmp_path: Path) -> None:
    """A namespace of users lends the rights; the user stays who he is."""
    tmp_path.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    (tmp_path / "modelcache").mkdir()
    (tmp_path / "modelcache" / "__init__.py").touch()
    (tmp_path / "modelcache" / "cut.py").write_bytes((PROJECT / "modelcache" / "cut.py").read_bytes())
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    python = "/usr/bin/python3"  # this one may lie in a home that is closed to others
    if subprocess.run(
        [*nobody, "unshare", "--user", "--net", python, "-V"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no namespace of users, or no python, for a plain user here")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    command = [*nobody, python, "-c", PROGRAM, str(tmp_path), str(scratch), str(tmp_path / "elsewhere")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["network"], said["disk"]) == ("a network namespace of its own", "read-only")
    assert (said["elsewhere"], said["scratch"]) == (30, 0)


def test_packets_of_native_code_are_counted(tmp_path: Path) -> None:
    """What asks no audit hook still meets a network without a way out, and that is seen."""
    program = PROGRAM.replace(
        "pair = socket.socketpair()",
        "import ctypes, struct\n"
        "libc = ctypes.CDLL(None)\n"
        "there = struct.pack('=HHI8x', 2, 0x5000, 0x01020304)\n"
        "libc.connect(libc.socket(2, 1, 0), there, 16)\n"
        "pair = socket.socketpair()",
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", program, str(PROJECT), str(scratch), str(tmp_path / "elsewhere")],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout)
    if said["network"] != "a network namespace of its own":
        pytest.skip(f"not permitted here: {said['network']}")
    assert said["unseen"] == 1
