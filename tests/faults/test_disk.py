"""Small file systems that fill up, run out of inodes, turn read-only, go away, or are somebody else's."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.transfer.partial_file import written_ranges
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.forked_runs import End, Fault
from tests.support.faults.losses import bytes_of, refuse_losses
from tests.support.faults.scenarios import COLLECTIONS, EMBEDDING, STATE, Line, Workspace, look, points
from tests.support.faults.volumes import Volume, mounted

pytestmark = pytest.mark.slow

NOBODY = 65534
STRIKES = ["first fetch", "upgrade", "upgrade without exchange", "conversion without a lock"]
PIECES = Fault(segment=500_000)
HOMES = f"{COLLECTIONS[0]}/tinyorg__embedding", f"{COLLECTIONS[1]}/tinyorg__reranker"


@pytest.fixture(params=["ext4", "tmpfs"])
def volume(request: pytest.FixtureRequest) -> Iterator[Volume]:
    """A file system of 12 MiB and 400 inodes."""
    with mounted(request.param, size=12 << 20, inodes=400) as made:
        yield made


@pytest.fixture
def disk() -> Iterator[Volume]:
    """The same on ext4, which has more ways to fail."""
    with mounted("ext4", size=12 << 20, inodes=400) as made:
        yield made


def refuse_silence(ended: End, *said: str) -> None:
    """A run that could not do its work ended with 4, in words: what, and what to do."""
    assert ended.code == 4, ended.err
    assert "Traceback" not in ended.err
    assert re.search(r"^error: ", ended.err, re.MULTILINE), ended.err
    assert re.search(r"^hint: ", ended.err, re.MULTILINE), ended.err
    for words in said:
        assert words in ended.err


def bytes_in(words: str) -> int:
    """Return a size that is told in words."""
    number, unit = words.split()
    return round(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


@pytest.mark.parametrize("name", ["first fetch", "upgrade", "conversion", "lock with a conversion", "sync --from"])
def test_too_little_space_is_refused_before_the_first_byte(
    name: str, volume: Volume, workspace: Workspace, tally: Tally
) -> None:
    """Needed, free and short by are told, and are true: with as much more as it was short of, it has enough."""
    scenario, folder = workspace.scenario(name), volume.folder / "run"
    tries, worst = 0, 0.0
    for leave in (100_000, 300_000, 600_000):
        scenario.copy(folder)
        volume.leave(leave)
        workspace.hub.forget()
        ended = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
        told = re.search(r"needed ([\d.]+ \w+), free ([\d.]+ \w+), short by at least ([\d.]+ \w+)", ended.err)
        assert told, ended.err
        refuse_silence(ended)
        needed, free, short = map(bytes_in, told.groups())
        assert free == pytest.approx(volume.free, rel=0.05, abs=4 * 4096)  # own directories were there when it looked
        assert short == pytest.approx(needed - free, rel=0.1, abs=1e5)
        assert not [one for one in workspace.hub.requests if one.host == "cdn"]
        assert look(folder).models == scenario.before.models
        assert not [path for path in folder.glob(f"*/{STATE}/**/*") if path.stat().st_size and path.is_file()]
        volume.leave(needed + 4 * 4096)  # ext4 notes in blocks of its own where the blocks of a file are
        again = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
        assert again.code == 0, f"{needed} bytes were not enough: {again.err}"
        assert bytes_of(look(folder)) == bytes_of(scenario.after)
        tries, worst = tries + 1, max(worst, again.seconds)
        volume.relieve()
    tally("too little space", tries, worst)


@pytest.mark.parametrize("what", ["space", "inodes"])
@pytest.mark.parametrize("name", STRIKES)
def test_it_runs_out_at_any_call(name: str, what: str, volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """Somebody else takes the rest before some call: 0 or 4, the old version whole, and the next run goes on."""
    scenario, folder = workspace.scenario(name), volume.folder / "run"
    tried, ends, worst = points(scenario.calls, 15), [], 0.0
    for at in tried:
        run = workspace.runs.start(scenario.copy(folder), *scenario.words, fault=scenario.struck(at, "stop"))
        if run.stands_still():
            volume.leave(0) if what == "space" else volume.take_inodes()
            run.signal(signal.SIGCONT)
        ended = run.end()
        if ended.code:
            refuse_silence(ended, "pace")
        ends.append(ended.code)
        volume.relieve()
        worst = max(worst, refuse_losses(workspace, scenario, folder, ended))
    assert 4 in ends
    tally("space runs out" if what == "space" else "inodes run out", len(tried), worst)


@pytest.fixture
def flowing(workspace: Workspace) -> Callable[[Path], tuple[Fault, Line]]:
    """Prepare a replacement of some megabytes, over a line that takes its time."""

    def prepare(folder: Path) -> tuple[Fault, Line]:
        line = Line()
        first = tiny.big_embedding(workspace.folder / "first", 1)
        second = tiny.big_embedding(workspace.folder / "second", 3)
        workspace.hub.fail(line, on=r"GET cdn .*model\.safetensors", times=-1)
        folder.mkdir()
        workspace.want(folder, EMBEDDING)
        workspace.hub.add(EMBEDDING, first)
        workspace.well(folder, "sync")
        workspace.hub.add(EMBEDDING, second)
        workspace.well(folder, "lock", "--upgrade")
        os.sync()  # the disk will lose what it was not told to keep
        return PIECES, line

    return prepare


def _bytes_are_there(folder: Path) -> bool:
    with suppress(FileNotFoundError):  # a journal goes with the last byte
        return any(journal.stat().st_size for journal in folder.rglob("*.ranges"))
    return False


@pytest.mark.parametrize("what", ["space", "the disk turns read-only", "the disk goes away"])
def test_while_bytes_flow(
    what: str, disk: Volume, workspace: Workspace, flowing: Callable[[Path], tuple[Fault, Line]], tally: Tally
) -> None:
    """Streams are open and it ends: exit 4 soon, the old version whole; the next run asks for what is lacking."""
    folder = disk.folder / "run"
    fault, line = flowing(folder)
    before = look(folder)
    line.rate = 400_000
    workspace.hub.forget()
    run = workspace.runs.start(folder, "sync", fault=fault)
    until = time.monotonic() + 20
    while not _bytes_are_there(folder):
        assert time.monotonic() < until, "no byte came"
        time.sleep(0.005)
    if what == "space":
        disk.leave(0)
    elif what == "the disk goes away":
        disk.go()
    else:
        disk.turn_read_only()
    ended = run.end(timeout=20)
    refuse_silence(ended)
    if what == "space":
        disk.relieve()
    else:
        disk.come_back()
    assert look(folder).models == before.models
    size = (workspace.folder / "second" / "model.safetensors").stat().st_size
    there = sum(written_ranges(part.with_suffix(""), size).total() for part in folder.rglob("*.ranges"))
    assert there > 0 or what != "space"
    line.rate = None
    workspace.hub.forget()
    again = workspace.runs.run(folder, "sync", fault=fault)
    assert again.code == 0, again.err
    sent = sum(request.sent for request in workspace.hub.requests if request.file == "model.safetensors")
    assert sent <= size - there + 8192
    verified = workspace.runs.run(folder, "verify")
    assert verified.code == 0, again.err + verified.err
    assert not list(folder.glob(f"*/{STATE}"))
    tally("space runs out" if what == "space" else "the disk turns read-only, or goes away", 1, again.seconds)


@pytest.mark.parametrize("name", ["first fetch", "upgrade", "conversion", "prune"])
def test_a_mount_that_is_read_only(name: str, volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """What there is to do ends with 4 and changes nothing; what is there is read as ever, and is enough for 0."""
    scenario, folder = workspace.scenario(name), volume.folder / "run"
    scenario.copy(folder)
    volume.remount("ro")
    refuse_silence(
        workspace.runs.run(folder, *scenario.words, fault=scenario.fault), "Read-only file system", str(folder)
    )
    assert look(folder) == scenario.before
    volume.remount("rw")
    worst = refuse_losses(
        workspace, scenario, folder, workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
    )
    (folder / ".cache-models.stamp").unlink()
    volume.remount("ro")
    for words in (scenario.sync, ["verify"], ["status"]):
        ended = workspace.runs.run(folder, *words)
        assert ended.code == 0, ended.err
    volume.remount("rw")
    tally("a read-only mount", 4, worst)


@pytest.mark.parametrize("name", ["first fetch", "upgrade", "conversion", "prune"])
def test_a_root_of_somebody_else(name: str, volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """A user who may not write is told so; what root has fetched he may read, and it is enough for 0."""
    scenario, folder = workspace.scenario(name), volume.folder / "run"
    scenario.copy(folder)
    Path(os.environ["HOME"]).chmod(0o711)  # there he looks for his token
    nobody = replace(scenario.fault, user=NOBODY)
    refuse_silence(workspace.runs.run(folder, *scenario.words, fault=nobody), "Permission denied", str(folder))
    assert look(folder) == scenario.before
    worst = refuse_losses(
        workspace, scenario, folder, workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
    )
    for words in (scenario.sync, ["verify"], ["status"]):
        ended = workspace.runs.run(folder, *words, fault=nobody)
        assert ended.code == 0, ended.err
    for closed in folder.glob("cached_*"):
        closed.chmod(0o700)
    (folder / ".cache-models.stamp").unlink()
    for words in (scenario.sync, ["verify"], ["status"], ["prune"]):
        refuse_silence(workspace.runs.run(folder, *words, fault=nobody), "Permission denied", str(folder))
    tally("no permission, or a file in the way", 8, worst)


@pytest.mark.parametrize("closed", ["", COLLECTIONS[0], f"{COLLECTIONS[0]}/{STATE}", HOMES[0]])
def test_a_directory_of_somebody_else(closed: str, volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """Of all that is the user's own, one directory is root's: told, nothing lost, and done once it is given back."""
    scenario, folder = workspace.scenario("upgrade"), volume.folder / "run"
    scenario.copy(folder)
    (folder / COLLECTIONS[0] / STATE).mkdir(exist_ok=True)
    Path(os.environ["HOME"]).chmod(0o711)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.chown(folder / closed, 0, 0)
    (folder / closed).chmod(0o755)
    nobody = replace(scenario.fault, user=NOBODY)
    ended = workspace.runs.run(folder, *scenario.words, fault=nobody)
    if ended.code:
        refuse_silence(ended, "Permission denied", str(folder))
    seen, old, new = bytes_of(look(folder)), bytes_of(scenario.before), bytes_of(scenario.after)
    assert all(seen[name] in (old[name], new[name]) for name in old)
    if (folder / closed).exists():  # where nothing was in it, the user has made another one
        os.chown(folder / closed, NOBODY, NOBODY)
    again = workspace.runs.run(folder, *scenario.words, fault=nobody)
    assert again.code == 0, again.err
    assert look(folder).models == scenario.after.models
    tally("no permission, or a file in the way", 1, again.seconds)


@pytest.mark.parametrize(
    "place", [COLLECTIONS[0], f"{COLLECTIONS[1]}/{STATE}", *HOMES, f"{COLLECTIONS[0]}/{STATE}/tinyorg__embedding.lease"]
)
def test_a_file_where_a_directory_should_be(place: str, workspace: Workspace, volume: Volume, tally: Tally) -> None:
    """Or a directory where a file should be: it is named and left alone, and once it is moved away all is well."""
    scenario, folder = workspace.scenario("first fetch"), volume.folder / "run"
    path = scenario.copy(folder) / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if place.endswith(".lease") else path.write_text("mine")
    ended = workspace.runs.run(folder, *scenario.words)
    refuse_silence(ended, str(path))
    assert path.is_dir() if place.endswith(".lease") else path.read_text() == "mine"
    path.rmdir() if place.endswith(".lease") else path.unlink()
    tally("no permission, or a file in the way", 1, refuse_losses(workspace, scenario, folder, ended))


@pytest.mark.parametrize("name", ["first fetch", "upgrade", "conversion", "sync --from"])
def test_a_limit_on_the_size_of_files(name: str, volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """`ulimit -f`: told with what to raise, and nothing is lost."""
    scenario, folder = workspace.scenario(name), volume.folder / "run"
    ended = workspace.runs.run(
        scenario.copy(folder), *scenario.words, fault=replace(scenario.fault, largest_file=100_000)
    )
    refuse_silence(ended, os.strerror(errno.EFBIG))
    tally("a limit on the size of files", 1, refuse_losses(workspace, scenario, folder, ended))
