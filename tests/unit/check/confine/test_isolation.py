"""Work in a process of its own: whatever becomes of it is told, and nothing of it stays."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from tests.conftest import SOON
from tests.support.sandboxed import WITH_AND_WITHOUT_NAMESPACES, said_by

pytestmark = WITH_AND_WITHOUT_NAMESPACES

LEAVE_BEHIND = """
NUMBER = os.environ["NUMBER"]

def leave_behind():
    "Start a process with every descriptor, in a session of its own, and do not wait for it; leave files, too."
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.execlp("sleep", "sleep", NUMBER)
        os._exit(0)
    Path("left").mkdir()
    Path("left/file").write_text("x")
    deep = os.getcwd()
    for _ in range(1500):
        os.mkdir("deep")
        os.chdir("deep")
    os.mkdir("closed", 0)
    return "done"

def running(word):
    "Return the processes with this word in their command lines."
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [place.parent.name] if word.encode() in place.read_bytes() else []
        except OSError:
            pass
    return found
"""


def number() -> dict[str, str]:
    """Return a number that no other test, and no other run of the suite, has in a command line: seconds to sleep."""
    return {"NUMBER": f"4711.{uuid.uuid4().int}"}


def test_an_answer_of_any_sensible_length_arrives(tmp_path: Path, namespaces: bool) -> None:
    """Longer than a pipe holds."""
    said = said_by("said['length'] = len(asked(lambda: 'é' * 2_000_000))", tmp_path, namespaces=namespaces)
    assert said["length"] == 2_000_000


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("os.kill(os.getpid(), 9)", "its process ended by signal 9; is there too little memory?"),
        ("os.kill(os.getpid(), 11)", "its process ended by signal 11"),
        ("os._exit(3)", "its process ended with exit code 3"),
        ("os._exit(0)", "its process ended with exit code 0"),
        (
            "(print('terminate called', flush=True), os.abort())",
            "its process ended by signal 6; it printed last: terminate called",
        ),
        ("tried(lambda: os.kill(os.getppid(), 9)) in (0, 1)", True),  # a first process is not killed from within
        ("os.write(3, b'x' * (17 << 20))", "its answer is longer than 16 MiB"),
    ],
    ids=["killed", "crashed", "left", "left in peace", "aborted", "killed the waiting one", "endless"],
)
def test_a_crash_is_told_and_the_next_one_is_asked(
    tmp_path: Path, namespaces: bool, job: str, told: str | bool
) -> None:
    """By number, as a shell would; killed is mostly killed for its memory."""
    lines = f"said |= {{'first': asked(lambda: {job}), 'next': asked(lambda: 'here')}}"
    assert said_by(lines, tmp_path, namespaces=namespaces) == {"first": told, "next": "here"}


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, namespaces: bool) -> None:
    """A model that waits for ever must not keep the others waiting."""
    began = time.monotonic()
    lines = "said |= {'first': asked(lambda: time.sleep(4711), 0.5), 'next': asked(lambda: 'here')}"
    said = said_by(lines, tmp_path, namespaces=namespaces)
    assert (said["first"], said["next"]) == ("it gave no answer within 0.5 s", "here")
    assert time.monotonic() - began < SOON


def test_nothing_of_it_stays(tmp_path: Path, namespaces: bool) -> None:
    """Neither a process in a session of its own that holds the pipe, nor files, however deep and closed.

    Where there are no namespaces, only a kernel without filters lets a model's code start a process.
    """
    said = said_by(
        LEAVE_BEHIND + "said |= {'first': asked(leave_behind), 'left': os.listdir(scratch)}\n"
        "said['running'] = running(NUMBER)",
        tmp_path,
        namespaces=namespaces,
        env=number(),
        lacking="" if namespaces else "seccomp",
    )
    assert said["first"] in ("done", "it wrote more files than it may")  # too deep to be counted
    assert (said["left"], said["running"]) == ([], [])


def test_a_storm_of_forks_ends(tmp_path: Path, namespaces: bool) -> None:
    """Processes that do nothing but leave another one and end, so that each has gone when it is looked for."""
    said = said_by(
        LEAVE_BEHIND + "def storm():\n"
        "    for _ in range(20):\n"
        "        if not os.fork():\n"
        "            lines = 'f() { (f &) ; }; f; while :; do (sleep 0.001 &); done'\n"
        "            os.execlp('sh', 'sh', '-c', lines, 'storm', NUMBER)\n"
        "    time.sleep(0.3)\n"
        "    return 'done'\n"
        "said['first'] = asked(storm)\n"
        "said['running'] = running(NUMBER)",
        tmp_path,
        namespaces=namespaces,
        env=number(),
        lacking="" if namespaces else "seccomp",
    )
    assert said == {"first": "done", "running": []}


def test_without_namespaces_it_is_one_process(tmp_path: Path, namespaces: bool) -> None:
    """A process that forks faster than it can be found would stay; threads are no matter."""
    lines = (
        "import threading\n"
        "def thread():\n"
        "    one = threading.Thread(target=lambda: None); one.start(); one.join()\n"
        "ways = {'fork': os.fork, 'spawn': lambda: os.posix_spawn('/bin/true', ['true'], {}), 'thread': thread,\n"
        "    'bare': lambda: call('clone', 0, None, None, None, 0) or os._exit(0)}\n"
        "if sandbox.namespaces: del ways['fork']\n"
        "said['it'] = asked(lambda: {name: tried(way) for name, way in ways.items()})"
    )
    said = said_by(lines, tmp_path, namespaces=namespaces)["it"]
    assert said == ({} if namespaces else {"fork": 1}) | dict.fromkeys(("spawn", "bare"), 1 - namespaces) | {
        "thread": 0
    }


def test_it_ends_with_the_process_that_wanted_it(tmp_path: Path, namespaces: bool) -> None:
    """Also where that one is killed: its answer is not wanted any more."""
    lines = (
        LEAVE_BEHIND + "asker = os.fork()\n"
        "if not asker:\n"
        "    asked(lambda: os.execlp('sleep', 'sleep', NUMBER))\n"
        "while not running(NUMBER): time.sleep(0.01)\n"
        "os.kill(asker, signal.SIGKILL)\n"
        "os.waitpid(asker, 0)\n"
        "until = time.monotonic() + 15\n"
        "while running(NUMBER) and time.monotonic() < until: time.sleep(0.01)\n"
        "said['running'] = running(NUMBER)"
    )
    assert said_by(lines, tmp_path, namespaces=namespaces, env=number()) == {"running": []}


def test_the_process_has_a_session_of_its_own_and_no_privileges(tmp_path: Path, namespaces: bool) -> None:
    """No terminal, no capability, no program that gives one back, no dump of its memory, no file beyond the bound."""
    lines = (
        "def state():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    told = dict(line.split(':\\t') for line in lines if ':\\t' in line)\n"
        "    wanted = ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')\n"
        "    bounding = told['CapBnd'] if os.getuid() == 0 or sandbox.namespaces else '0'\n"
        "    limits = [resource.getrlimit(of)[1] for of in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)]\n"
        "    sets = [int(told[name], 16) for name in wanted]\n"
        "    return [os.getsid(0) == os.getpid(), told['NoNewPrivs'], sets, int(bounding, 16), *limits]\n"
        "said['it'] = asked(state)"
    )
    said = said_by(lines, tmp_path, namespaces=namespaces)
    assert said["it"] == [True, "1", [0, 0, 0, 0], 0, 0, 256 << 20]


def test_files_that_cannot_be_counted_count_as_too_many(namespaces: bool) -> None:
    """A directory that is closed to its owner could hold anything; with namespaces the kernel counts."""
    lines = (
        "if os.getuid() == 0 and not sandbox.namespaces: os.setgid(54321); os.setuid(54321)\n"
        "def hidden():\n"
        "    os.mkdir('closed', 0o300)\n"
        "    Path('closed/file').touch()\n"
        "    time.sleep(2)\n"
        "said['first'] = asked(hidden)\n"
        "said['left'] = os.listdir(scratch)"
    )
    with tempfile.TemporaryDirectory() as folder:  # which another user reaches
        for place in (Path(folder), Path(folder, "scratch")):
            place.mkdir(exist_ok=True)
            place.chmod(0o777)
        said = said_by(lines, Path(folder), namespaces=namespaces)
    assert said == {"first": None if namespaces else "it wrote more files than it may", "left": []}


def test_much_to_say_is_not_slowed_down_by_many_files(tmp_path: Path, namespaces: bool) -> None:
    """The scratch directory is looked at now and then, not at each word."""
    lines = (
        "import modelcache.check.confine.sandbox as counted\n"
        "counts, overfull = [], Sandbox.overfull\n"
        "Sandbox.overfull = lambda self: counts.append(1) or overfull(self)\n"
        "def flood():\n"
        "    for _ in range(2000): os.write(1, b'x' * 4096)\n"
        "asked(flood)\n"
        "said['counts'] = len(counts)"
    )
    assert said_by(lines, tmp_path, namespaces=namespaces)["counts"] < 100


def test_a_flood_of_words_is_read_and_dropped(tmp_path: Path, namespaces: bool) -> None:
    """Hundreds of megabytes on stdout neither stop the job nor take memory."""
    said = said_by(
        "def flood():\n"
        "    for _ in range(300): os.write(1, b'x' * (1 << 20))\n"
        "    return 'done'\n"
        "said['first'] = asked(flood)\n"
        "said['peak'] = int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]) * 1024",
        tmp_path,
        namespaces=namespaces,
    )
    assert said["first"] == "done"
    assert said["peak"] < 100e6


@pytest.mark.parametrize(
    "fill",
    [
        "[Path(str(n)).write_bytes(b'x' * (1 << 20)) for n in range(400)]",
        "[Path(str(n)).touch() for n in range(20_000)]",
        "Path('one').write_bytes(b'x' * (300 << 20))",
    ],
    ids=["many", "empty ones", "a large one"],
)
def test_a_full_scratch_directory_is_an_end(tmp_path: Path, namespaces: bool, fill: str) -> None:
    """It holds 256 MiB and 16,384 files, and the machine's disk holds no more of it; then it is empty again."""
    lines = (
        f"said['first'] = asked(lambda: [tried(lambda: {fill}), time.sleep(2)][0])\nsaid['left'] = os.listdir(scratch)"
    )
    said = said_by(lines, tmp_path, namespaces=namespaces)
    assert said["first"] in ("it wrote more files than it may", 27, 28)  # EFBIG, ENOSPC
    assert said["left"] == []


EVERY_PROCESS = """
asker, others = os.getpid(), []
def look(name):
    "Yield what can be opened of this name below each process there may be; the listing of /proc may be closed."
    for number in {os.getpid(), os.getppid(), os.getppid() + 1, *range(1, 50), *range(asker, asker + 50), *others}:
        place = Path(f"/proc/{number}/{name}")
        try:
            yield from ((number, one) for one in (sorted(place.iterdir()) if name == "fd" else [place]))
        except OSError:
            pass
"""


def test_each_job_has_pipes_of_its_own(tmp_path: Path, namespaces: bool) -> None:
    """A model's code finds its answer and its words open; another process's pipes cannot be opened."""
    said = said_by(
        EVERY_PROCESS + "def open_ones():\n"
        "    found = []\n"
        "    for number, place in look('fd'):\n"
        "        try:\n"
        "            os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))\n"
        "            found.append([number == os.getpid(), place.name])\n"
        "        except OSError: pass\n"
        "    return sorted(found)\n"
        "said['first'] = asked(open_ones)",
        tmp_path,
        namespaces=namespaces,
    )
    assert said["first"] == [[True, name] for name in "0123"]


def test_the_environment_of_others_is_not_seen(tmp_path: Path, namespaces: bool) -> None:
    """Also that of the process that asked."""
    said = said_by(
        EVERY_PROCESS + "neighbour = subprocess.Popen(['sleep', '60'])\n"
        "def seen():\n"
        "    found = []\n"
        "    for number, place in look('environ'):\n"
        "        try: found += [number] if b's3cret' in place.read_bytes() else []\n"
        "        except OSError: pass\n"
        "    return found\n"
        "others.append(neighbour.pid)  # on a busy machine far from ours\n"
        "while neighbour.pid not in seen(): time.sleep(0.01)\n"
        "said['seen'] = asked(lambda: [number for number in seen() if number != os.getpid()])\n"
        "neighbour.kill()",
        tmp_path,
        namespaces=namespaces,
        env={"A_PASSWORD": "s3cret"},
    )
    assert said["seen"] == []


def test_where_memory_runs_out_the_model_goes_first(tmp_path: Path, namespaces: bool) -> None:
    """Neither the process that asks it nor others of the machine."""
    lines = (
        "score = lambda: int(Path('/proc/self/oom_score_adj').read_text())\n"
        "said |= {'inside': asked(score), 'outside': score()}"
    )
    said = said_by(lines, tmp_path, namespaces=namespaces)
    assert said["inside"] == 1000 > said["outside"]


def test_the_user_stays_the_same(tmp_path: Path, namespaces: bool) -> None:
    """In a namespace of users, too."""
    said = said_by("said['user'] = asked(lambda: [os.getuid(), os.getgid()])", tmp_path, namespaces=namespaces)
    assert said["user"] == [os.getuid(), os.getgid()]
