"""What is around a check: secrets, sockets, processes and files of the same user, and what became of them.

Everything is made by the user as whom the check will run, in the surroundings in which it will.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import re
import resource
import secrets
import select
import socket
import struct
import subprocess
import termios
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from modelcache.check.probes import Answer, Observation, Probe, observation_to_json
from tests.support.hostile.models import ENDED, GOT

MARK = "s3cret-of-this-user"
"""In every secret."""
TYPED = "echo typed-by-a-model"
DEEP = "deep"
NEVER = "acme/never-checked"
_ROW = f"  proven   {NEVER:<52}   0.1 s  400 MB  embedding  32  max 64  cosine"
FORGED = f"no\n{_ROW}\r{_ROW}\u2028{_ROW}\x1b[2J\x1b]0;{NEVER}\x07\x9b2J\u202e{NEVER}"
"""An exception's words: rows after every kind of line end, and letters that a terminal obeys."""
HONEST = {"acme/first": 64, "zeta/last": 64}
"""The honest models, before and after all others, and the tokens that they read."""

_libc = ctypes.CDLL(None, use_errno=True)


def good_answer() -> str:
    """What a model that loads answers, in the words that go from one process to another."""
    answer = Answer(Probe("The court"), array("f", [0.5] * 32))
    seen = Observation(
        seconds=0.1, peak_memory=1 << 28, dimension=32, max_seq_length=ENDED, similarity="cosine", dtype="float32"
    )
    return json.dumps(
        observation_to_json(seen) | {"answers": observation_to_json(Observation(answers=[answer]))["answers"]}
    )


@dataclass(frozen=True)
class Run:
    """How a check, or a plain load of the same models, ended."""

    text: str
    """All that came on the terminal."""
    exit_code: int
    memory: int
    """The most that one of its processes had, in bytes."""
    most: int
    """The most bytes that were in its directory for temporary files."""

    @cached_property
    def _lines(self) -> list[str]:
        """The lines that stay on the terminal: what was drawn before them has been written over."""
        return [line.split("\r")[-1] for line in self.text.replace("\r\n", "\n").split("\n")]

    @cached_property
    def rows(self) -> dict[str, tuple[str, int]]:
        """What is said of each model, and how many tokens it reads; 0 where it did not load."""
        found = re.findall(
            r"^ +(\w+) +(\S+/\S+) +(?:[\d.]+ s +\d+ MB +)?(?:embedding|reranker)(?:.* max (\d+))?",
            "\n".join(self._lines),
            re.MULTILINE,
        )
        return {name: (event, int(limit or 0)) for event, name, limit in found}

    @cached_property
    def spoken(self) -> set[str]:
        """The models that wrote into a pipe that is not theirs; only a plain load tells."""
        return {line.split()[1] for line in self._lines if line.startswith("  spoken ")}

    def got(self, name: str) -> bool:
        """Whether a model says that it got something."""
        return self.rows.get(name, ("", 0))[1] == GOT

    def passed(self, name: str) -> bool:
        """Whether a model was found to be right."""
        return self.rows.get(name, ("", 0))[0] in ("proven", "unproven", "recorded")

    def tried(self, name: str) -> bool:
        """Whether a model's payload ran to its end, or its process was ended for it; all else proves nothing."""
        if self.rows.get(name, ("", 0))[1] in (ENDED, GOT):
            return True
        reasons = self.text.partition(f"{name} does not pass:")[2].split("does not pass:")[0]
        return self.rows.get(name, ("", 0))[0] == "failed" and bool(reasons) and "ModuleNotFoundError" not in reasons

    @property
    def spoiled(self) -> bool:
        """Whether it ended in no way that it should, or told something wrong of an honest model."""
        right = all(self.passed(name) and self.rows[name][1] == limit for name, limit in HONEST.items())
        return self.exit_code not in (0, 5, 6) or not right or "Traceback" in self.text

    @property
    def swollen(self) -> bool:
        """Whether a process had more memory than the libraries and a model take: what models wrote."""
        peaks = [int(number) << 20 for number in re.findall(r" s +(\d+) MB  ", "\n".join(self._lines))]
        return self.memory > max(peaks, default=self.memory) + (100 << 20)

    @property
    def killed(self) -> bool:
        """Whether something ended the process that was started."""
        return self.exit_code < 0

    @property
    def forged(self) -> bool:
        """Whether a line, for any reader of lines, is one that nothing but a model said, or a terminal obeyed it."""
        lines = re.split(r"[\n\r\v\f\x85\u2028\u2029]", self.text.replace("\r\n", "\n"))
        return bool(re.search("[\x1b\x9b\u202e]", self.text)) or any(
            re.match(rf" *\w+ +{NEVER}", line) for line in lines
        )


@dataclass
class Outside:
    """One user's home, and what else is that user's."""

    home: Path
    _sockets: dict[str, socket.socket] = field(default_factory=dict)
    _fifos: dict[str, int] = field(default_factory=dict)
    _processes: dict[str, tuple[subprocess.Popen[bytes], object]] = field(default_factory=dict)
    _files: dict[str, tuple[Path, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.number = os.getpid()
        self.token = f"hostile{secrets.token_hex(3)}"
        self.temporary.mkdir(exist_ok=True)
        self._text = ctypes.create_string_buffer(b"untouched")
        self.descriptor = os.open(self.home, os.O_TMPFILE | os.O_RDWR)
        self._host = socket.gethostname()

    @property
    def temporary(self) -> Path:
        """Where check has its temporary files."""
        return self.home / "tmp"

    @property
    def root(self) -> Path:
        """Where the models are."""
        return self.home / "root"

    def folder(self, model: str) -> Path:
        """Where one is published."""
        return self.root / "cached_embedding_models" / model.replace("/", "__")

    # Files

    def file(self, name: str) -> str:
        """Make a file in the home."""
        path = self.home / name
        path.write_text("untouched")
        self._files[name] = path, _state(path)
        return str(path)

    def folder_of(self, name: str) -> str:
        """Make a directory with a file in the home."""
        (self.home / f"folder of {name}").mkdir()
        self.file(f"folder of {name}/{name}")
        self._files[name] = self._files.pop(f"folder of {name}/{name}")
        return str(self.home / f"folder of {name}")

    def altered(self, name: str) -> bool:
        """Whether a file is no more what it was."""
        path, before = self._files[name]
        return _state(path) != before

    @property
    def victim(self) -> Path:
        """A file of a model that others want to change."""
        return self.folder("zeta/last") / "README.md"

    def victim_altered(self) -> bool:
        """Whether they did."""
        return self.victim.read_bytes() != (self.home / "models" / "last" / "README.md").read_bytes()

    @property
    def places(self) -> list[Path]:
        """Where files might be left."""
        return [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), self.home, self.temporary]

    def deep_left(self) -> bool:
        """Whether a directory of a model's is still among the temporary files."""
        return bool([*self.temporary.glob(DEEP), *self.temporary.glob(f"*/{DEEP}")])

    @cached_property
    def shared(self) -> str:
        """A file of shared memory."""
        path = Path(f"/dev/shm/{self.token}-shared")
        path.write_text("untouched")
        self._files["alters_shared_memory"] = path, _state(path)
        return str(path)

    # Secrets

    @cached_property
    def credentials(self) -> list[str]:
        """Files in which people have passwords."""
        names = (
            ".netrc", ".gitconfig", ".git-credentials", ".config/gh/hosts.yml", ".config/pip/pip.conf", ".env",
            ".config/gcloud/application_default_credentials.json", ".ssh/id_ed25519", ".cache/huggingface/token",
        )  # fmt: skip
        for name in names:
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(MARK)
        return [str(self.home / name) for name in names]

    @cached_property
    def key(self) -> int:
        """A key in the keyring of this session, which is one of its own."""
        add, control = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
        _libc.syscall(control, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING
        return int(_libc.syscall(add, b"user", self.token.encode(), MARK.encode(), len(MARK), -3))

    # Sockets

    def tcp(self, name: str) -> int:
        """Listen over TCP; return the port."""
        self._sockets[name] = socket.create_server(("127.0.0.1", 0))
        return int(self._sockets[name].getsockname()[1])

    def udp(self, name: str) -> int:
        """Listen over UDP; return the port."""
        self._sockets[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets[name].bind(("127.0.0.1", 0))
        return int(self._sockets[name].getsockname()[1])

    def agent(self, name: str) -> str:
        """Listen as ssh-agent does; return the path."""
        return self._local(name, socket.SOCK_STREAM, str(self.home / name))

    def log(self, name: str) -> str:
        """Listen as syslog does; return the path."""
        return self._local(name, socket.SOCK_DGRAM, str(self.home / name))

    def abstract(self, name: str) -> str:
        """Listen under a name that is no path; return it."""
        return self._local(name, socket.SOCK_STREAM, f"\0{self.token}")[1:]

    def _local(self, name: str, kind: socket.SocketKind, address: str) -> str:
        self._sockets[name] = socket.socket(socket.AF_UNIX, kind)
        self._sockets[name].bind(address)
        if kind is socket.SOCK_STREAM:
            self._sockets[name].listen()
        return address

    def fifo(self, name: str) -> str:
        """Read a FIFO; return the path."""
        os.mkfifo(self.home / name)
        self._fifos[name] = os.open(self.home / name, os.O_RDONLY | os.O_NONBLOCK)
        return str(self.home / name)

    def reached(self, name: str) -> bool:
        """Whether anything arrived."""
        if name in self._fifos:
            with suppress(BlockingIOError):
                return bool(os.read(self._fifos[name], 1))
            return False
        listening = self._sockets[name]
        listening.setblocking(False)
        with suppress(BlockingIOError):
            if listening.type is socket.SOCK_DGRAM:
                listening.recv(1)
            else:
                listening.accept()
            return True
        return False

    # Processes

    def process(self, name: str) -> int:
        """Start a process; return its number."""
        started = subprocess.Popen(["sleep", "1000"])
        self._processes[name] = started, _standing(started.pid)
        return started.pid

    def unharmed(self, name: str) -> bool:
        """Whether it runs, with all that it had."""
        started, before = self._processes[name]
        return started.poll() is None and _standing(started.pid) == before

    @cached_property
    def segment(self) -> int:
        """A segment of shared memory as System V has it; IPC_PRIVATE, and removed with the last who is attached."""
        number = int(_libc.shmget(0, 4096, 0o1600))
        _libc.shmat.restype = ctypes.c_void_p
        self._attached = _libc.shmat(number, None, 0)
        return number

    def segment_altered(self) -> bool:
        """Whether somebody wrote into it."""
        return ctypes.string_at(self._attached, 1) != b"\0"

    @property
    def address(self) -> int:
        """Where this process has a text."""
        return ctypes.addressof(self._text)

    def memory_altered(self) -> bool:
        """Whether the text is another one."""
        return self._text.value != b"untouched"

    def written(self) -> bool:
        """Whether somebody wrote into the file without a name that this process has open."""
        return os.fstat(self.descriptor).st_size > 0

    def lives(self, name: str) -> bool:
        """Whether a process that calls itself so is still seen; the kernel may need a moment to end it."""
        began = seen = time.monotonic()
        while (now := time.monotonic()) < began + 4 and now < seen + 1:
            if any(f"({name})" in text and ") Z " not in text for text in _stats()):
                seen = now
        return now < seen + 1

    # The machine

    def host_renamed(self) -> bool:
        """Whether the machine has another name."""
        return socket.gethostname() != self._host

    def kernel_set(self, number: int) -> bool:
        """Whether a setting of the kernel has this value."""
        return Path("/proc/sys/kernel/msgmax").read_text().strip() == str(number)

    def close(self) -> None:
        """End what was started, and remove what lies outside the home."""
        for started, _ in self._processes.values():
            started.kill()
            started.wait()
        for path in (Path(self.shared), *(place / self.token for place in self.places)):
            path.unlink(missing_ok=True)
        for listening in self._sockets.values():
            listening.close()


def _state(path: Path) -> object:
    try:
        stat = path.stat()
        return path.read_bytes(), stat.st_mode, stat.st_mtime_ns, stat.st_nlink, os.listxattr(path)
    except FileNotFoundError:
        return None


def _standing(number: int) -> object:
    return (
        os.getpriority(os.PRIO_PROCESS, number),
        os.sched_getscheduler(number),
        resource.prlimit(number, resource.RLIMIT_NOFILE),
    )


def _stats() -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):  # it has ended
            found.append(Path(f"/proc/{name}/stat").read_text())
    return found


def on_a_terminal(command: list[str], folder: Path, env: Mapping[str, str], temporary: Path) -> Run:
    """Run a command as on a terminal of its own, which is so wide that no line is broken; measure what it uses."""
    child, terminal = pty.fork()
    if not child:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 2000, 0, 0))
        os.chdir(folder)
        os.execve(command[0], command, {**env, "NO_COLOR": "1"})
    text, most, status = bytearray(), 0, 0
    while child:
        if select.select([terminal], [], [], 0.02)[0]:
            with suppress(OSError):  # everybody has closed it
                text += os.read(terminal, 1 << 16)
        space = os.statvfs(temporary)
        most = max(most, (space.f_blocks - space.f_bfree) * space.f_frsize)
        ended, status, used = os.wait4(child, os.WNOHANG)
        child -= ended
    while select.select([terminal], [], [], 0)[0]:
        try:
            text += os.read(terminal, 1 << 16)
        except OSError:
            break
    os.close(terminal)
    return Run(text.decode(errors="replace"), os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, most)
