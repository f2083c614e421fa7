"""The sandbox of a model's code, step by step: what is refused by which, what goes on working."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from modelcache.check import library_paths, seccomp
from modelcache.check.confinement import Confinement
from modelcache.system.syscalls import CALL_NUMBERS, call
from tests.conftest import PROJECT
from tests.support.sandboxed import SURROUNDINGS, namespaces_are_permitted, needs_namespaces, said_by

SURROUNDED = pytest.mark.parametrize("namespaces", SURROUNDINGS)

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


@SURROUNDED
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


@SURROUNDED
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


@SURROUNDED
def test_a_path_through_links_leads_to_the_same_place(tmp_path: Path, namespaces: bool) -> None:
    """The root may be a link, or lie behind one, relative or not, as /var/run does."""
    (tmp_path / "real/models/one").mkdir(parents=True)
    (tmp_path / "real/models/one/config.json").write_text("x")
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real/relative").symlink_to("../absolute/models")
    lines = (
        "model = outside / 'absolute/relative/one'\n"
        "said['read'] = asked(lambda: (model / 'config.json').read_text(), model=model)"
    )
    assert said_by(lines, tmp_path, namespaces=namespaces) == {"read": "x"}


@SURROUNDED
@pytest.mark.parametrize("place", ["back", "aside"])
def test_a_path_may_lead_through_a_directory_and_back(tmp_path: Path, namespaces: bool, place: str) -> None:
    """`--root ../models` in a directory of which nothing else is shown, or a link with such a target."""
    for folder in ("models/one", "other/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/one/config.json").write_text("x")
    (tmp_path / "aside").symlink_to("other/deep/../../models")
    (tmp_path / "back").symlink_to(tmp_path)
    place = "other/../models" if place == "back" else place
    lines = f"model = outside / {place!r} / 'one'\nsaid['it'] = asked((model / 'config.json').read_text, model=model)"
    assert said_by(lines, tmp_path, namespaces=namespaces) == {"it": "x"}


@SURROUNDED
def test_models_may_lie_in_shared_memory(tmp_path: Path, namespaces: bool) -> None:
    """A root there is in memory; other things in /dev/shm are not shown."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        model = Path(folder, "root/one")
        model.mkdir(parents=True)
        (model / "config.json").write_text("x")
        lines = f"model = Path({str(model)!r})\nsaid['it'] = asked((model / 'config.json').read_text, model=model)"
        assert said_by(lines, tmp_path, namespaces=namespaces) == {"it": "x"}


@needs_namespaces
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount something there")
@pytest.mark.parametrize("made", ["mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3", "mkdir -p $SCRATCH"])
def test_a_root_can_be_made_in_odd_surroundings(tmp_path: Path, made: str) -> None:
    """A chroot with few devices; a directory for temporary files within the libraries."""
    start = ["unshare", "--mount", "sh", "-c", f'{made}; exec "$@"', "sh"]
    place = tmp_path / "site-packages/it"
    place.mkdir(parents=True)
    lines = "said['it'] = asked(lambda: (scratch / 'x').write_text('x'))"
    env = {"SCRATCH": str(place / "scratch"), "PYTHONPATH": str(tmp_path / "site-packages")}
    assert said_by(lines, place, namespaces=True, start=start, env=env) == {"it": 1}


@needs_namespaces
@pytest.mark.skipif(os.getuid() != 0, reason="only root can cover something there")
def test_facts_of_the_machine_are_shown_where_proc_cannot_be_mounted(tmp_path: Path) -> None:
    """Parts of it are covered in a container, so the kernel gives out no other one."""
    cover = 'mount --bind /dev/null /proc/cmdline && exec unshare --user --map-root-user --mount "$@"'
    start = ["unshare", "--mount", "sh", "-c", cover, "sh"]
    lines = (
        "names = ('meminfo', 'sys/vm/overcommit_memory', 'self/status', '1')\n"
        "said['there'] = asked(lambda: [name for name in names if Path('/proc', name).exists()])"
    )
    said = said_by(lines, tmp_path, namespaces=True, start=start)
    assert said == {"there": ["meminfo", "sys/vm/overcommit_memory"]}


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


@SURROUNDED
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


@SURROUNDED
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
@SURROUNDED
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


# The filter itself, interpreted as the kernel does (linux/filter.h), for both architectures.

ARM = {
    "socket": 198,
    "fcntl": 25,
    "prctl": 167,
    "getsockopt": 209,
    "clone3": 435,
    "openat": 56,
    "clone": 220,
    "ioctl": 29,
    "kill": 129,
    "sendto": 206,
    "utimensat": 88,
    "mount": 40,
}


def answer_of(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter over one call; return the errno of its answer, 0 where it pretends, -1 where it lets it through."""
    words = struct.pack("<iIQ6Q", number, architecture, 0, *(*arguments, *[0] * (6 - len(arguments))))
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        what, jump_true, jump_false, operand = code[at]
        at += 1
        if what == 0x20:
            (accumulator,) = struct.unpack_from("<I", words, operand)
        elif what == 0x54:
            accumulator &= operand
        elif what == 0x06:
            return -1 if operand == 0x7FFF0000 else operand & 0xFFFF
        else:
            true = {0x15: accumulator == operand, 0x25: accumulator > operand}[what]
            at += jump_true if true else jump_false


@pytest.mark.parametrize("numbers", [ARM, CALL_NUMBERS], ids=["aarch64", "here"])
@pytest.mark.parametrize(
    ("call", "arguments", "namespaces", "answer"),
    [
        ("mount", (), True, errno.EPERM),
        ("clone", (0x01200011,), True, -1),  # as fork does
        ("clone", (0x3D0F00,), True, -1),  # as pthread_create does
        ("clone", (0x10000011,), True, errno.EPERM),
        ("ioctl", (0, 0x5401), True, -1),
        ("ioctl", (0, 0x5412), True, errno.ENOTTY),
        ("ioctl", (0, 0x1_0000_5412), True, errno.ENOTTY),  # the kernel reads 32 bits
        ("kill", (1, 9), True, -1),
        ("kill", (1, 9), False, errno.EPERM),
        ("kill", (4711, 9), False, -1),
        ("kill", (0xFFFFFFFF, 9), False, errno.EPERM),  # everybody
        ("sendto", (0, 0, 0, 0, 0), False, -1),
        ("sendto", (0, 0, 0, 0, 0x1_0000_0000), False, errno.EPERM),
        ("sendto", (0, 0, 0, 0, 0x1), False, errno.EPERM),
        ("socket", (2, 1, 0), True, -1),
        ("socket", (40, 1, 0), True, errno.EAFNOSUPPORT),  # virtual machines' sockets
        ("fcntl", (0, 2, 1), False, -1),
        ("fcntl", (0, 8, 1), True, -1),
        ("fcntl", (0, 8, 1), False, errno.EPERM),
        ("fcntl", (0, 1024, 0), True, errno.EPERM),
        ("prctl", (1, 0), False, errno.EPERM),
        ("prctl", (15, 0), False, -1),
        ("getsockopt", (0, 132, 111), False, errno.EPERM),
        ("clone3", (0, 88), True, errno.ENOSYS),
        ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), False, errno.EPERM),
        ("openat", (0, 0, os.O_WRONLY | os.O_TRUNC | os.O_CREAT), False, -1),  # which Landlock sees
        ("openat", (0, 0, os.O_RDONLY), False, -1),
        ("openat", (0, 0, 3), False, errno.EPERM),
        ("openat", (0, 0, 3 | os.O_TRUNC), False, errno.EPERM),
        ("clone", (0x11,), False, errno.EPERM),
        ("clone", (0,), False, errno.EPERM),
        ("clone", (0x3D0F00,), False, -1),
        ("utimensat", (0, 0, 0x7FFF_0000_0000), False, 0),
        ("utimensat", (0, 0, 0), False, errno.EPERM),
    ],
)
def test_the_filter_answers(
    numbers: dict[str, int], call: str, arguments: tuple[int, ...], namespaces: bool, answer: int
) -> None:
    """Conditions look at the bits that the kernel looks at; a pointer has 64."""
    program = seccomp.program(seccomp.rules(namespaces=namespaces, process=4711), numbers, 0xC00000B7)
    assert answer_of(program, 0xC00000B7, numbers[call], *arguments) == answer


def test_other_architectures_and_newer_calls_are_unknown_to_the_filter() -> None:
    """A 32-bit program has other numbers for the same calls, and x32 others again."""
    program = seccomp.program(seccomp.rules(namespaces=False, process=4711), CALL_NUMBERS, 0xC000003E)
    assert answer_of(program, 0x40000003, 1) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 0x40000000 | 165) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 463) == errno.ENOSYS
    assert answer_of(program, 0xC000003E, 0) == -1


@pytest.mark.parametrize("namespaces", [True, False])
def test_every_rule_names_a_call_that_is_known(namespaces: bool) -> None:
    """A misspelled name would let its call through; AArch64 lacks only the old forms."""
    names = {rule.name for rule in seccomp.rules(namespaces=namespaces, process=1)}
    if CALL_NUMBERS.get("mount") == 165:
        assert names <= CALL_NUMBERS.keys()


def test_of_a_project_on_the_path_only_modules_are_shown(tmp_path: Path) -> None:
    """`PYTHONPATH=.` in a repository with a .env, a .git and models beside the code."""
    for folder in ("package", ".git", "cached_embedding_models/one", "data", "tool-1.0.dist-info"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "module.py",
        "package/__init__.py",
        ".env",
        "secrets.json",
        ".git/config.py",
        "data/x.json",
        "native.so",
    ):
        (tmp_path / file).touch()
    shown = {path.name for path in library_paths._importable(tmp_path)}
    assert shown == {"module.py", "package", "native.so", "tool-1.0.dist-info"}


def test_of_a_namespace_package_only_packages_are_shown(tmp_path: Path) -> None:
    """It has no file of its own and may be spread over several places (PEP 420), with other things around."""
    for file in ("spread/over/many/__init__.py", "spread/.env", "spread/models/one/modeling.py", "a.b/c/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert list(library_paths._importable(tmp_path)) == [tmp_path / "spread/over/many"]


def test_installed_packages_may_be_links(tmp_path: Path) -> None:
    """`flit install --symlink` links a package, `uv --link-mode=symlink` each file of one."""
    site, cache = tmp_path / "site-packages", tmp_path / "cache/one"
    for folder in (site / "one-1.dist-info", cache / "one-1.dist-info", cache / "one", tmp_path / "project/two"):
        folder.mkdir(parents=True)
    for file in (cache / "one-1.dist-info/METADATA", cache / "one/__init__.py", cache / "secret"):
        file.touch()
    (site / "two").symlink_to(tmp_path / "project/two")
    (site / "one-1.dist-info/METADATA").symlink_to(cache / "one-1.dist-info/METADATA")
    assert sorted(library_paths._importable(site)) == sorted(
        [site, site / "two", cache / "one", cache / "one-1.dist-info"]
    )


def test_of_libraries_within_libraries_only_the_outermost_are_shown(tmp_path: Path) -> None:
    """Each costs a mount for every model; another one is behind each symbolic link, and must stay."""
    for folder in ("lib/one/two", "elsewhere/three"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "library").touch()
    names = ("lib/one/two", "lib/one", "lib", "lib/link", "lib/link/three", "library", "absent")
    shown = library_paths._outermost(str(tmp_path / name) for name in names)
    assert sorted(shown) == [tmp_path / "lib", tmp_path / "lib/link", tmp_path / "library"]


def test_an_editable_installation_is_shown_before_it_is_imported() -> None:
    """Its folder is on no path: a finder of setuptools knows where it is."""
    finder = ModuleType("__editable___one_1_finder")
    finder.__dict__["MAPPING"] = {"one": "/project/one", "single": "/project/single"}
    shown = set(library_paths._imported([finder]))
    assert {Path("/project/one"), Path("/project/single.py")} <= shown


@SURROUNDED
def test_what_was_not_imported_yet_can_be(tmp_path: Path, namespaces: bool) -> None:
    """Python lists the places on its path; of a project's own only parts are shown."""
    for file in ("place/package/__init__.py", "place/spread/one/__init__.py", "place/one-1.dist-info/METADATA"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("Version: 1" if file.endswith("METADATA") else "")
    said = said_by(
        "import importlib\n"
        "from importlib import metadata\n"
        "names = ['package', 'spread.one']\n"
        "said['imported'] = asked(lambda: [importlib.import_module(name).__name__ for name in names])\n"
        "said['version'] = asked(lambda: metadata.version('one'))\n",
        tmp_path,
        namespaces=namespaces,
        env={"PYTHONPATH": str(tmp_path / "place")},
    )
    assert said == {"imported": ["package", "spread.one"], "version": "1"}


def test_a_virtual_environment_shows_no_settings_of_pip() -> None:
    """pip.conf beside its libraries may hold the password of an index."""
    shown = library_paths.library_paths()
    assert not any(Path(sys.prefix, "pip.conf").is_relative_to(path) for path in shown)
    assert not any(Path(sys.prefix, "bin/activate").is_relative_to(path) for path in shown)
    assert any(Path(os.__file__).is_relative_to(path) for path in shown)


def network_of(tmp_path: Path, *start: str, namespaces: bool) -> str:
    """Return how the network is cut for a process in the sandbox, in its own words."""
    lines = "said['it'] = json.loads(run_isolated(lambda held: json.dumps(held.network), sandbox, None, 30))"
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
            "seccomp and Python sockets that refuse; the libraries and the model read-only, no more",
        ),
        (
            Confinement(seccomp=True, no_network=True),
            False,
            "no network here, and seccomp and Python sockets that refuse; as readable and writable as it was",
        ),
        (
            Confinement(landlock=True),
            False,
            "Python sockets that refuse; the libraries and the model read-only, no more",
        ),
        (
            Confinement(seccomp=True, landlock=True),
            False,
            "seccomp and Python sockets that refuse; the libraries and the model read-only, no more",
        ),
        (Confinement(), False, "Python sockets that refuse; as readable and writable as it was"),
    ],
)
def test_only_steps_that_hold_are_told(confinement: Confinement, holds: bool, told: str) -> None:
    """Code is confined where it reaches neither the network nor the files."""
    assert (confinement.holds, f"{confinement.network}; {confinement.disk}") == (holds, told)
