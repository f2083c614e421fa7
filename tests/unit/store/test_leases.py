"""Promise 4: any number of processes on one volume share the work, and none depends on another's honesty."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.core.names import STATE_NAME
from modelcache.store.leases import Leases
from modelcache.system.files import discard
from tests.conftest import Tool, files_below, unavailable
from tests.support import tiny
from tests.support.hub import Slow, StandInHub

NAME = "owner__name"


def test_a_lease_is_held_by_one(tmp_path: Path) -> None:
    """While one has it, another gets None; given back, it leaves nothing behind."""
    mine, other = Leases(tmp_path), Leases(tmp_path)
    lease = mine.take(NAME)
    assert lease is not None
    with lease:
        assert other.take(NAME) is None
        assert lease.held()
        assert lease.staging.is_dir()
        with other.take("another__model") or pytest.fail("leases are one a model"):
            pass
    again = other.take(NAME)
    assert again is not None
    with again:
        pass
    other.remove_abandoned()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_holders_lease_is_free_at_once(tmp_path: Path) -> None:
    """Where flock works no process waits for a dead one; its staged files stay to be taken over."""
    if (child := os.fork()) == 0:
        lease = Leases(tmp_path).take(NAME)
        assert lease
        lease.__enter__()
        (lease.staging / "part").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    leases = Leases(tmp_path)
    lease = leases.take(NAME)
    assert lease is not None
    with lease:
        others = [path for path in leases.stagings()[NAME] if path != lease.staging]
        assert [(path / "part").read_text() for path in others] == ["half"]


def test_whether_a_lease_is_held_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    """True while a living process has it; the file of a dead one, a link or a pipe says nothing."""
    leases = Leases(tmp_path)
    assert not leases.is_held(NAME)
    lease = Leases(tmp_path).take(NAME) or pytest.fail("it is free")
    with lease:
        assert leases.is_held(NAME)
        assert lease.held()
        assert not leases.is_held("another__model")
    path = tmp_path / STATE_NAME / f"{NAME}.lease"
    assert not leases.is_held(NAME)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert not leases.is_held(NAME)
    path.unlink()
    os.mkfifo(path)
    assert not leases.is_held(NAME)


def test_the_staging_of_one_model_is_listed_and_left_alone(tmp_path: Path) -> None:
    """Of this model only; links and files are no staging."""
    state = tmp_path / STATE_NAME
    (state / f"{NAME}~1").mkdir(parents=True)
    (state / f"{NAME}2~1").mkdir()
    (state / f"{NAME}~file").touch()
    (state / f"{NAME}~link").symlink_to(tmp_path)
    before = sorted(state.iterdir())
    assert Leases(tmp_path).stagings_of(NAME) == [state / f"{NAME}~1"]
    assert sorted(state.iterdir()) == before
    assert Leases(tmp_path / "gone").stagings_of(NAME) == []
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / STATE_NAME).symlink_to(STATE_NAME)
    assert Leases(unreadable).stagings_of(NAME) == []


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_silent_holder_is_taken_over_when_its_counter_stands_still(tmp_path: Path) -> None:
    """A holder that counts is respected for ever; one that is suspended loses the lease, and knows it when it wakes."""
    ready = tmp_path / "ready"
    if (child := os.fork()) == 0:
        held = Leases(tmp_path / "models", beat=0.02).take(NAME)
        assert held
        held.__enter__()
        ready.touch()
        while held.held():
            time.sleep(0.05)
        held.__exit__(None, None, None)
        os._exit(7)
    while not ready.exists():
        time.sleep(0.01)
    clock = Clock()
    leases = Leases(tmp_path / "models", clock=clock)
    counter = tmp_path / "models" / STATE_NAME / f"{NAME}.lease"
    for _ in range(5):  # hours pass between two looks, but it has counted, so it is alive
        assert leases.take(NAME) is None
        before = counter.read_bytes()
        while counter.read_bytes() == before:
            time.sleep(0.01)
        clock.now += 10_000
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    assert leases.take(NAME) is None
    clock.now += 59.9
    assert leases.take(NAME) is None
    clock.now += 0.1
    lease = leases.take(NAME)
    assert lease is not None
    with lease:
        os.kill(child, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert lease.held()  # the sleeper gave back what was its own, not ours


@pytest.mark.parametrize("said", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EBADF", "EACCES", "EIO", "EALREADY"])
def test_without_locks_the_counter_alone_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Where flock is refused, whatever the errno, a counting holder is respected and a silent one is taken over."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(getattr(errno, said), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    clock = Clock()
    mine, other = Leases(tmp_path), Leases(tmp_path, clock=clock)
    lease = mine.take(NAME)
    assert lease is not None
    with lease:
        assert other.take(NAME) is None
        lease._ended.set()
        assert lease._heartbeat
        lease._heartbeat.join()
        assert other.take(NAME) is None
        clock.now += 60
        taken = other.take(NAME)
        assert taken is not None
        with taken:
            assert not lease.held()


@pytest.fixture
def another() -> Callable[[Callable[[], None]], int]:
    """Be another user for as long as something takes, in a process that dies at the end; returns its exit code."""

    def run(work: Callable[[], None]) -> int:
        if (child := os.fork()) == 0:
            try:
                os.setgroups([])
                os.setgid(4242)
                os.setuid(4242)
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    if os.geteuid():
        unavailable("only root can be several users")
    return run


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
@pytest.mark.parametrize(
    "left", ["a lease", "a lease that no other user can read yet", "a directory that no other user can enter yet"]
)
def test_the_lease_of_a_dead_user_is_replaced(
    left: str, umask: int, another: Callable[[Callable[[], None]], int]
) -> None:
    """By a user of the group that the root is shared with; a dead one may not have come to share what it made."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        os.chown(root, 0, 4242)
        root.chmod(0o2775)
        before = os.umask(umask)
        lease = Leases(root).take(NAME)
        os.umask(before)
        assert lease
        path = root / STATE_NAME / f"{NAME}.lease"
        assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o644, 0o2775]
        assert another(lambda: _refuse(Leases(root).take(NAME) is not None)) == 0  # its holder lives
        lease._ended.set()
        if lease._heartbeat:
            lease._heartbeat.join()
        os.close(lease._fd)
        if left == "a lease that no other user can read yet":
            path.chmod(0o600)
        elif left == "a directory that no other user can enter yet":
            discard(path.parent)
            path.parent.mkdir(0o700)

        def take() -> None:
            with Leases(root).take(NAME) or pytest.fail("the dead hold nothing"):
                assert path.stat().st_uid == 4242
            Leases(root).remove_abandoned()

        assert another(take) == 0
        assert [one.name for one in root.rglob("*.lease")] == []


def test_who_may_not_write_waits_for_who_may(another: Callable[[Callable[[], None]], int]) -> None:
    """The lease of the living is respected by a user who could not take it; afterwards that user is told the truth."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        root.chmod(0o755)
        with Leases(root).take(NAME) or pytest.fail("it is free"):
            assert another(lambda: _refuse(Leases(root).take(NAME) is not None)) == 0

        def take() -> None:
            with pytest.raises(PermissionError):
                Leases(root).take(NAME)

        assert another(take) == 0


def _refuse(wrong: bool) -> None:
    assert not wrong


def test_a_volume_that_cannot_be_written_is_told(pair: Tool) -> None:
    """A file where the state directory belongs ends with 4, not with a traceback."""
    collection = pair.folder / "cached_embedding_models"
    collection.mkdir()
    (collection / ".cache-models").write_text("in the way")
    ran = pair("sync")
    assert ran.exit_code == 4
    assert ".cache-models" in ran.err


@pytest.fixture
def shared(hub: StandInHub, tool: Tool, tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """Three pinned models of some megabytes, behind a line that is slow enough for processes to meet."""
    repositories = {}
    for number in range(3):
        source = tiny.big_embedding(tmp_path / str(number), 8)
        (source / "vocab.txt").write_text(f"{number}\n")
        with (source / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([number]))
        hub.add(f"org/m{number}", source)
        repositories[f"org/m{number}"] = files_below(source)
    tool.want(*repositories)
    assert tool("lock").exit_code == 0
    hub.fail(Slow(8_000_000), on=r"GET cdn .*model\.safetensors", times=-1)
    hub.forget()
    return repositories


def test_two_processes_fetch_once(tool: Tool, hub: StandInHub, shared: dict[str, dict[str, bytes]]) -> None:
    """Four processes on one root: each file is fetched once, all end with 0, every model is right."""
    processes = [tool.process("sync", "--log-format=json") for _ in range(4)]
    claimed = 0
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        ready = json.loads(err.splitlines()[-1])
        assert (ready["event"], ready["models"]) == ("ready", 3)
        claimed += ready["fetched"]
    assert claimed == 3  # each by the process that fetched it
    fetched = [(request.repo, request.file) for request in hub.requests if request.host == "cdn"]
    assert sorted(fetched) == [(model, "model.safetensors") for model in sorted(shared)]
    for model, files in shared.items():
        published = files_below(tool.home(model))
        assert all(published[path] == content for path, content in files.items() if path in published)
    assert not (tool.folder / "cached_embedding_models" / ".cache-models").exists()


def test_a_later_run_takes_models_that_no_other_is_fetching(tool: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Of six small models the first process is at four; the second one does not wait for those before it begins."""
    names = [f"tinyorg/model-{number}" for number in range(6)]
    for number, name in enumerate(names):
        weights = tiny.tiny_embedding(tmp_path / name) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([number]))
        hub.add(name, tmp_path / name)
    tool.want(*names)
    assert tool("lock").exit_code == 0
    hub.forget()
    hub.fail(Slow(15_000), on=r"GET cdn .*model\.safetensors", times=4)
    first = tool.process("sync")
    while len([request for request in hub.requests if request.host == "cdn"]) < 4:
        time.sleep(0.01)
    second = tool.process("sync")
    said = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], said
    assert [len(re.findall("^  fetch ", err, re.MULTILINE)) for err in said] == [4, 2], said
    assert len([request for request in hub.requests if request.host == "cdn"]) == 6


def test_a_killed_holder_delays_no_run(tool: Tool, hub: StandInHub, shared: dict[str, dict[str, bytes]]) -> None:
    """Who waits for a process that is killed takes over its parts at once."""
    first = tool.process("sync")
    while not any(request.host == "cdn" for request in hub.requests):
        time.sleep(0.01)
    time.sleep(0.3)
    second = tool.process("sync")
    time.sleep(0.3)
    first.kill()
    first.communicate()
    began = time.monotonic()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert time.monotonic() - began < 20


def test_right_bytes_where_flock_does_nothing(tool: Tool, shared: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    """On a file system whose flock lets everybody in, work is done twice and every model is right."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import fcntl\nfcntl.flock = lambda *a: None\n")
    processes = [tool.process("sync", env={"PYTHONPATH": str(tmp_path / "site")}) for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert tool("verify").exit_code == 0
    assert not (tool.folder / "cached_embedding_models" / ".cache-models").exists()


def test_a_staging_that_was_cleared_is_lost_also_when_it_is_made_anew(tmp_path: Path) -> None:
    """A thread that still writes makes the directory again; that is not the one that the lease was given."""
    lease = Leases(tmp_path / "models").take(NAME)
    assert lease
    with lease:
        assert not lease.lost()
        discard(lease.staging)
        assert lease.lost()
        (lease.staging / "tree").mkdir(parents=True)
        assert lease.lost()
