"""The sandbox of a model's code: what each step refuses, and what libraries can still do."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from modelcache.check.confine.sandbox import Confinement
from modelcache.system.syscalls import call
from tests.conftest import PROJECT
from tests.support.sandboxed import WITH_AND_WITHOUT_NAMESPACES, namespaces_are_permitted, needs_namespaces, said_by

ATTEMPTS = """
def attempt():
    one, other = socket.socketpair()
    return {
        "connect": tried(lambda: socket.create_connection(("1.2.3.4", 80))),
        "loopback": tried(lambda: socket.socket().connect(("127.0.0.1", 9))),
        "lookup": tried(lambda: socket.getaddrinfo("example.org", 443)),
        "datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.2.3.4", 53))),
        "local": tried(lambda: one.send(b"x")),
        "scratch": tried(lambda: (scratch / "x").write_text("x")),
        "null": tried(lambda: open("/dev/null", "w")),
        "attempts": attempts,
    }
said = asked(attempt)
"""


@WITH_AND_WITHOUT_NAMESPACES
def test_nothing_can_be_reached_and_every_attempt_is_noted(tmp_path: Path, namespaces: bool) -> None:
    """By name, by address, on loopback, by datagram; pairs of sockets and the scratch directory go on working."""
    said = said_by(ATTEMPTS, tmp_path, namespaces=namespaces)
    assert 0 not in (said["connect"], said["loopback"], said["lookup"], said["datagram"])
    assert said["attempts"] == ["1.2.3.4", "127.0.0.1:9", "example.org", "1.2.3.4:53"]
    assert said["local"] == said["null"] == said["scratch"] == 0


@needs_namespaces
def test_packets_of_native_code_are_counted(tmp_path: Path) -> None:
    """Code that asks no audit hook still meets a network without a way out, and that is seen."""
    lines = (
        "def attempt():\n"
        "    libc = ctypes.CDLL(None)\n"
        "    there = struct.pack('=HHI8x', 2, 0x5000, 0x01020304)\n"
        "    libc.connect(libc.socket(2, 1, 0), there, 16)\n"
        "    return unseen_packets()\n"
        "said['unseen'] = asked(attempt)"
    )
    assert said_by(lines, tmp_path, namespaces=True) == {"unseen": 1}


@WITH_AND_WITHOUT_NAMESPACES
def test_of_all_files_only_libraries_and_the_model_are_read(tmp_path: Path, namespaces: bool) -> None:
    """No list of secrets is needed: a file that is not shown is not there, or not to be opened."""
    for name in ("model", "other", "home/.config"):
        (tmp_path / name).mkdir(parents=True)
    files = ("model/config.json", "other/config.json", "home/.netrc", "home/.config/token")
    for name in files:
        (tmp_path / name).write_text("x")
    said = said_by(
        "def attempt():\n"
        "    places = [outside / name for name in os.environ['PLACES'].split()]\n"
        "    places += map(Path, ('/etc/hostname', '/etc/shadow', '/dev/tty', '/root', '/run', '/var'))\n"
        "    places += [Path(f'/proc/{os.getppid()}/environ')]\n"
        "    look = lambda place: os.listdir(place) if place.is_dir() else place.read_bytes()\n"
        "    return [str(place) for place in places if not tried(lambda: look(place))]\n"
        "model = outside / 'model'\n"
        "write = lambda name: tried(lambda: (model / name).write_text('y'))\n"
        "said['read'] = asked(attempt, model=model)\n"
        "said['changed'] = asked(lambda: [write('config.json'), write('new')], model=model)",
        tmp_path,
        namespaces=namespaces,
        env={"PLACES": " ".join(files)},
    )
    assert said["read"] == [str(tmp_path / "model/config.json")]
    assert 0 not in said["changed"]
    assert (tmp_path / "model/config.json").read_text() == "x"


# Calls that reach beyond a process, with the least that makes them do something. `outside` is a directory and
# `neighbour` a process of the same user, both beyond the sandbox.
DOORS = {
    "mount": "call('mount', b'tmpfs', os.fsencode(scratch), b'tmpfs', 0, b'')",
    "unmount": "call('umount2', b'/proc', 2)",
    "unshare": "call('unshare', 0x10000000)",
    "clone": "call('clone', 0x10000000 | 17, None, None, None, 0) or os._exit(0)",
    "clone3": "call('clone3', struct.pack('<11Q', 0x10000000, 0, 0, 0, 17, *[0] * 6), 88) or os._exit(0)",
    "setns": "call('setns', os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "chroot": "os.chroot(scratch)",
    "keyring": "call('keyctl', 0, -3, 1)",
    "io_uring": "call('io_uring_setup', 1, bytes(120))",
    "ptrace": "call('ptrace', 16, neighbour, 0, 0)",
    "memory": "open(f'/proc/{neighbour}/mem', 'r+b')",
    "environment": "open(f'/proc/{neighbour}/environ')",
    "a copy of memory": "call('process_vm_readv', neighbour, None, 0, None, 0, 0)",
    "a signal": "os.kill(neighbour, 9)",
    "a queued signal": "call('rt_sigqueueinfo', neighbour, 9, struct.pack('<iii', 9, 0, -1) + bytes(116))",
    "a signal by thread": "call('tgkill', neighbour, neighbour, 9)",
    "a signal by descriptor": "signal.pidfd_send_signal(os.pidfd_open(neighbour), 9)",
    "a signal by a pipe": "fcntl.fcntl(os.pipe()[0], 8, neighbour)",
    "limits": "resource.prlimit(neighbour, resource.RLIMIT_CPU, (1, 1))",
    "priority": "os.setpriority(os.PRIO_PROCESS, neighbour, 19)",
    "everybody's priority": "os.setpriority(os.PRIO_USER, 0, 19)",
    "disk priority": "call('ioprio_set', 1, neighbour, 3 << 13)",
    "processors": "os.sched_setaffinity(neighbour, {0})",
    "scheduling": "os.sched_setscheduler(neighbour, os.SCHED_IDLE, os.sched_param(0))",
    "virtual machines' sockets": "socket.socket(40, socket.SOCK_STREAM)",
    "kernel sockets": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "raw sockets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "a group": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(0, 35, b'\\xe0\\0\\0\\xfb' + bytes(4))",
    "a socket's path": "socket.socket(socket.AF_UNIX).connect(str(outside / 'socket'))",
    "a datagram's path": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', str(outside / 'datagrams'))",
    "a pair led astray": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', str(outside / 'datagrams'))",
    "a pair connected anew": "socket.socketpair(type=socket.SOCK_DGRAM)[0].connect(str(outside / 'datagrams'))",
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect(abstract)",
    "a pipe's path": "os.open(outside / 'pipe', os.O_WRONLY | os.O_NONBLOCK)",
    "shared memory": "open('/dev/shm/' + outside.name, 'r+b')",
    "a shared segment": "call('shmget', key, 0, 0)",
    "a queue": "call('msgget', key, 0)",
    "a file": "open(outside / 'file', 'r+b')",
    "a new file": "open(outside / 'new', 'w')",
    "cutting a file": "os.truncate(outside / 'file', 0)",
    "emptying a file": "os.open(outside / 'file', os.O_RDONLY | os.O_TRUNC)",
    "neither to read nor to write": "os.open(outside / 'file', 3)",
    "what is said of a file": "os.listxattr(outside / 'file')",
    "a file's mode": "os.chmod(outside / 'file', 0o600)",
    "a file's owner": "os.chown(outside / 'file', 4711, 4711)",
    "a file's times": "os.utime(outside / 'file', (1, 1))",
    "a device's mode": "os.chmod('/dev/full', 0o600)",
    "a device's times": "os.utime('/dev/full', (1, 1))",
    "removing": "os.unlink(outside / 'file')",
    "moving": "os.rename(outside / 'file', outside / 'new')",
    "a second name": "os.link(outside / 'file', scratch / 'new')",
    "attributes": "os.setxattr(outside / 'file', 'user.x', b'x')",
    "a terminal": "os.open('/dev/ptmx', os.O_RDWR)",
    "a device of its own": "os.mknod(scratch / 'device', 0o60600, os.makedev(254, 0))",
    "another user": "os.setuid(4711)",
    "the host's name": "call('sethostname', b'x', 1)",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "kernel settings": "open('/proc/sys/kernel/core_pattern', 'w')",
}
OUTSIDE = """
neighbour, key = int(os.environ["NEIGHBOUR"]), int(os.environ["KEY"])
abstract = "\\0" + os.environ["ABSTRACT"]
"""
# What a call answers that changes nothing: a library that copies modes goes on.
PRETENDED = {"a file's mode", "a file's owner", "a file's times", "a device's mode", "a device's times", "processors"}
# The layers cover for each other. Without seccomp, or without Landlock, these are shut by those that remain.
SHUT_WITHOUT_SECCOMP_AND_LANDLOCK = set(DOORS) - {
    "unshare", "clone", "clone3", "keyring", "io_uring", "virtual machines' sockets", "kernel sockets",
    "everybody's priority", "kernel settings", "a copy of memory",
}  # fmt: skip
SHUT_BY_SECCOMP = {
    "mount", "unmount", "unshare", "clone", "clone3", "setns", "chroot", "keyring", "io_uring", "ptrace",
    "a copy of memory", "a signal", "a queued signal", "a signal by thread", "a signal by descriptor",
    "a signal by a pipe", "limits", "priority", "everybody's priority", "disk priority", "processors", "scheduling",
    "virtual machines' sockets", "kernel sockets", "packets", "a group", "a socket's path",
    "a datagram's path", "a pair led astray", "a pair connected anew", "an abstract socket", "a shared segment",
    "a queue", "cutting a file", "emptying a file", "a file's mode", "a file's owner", "a file's times",
    "a device's mode", "a device's times", "attributes", "another user", "the host's name", "the clock",
    "what is said of a file", "neither to read nor to write",
}  # fmt: skip
SHUT_BY_LANDLOCK = {
    "mount", "memory", "environment", "ptrace", "a file", "a new file", "removing", "moving", "a second name",
    "shared memory", "a pipe's path", "a terminal", "a device of its own", "kernel settings",
}  # fmt: skip


class Outside:
    """A directory with all kinds of files, and a process, that a sandbox must not reach."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "file").write_text("x")
        self.memory = Path("/dev/shm") / folder.name
        self.memory.write_text("x")
        os.mkfifo(folder / "pipe")
        self.pipe = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.sockets = [socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 1)]
        os.chdir(folder)  # a socket's path must be short
        for one, path in zip(self.sockets, ("socket", "datagrams", f"\0{folder.name}"), strict=True):
            one.bind(path)
        for one in (self.sockets[0], self.sockets[2]):
            one.listen()
        self.key = 1 + uuid.uuid4().int % (1 << 30)
        self.shared = [call("shmget", self.key, 4096, 0o1666), call("msgget", self.key, 0o1666)]
        self.neighbour = subprocess.Popen(["sleep", "600"])
        self.before = self.state()

    def state(self) -> list[object]:
        """Return all that a model's code could have changed."""
        nodes = [os.stat(self.folder / "file"), os.stat("/dev/full")]
        facts = [(found.st_mode, found.st_uid, found.st_mtime) for found in nodes]
        number = self.neighbour.pid
        held = [
            os.getpriority(os.PRIO_PROCESS, number),
            os.sched_getscheduler(number),
            len(os.sched_getaffinity(number)),
        ]
        limits = resource.prlimit(number, resource.RLIMIT_CPU)
        words = [(self.folder / "file").read_text(), self.memory.read_text(), sorted(os.listdir(self.folder))]
        return [facts, held, limits, words, self.neighbour.poll(), os.getpriority(os.PRIO_PROCESS, 0)]

    def close(self) -> None:
        """End the process, remove what is not in the directory."""
        self.neighbour.kill()
        self.neighbour.wait()
        self.memory.unlink()
        call("shmctl", self.shared[0], 0, None)
        call("msgctl", self.shared[1], 0, None)
        os.close(self.pipe)
        for one in self.sockets:
            one.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Made once: every door is tried on the same things."""
    before = Path.cwd()
    made = Outside(Path(tempfile.mkdtemp(prefix="o", dir=tmp_path_factory.getbasetemp())))
    (made.folder / "scratch").mkdir()
    made.before = made.state()
    os.chdir(before)
    yield made
    made.close()


def tried_doors(outside: Outside, doors: Collection[str], *, namespaces: bool, lacking: str = "") -> dict[str, int]:
    """Try doors in one sandbox; return the number of the error for each, 0 for none."""
    attempts = "".join(f"    found[{name!r}] = tried(lambda: {DOORS[name]})\n" for name in DOORS if name in doors)
    lines = f"{OUTSIDE}\ndef attempt():\n    found = {{}}\n{attempts}    return found\nsaid['it'] = asked(attempt)"
    env = {"NEIGHBOUR": str(outside.neighbour.pid), "ABSTRACT": outside.folder.name, "KEY": str(outside.key)}
    found = said_by(lines, outside.folder, namespaces=namespaces, lacking=lacking, env=env)["it"]
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize(
    ("namespaces", "lacking", "shut"),
    [
        pytest.param(True, "", set(DOORS) - {"everybody's priority"}, id="namespaces", marks=needs_namespaces),
        pytest.param(
            True, "seccomp Landlock", SHUT_WITHOUT_SECCOMP_AND_LANDLOCK, id="namespaces alone", marks=needs_namespaces
        ),
        pytest.param(False, "", set(DOORS), id="none"),
        pytest.param(False, "Landlock", SHUT_BY_SECCOMP, id="seccomp alone"),
        pytest.param(False, "seccomp", SHUT_BY_LANDLOCK, id="Landlock alone"),
    ],
)
def test_doors_are_shut(namespaces: bool, lacking: str, shut: set[str], outside: Outside) -> None:
    """Each call fails or does nothing, and nothing outside is changed, also where the layers do not cover each other.

    With namespaces everybody is all that are in them.
    """
    tried = tried_doors(outside, shut, namespaces=namespaces, lacking=lacking)
    pretended = PRETENDED if not namespaces and "seccomp" not in lacking else set()
    assert {name for name, number in tried.items() if number <= 0} <= pretended
    assert tried.keys() == shut
    assert outside.state() == outside.before


@WITH_AND_WITHOUT_NAMESPACES
def test_libraries_find_what_they_need(tmp_path: Path, namespaces: bool) -> None:
    """Threads, temporary files, copies with modes and times, other programs, random numbers, facts of the machine."""
    said = said_by(
        "import multiprocessing, shutil, ssl, tempfile, threading, zoneinfo\n"
        "tools = [folder for folder in ('/sbin', '/usr/include') if os.path.exists(folder)]\n"
        "def works(job):\n"
        "    try: return bool(job())\n"
        "    except Exception as error: return repr(error)\n"
        "def copied():\n"
        "    Path('one').touch()\n"
        "    return Path(shutil.copy2('one', 'two')).exists() and Path(shutil.copy('one', 'three')).exists()\n"
        "def thread():\n"
        "    seen = []\n"
        "    one = threading.Thread(target=seen.append, args=[1]); one.start(); one.join()\n"
        "    return seen\n"
        "def temporary():\n"
        "    with tempfile.TemporaryDirectory(dir='.') as folder, tempfile.NamedTemporaryFile(dir=folder) as file:\n"
        "        return file.write(b'x')\n"
        "said = asked(lambda: {name: works(job) for name, job in {\n"
        "    'copied': copied, 'thread': thread, 'temporary': temporary,\n"
        "    'program': lambda: not subprocess.run([sys.executable, '-c', 'import json']).returncode,\n"
        "    'random': lambda: os.urandom(8) and Path('/dev/urandom').open('rb').read(1),\n"
        "    'processors': lambda: 'processor' in Path('/proc/cpuinfo').read_text() and os.cpu_count(),\n"
        "    'memory': lambda: 'MemTotal' in Path('/proc/meminfo').read_text(),\n"
        "    'itself': lambda: 'VmHWM' in Path('/proc/self/status').read_text() and os.listdir('/proc/self/fd'),\n"
        "    'user': lambda: os.path.expanduser('~'),\n"
        "    'certificates': ssl.create_default_context,\n"
        "    'affinity': lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)) is None,\n"
        "    'load': os.getloadavg,\n"
        "    'tools': lambda: all(os.listdir(folder) for folder in tools),\n"
        "}.items()})",
        tmp_path,
        namespaces=namespaces,
        env={"HOME": str(tmp_path)},
    )
    if not namespaces:  # where no other process may be started
        assert "PermissionError" in said.pop("program")
    assert said == dict.fromkeys(said, True)


@WITH_AND_WITHOUT_NAMESPACES
def test_python_is_there_by_the_name_it_was_started_with(tmp_path: Path, namespaces: bool) -> None:
    """A link to it may lie anywhere."""
    (tmp_path / "python").symlink_to(sys.executable)
    lines = "said['first'] = asked(lambda: open(sys.executable, 'rb').read(4).decode())"
    python = str(tmp_path / "python")
    assert said_by(lines, tmp_path, namespaces=namespaces, python=python) == {"first": "\x7fELF"}


@needs_namespaces
def test_a_program_that_was_just_made_runs(tmp_path: Path) -> None:
    """Compilers and build tools try out what they can do; elsewhere no mode can be set."""
    lines = (
        "def job():\n"
        "    Path('made').write_text('#!/bin/sh')\n"
        "    Path('made').chmod(0o700)\n"
        "    return subprocess.run(['./made']).returncode\n"
        "said['code'] = asked(job)"
    )
    assert said_by(lines, tmp_path, namespaces=True) == {"code": 0}


@needs_namespaces
def test_a_program_that_a_model_starts_reads_about_itself(tmp_path: Path) -> None:
    """Where all processes are the model's own; elsewhere /proc would show those of others."""
    read = "open('/proc/self/status').read(), open('/proc/self/maps').read()"
    lines = f"said['code'] = asked(lambda: subprocess.run([sys.executable, '-c', {read!r}]).returncode)"
    assert said_by(lines, tmp_path, namespaces=True) == {"code": 0}


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user can reach and write to, with the package."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            PROJECT / "modelcache", Path(folder) / "modelcache", ignore=shutil.ignore_patterns("__pycache__")
        )
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@WITH_AND_WITHOUT_NAMESPACES
@pytest.mark.parametrize(("user", "group"), [(65534, 65534), (10001, 12345)], ids=["nobody", "a user without a name"])
def test_a_plain_user_is_held_likewise(everybodys: Path, user: int, group: int, namespaces: bool) -> None:
    """A namespace of users lends the rights; the user stays the same, whatever the number."""
    somebody = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "env", f"-C{everybodys}"]
    python = "/usr/bin/python3"  # this one may lie in a home that is closed to others
    if subprocess.run([*somebody, python, "-V"], capture_output=True, check=False).returncode:
        pytest.skip("no python for a plain user here")
    if namespaces and not namespaces_are_permitted(tuple(somebody), python, everybodys):
        pytest.skip("no namespace of users for a plain user here")
    said = said_by(
        f"{ATTEMPTS}\nsaid['user'] = asked(lambda: [os.getuid(), os.getgid()])",
        everybodys,
        namespaces=namespaces,
        start=somebody,
        python=python,
        package=everybodys,
    )
    assert 0 not in (said["connect"], said["loopback"], said["lookup"], said["datagram"])
    assert said["user"] == [user, group]


def network_of(tmp_path: Path, *start: str, namespaces: bool) -> str:
    """Return how the network is cut for a process in the sandbox, in its own words."""
    lines = "said['it'] = json.loads(run_isolated(lambda held: json.dumps(held.network).encode(), sandbox, 30))"
    return str(said_by(lines, tmp_path, namespaces=namespaces, start=start)["it"])


@needs_namespaces
def test_a_machine_without_a_network_is_told(tmp_path: Path) -> None:
    """As with `RUN --network=none`: then there is nothing for the filter to refuse."""
    alone = ("unshare", "--user", "--map-root-user", "--net")
    assert network_of(tmp_path, *alone, namespaces=False).startswith("no network here, and seccomp")
    assert network_of(tmp_path, *alone, namespaces=True) == "a network namespace of its own"


@pytest.mark.parametrize(
    ("confinement", "holds", "told"),
    [
        (Confinement(True, privileges=True), True, "a network namespace of its own; read-only"),
        (
            Confinement(privileges=True, seccomp=True, landlock=True),
            True,
            "seccomp and blocked Python sockets; only the libraries and the model, read-only",
        ),
        (
            Confinement(seccomp=True, no_network=True),
            False,
            "no network here, and seccomp and blocked Python sockets; not restricted",
        ),
        (
            Confinement(landlock=True),
            False,
            "blocked Python sockets; only the libraries and the model, read-only",
        ),
        (
            Confinement(seccomp=True, landlock=True),
            False,
            "seccomp and blocked Python sockets; only the libraries and the model, read-only",
        ),
        (Confinement(), False, "blocked Python sockets; not restricted"),
    ],
)
def test_only_steps_that_hold_are_told(confinement: Confinement, holds: bool, told: str) -> None:
    """Code is confined where it reaches neither the network nor the files."""
    assert (confinement.holds, f"{confinement.network}; {confinement.disk}") == (holds, told)
