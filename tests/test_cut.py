"""Cutting a process off: tried in processes of their own, since it cannot be taken back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
SECRET = os.environ.get("SECRET", "")
cut = cut_off(scratch, [Path(p) for p in os.environ.get("NEEDED", "").split()], [Path(p) for p in SECRET.split()])

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
    "secrets": {p: os.listdir(p) if os.path.isdir(p) else open(p).read() for p in SECRET.split() if os.path.exists(p)},
    "needed": {p: os.listdir(p) for p in os.environ.get("NEEDED", "").split()},
    "user": [os.getuid(), os.getgid()],
    "attempts": cut.attempts,
    "unseen": cut.unseen(),
}
print(json.dumps(said))
"""


def cut(tmp_path: Path, **environment: str) -> dict[str, Any]:
    """Cut a process off and let it try things."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(PROJECT), str(scratch), str(tmp_path / "elsewhere")]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
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


def test_secrets_look_empty(tmp_path: Path) -> None:
    """A file and a directory that were named; what is not there is no hindrance."""
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id").write_text("s3cret")
    file, folder = str(tmp_path / "token"), str(tmp_path / "keys")
    said = cut(tmp_path, SECRET=f"{file} {folder} {tmp_path / 'nothing'}")
    if said["disk"] != "read-only":
        pytest.skip(f"not permitted here: {said['network']}")
    assert said["secrets"] == {file: "", folder: []}
    assert (tmp_path / "token").read_text() == "s3cret"


def test_what_is_needed_below_shared_memory_stays(tmp_path: Path) -> None:
    """A root, or an environment, may lie there; the rest of it is covered by memory of the process's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "model").touch()
        assert cut(tmp_path, NEEDED=folder)["needed"] == {folder: ["model"]}


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user can reach and write to, with the modules that a cut consists of."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "modelcache").mkdir()
        for name in ("__init__", "cut", "trees"):
            shutil.copy(PROJECT / "modelcache" / f"{name}.py", Path(folder) / "modelcache")
        (Path(folder) / "scratch").mkdir()
        for path in (Path(folder), Path(folder) / "scratch"):
            path.chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("user", "group"), [(65534, 65534), (10001, 12345)], ids=["nobody", "a user without a name"])
def test_a_plain_user_is_cut_off_likewise(everybodys: Path, user: int, group: int) -> None:
    """A namespace of users lends the rights; the user stays who he is, whatever his number."""
    somebody = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    python = "/usr/bin/python3"  # this one may lie in a home that is closed to others
    if subprocess.run(
        [*somebody, "unshare", "--user", "--net", python, "-V"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no namespace of users, or no python, for a plain user here")
    where = [str(everybodys), str(everybodys / "scratch"), str(everybodys / "elsewhere")]
    ran = subprocess.run([*somebody, python, "-c", PROGRAM, *where], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["network"], said["disk"]) == ("a network namespace of its own", "read-only")
    assert (said["elsewhere"], said["scratch"]) == (30, 0)
    assert said["user"] == [user, group]


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
