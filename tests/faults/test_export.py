"""`export` that dies, or is refused something, at any point: nothing half, and the next run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelcache.core.kinds import Kind
from modelcache.formats.lockfile import format_lock
from modelcache.image.layers import LARGE_FILE
from modelcache.image.tar import entries_of
from tests.faults.conftest import Tally
from tests.support.faults.forked_runs import WELL, End, Fault, ForkedRuns
from tests.support.faults.scenarios import ALL, points
from tests.support.faults.volumes import mounted
from tests.support.images import Seen, assert_only_its_image, blobs_of, flip, pin, published, seen

pytestmark = pytest.mark.slow

WEIGHTS = random.Random(1).randbytes(LARGE_FILE + 700_000)
FIRST = {"config.json": b"{}", "deep/er/two.json": b"[2]", "model.safetensors": WEIGHTS}
SECOND = {"config.json": b"[]", "deep/er/two.json": b"[2]", "model.safetensors": WEIGHTS}
OTHER = {"config.json": b"{}", "model.safetensors": b"\1" * 70_000}
TARGETS = ["image", "image.tar"]
OVER = [False, True]


@dataclass(frozen=True)
class Prepared:
    """An export that is to be broken, over an older image or none; `folder` is never run in, only copies of it."""

    runs: ForkedRuns
    root: Path
    folder: Path
    target: str
    old: str | None
    new: str = ""
    calls: int = 0
    root_before: Seen | None = None

    @property
    def words(self) -> Sequence[str]:
        """The command."""
        target = f"{self.target}/" if self.target == "image" else self.target
        where = ["--root", str(self.root), "--lockfile", str(self.root / "models.lock")]
        return ["export", target, *where, "--log-format", "json"]

    def copy(self, target: Path) -> Path:
        """Return a folder with the older image, or none."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target)
        return target

    def run(self, folder: Path, fault: Fault = WELL) -> End:
        """Export."""
        return self.runs.run(folder, *self.words, fault=fault)

    def image(self, folder: Path) -> str | None:
        """What a reader finds: the digest of the image, all of whose bytes are right; None where there is none."""
        path = folder / self.target
        if self.target == "image.tar":
            return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        if not (path / "index.json").exists():
            return None
        for name in blobs_of(path):
            assert hashlib.sha256((path / "blobs/sha256" / name).read_bytes()).hexdigest() == name
        (image,) = json.loads((path / "index.json").read_bytes())["manifests"]
        return str(image["digest"])

    def finished(self, folder: Path, done: Path) -> int:
        """How many layers of the new image a broken run has finished; `done` has the new image."""
        if self.target == "image":
            layers = layers_of(done / "image")
            there = [folder / "image/blobs/sha256" / name for name in layers]
            return sum(path.exists() for path in there)
        leftover = next(folder.glob(".image.tar.*"), None)
        content = leftover.read_bytes() if leftover else b""
        whole = (done / "image.tar").read_bytes()
        found = 0
        for entry in entries_of(lambda start, end: whole[start:end], len(whole)):
            if entry.path.startswith("blobs/sha256/") and entry.size > 10_000:
                start, end = entry.start - 512, entry.start + entry.size
                found += content[start:end] == whole[start:end]
        return found


def layers_of(layout: Path) -> list[str]:
    """The names of the layers of the only image of a layout."""
    folder = layout / "blobs/sha256"
    return [name for name in blobs_of(layout) if (folder / name).stat().st_size > 10_000]


def publish(root: Path, content: dict[str, bytes]) -> None:
    """Publish two models, the first with this content, and lock them."""
    made = [pin("acme/a", content), pin("acme/b", OTHER, Kind.RERANKER)]
    for model in made:
        published(root, model, content if model.id == "acme/a" else OTHER)
    (root / "models.lock").write_text(format_lock(made))


@pytest.fixture(params=[(target, over) for target in TARGETS for over in OVER], ids=str)
def prepared(request: pytest.FixtureRequest, runs: ForkedRuns, quick_folder: Path) -> Prepared:
    """Each form, with nothing there, and over the image of an older lock."""
    return prepare(runs, quick_folder, *request.param)


def prepare(runs: ForkedRuns, folder: Path, target: str, over: bool) -> Prepared:
    (folder / "before").mkdir()
    made = Prepared(runs, folder / "root", folder / "before", target, None)
    if over:
        publish(made.root, FIRST)
        assert made.run(made.folder).code == 0
    publish(made.root, SECOND)
    done = made.copy(folder / "done")
    ended = made.run(done)
    assert ended.code == 0, ended.err
    old, new = made.image(made.folder), made.image(done)
    assert new
    assert new != old
    assert ended.calls > 30
    return Prepared(runs, made.root, made.folder, target, old, new, ended.calls, seen(made.root))


def events(ended: End) -> list[str]:
    """What a run says of each layer."""
    told = [json.loads(line) for line in ended.err.splitlines() if line.startswith("{")]
    return [one["event"] for one in told if one["event"] in ("layer", "reused")]


def recover(prepared: Prepared, folder: Path) -> float:
    """A reader finds the old image, the new one, or none; the next run makes it whole, and writes no layer again."""
    found = prepared.image(folder)
    assert found in (prepared.old, prepared.new)
    finished = prepared.finished(folder, prepared.folder.parent / "done")
    ended = prepared.run(folder)
    assert ended.code == 0, ended.err
    assert prepared.image(folder) == prepared.new
    assert [path.name for path in folder.iterdir()] == [prepared.target]
    told = events(ended)
    assert len(told) == 3
    assert told.count("reused") >= finished
    if prepared.target == "image":
        assert_only_its_image(folder / "image")
    assert seen(prepared.root) == prepared.root_before
    return ended.seconds


def test_killed_at_any_call(prepared: Prepared, tally: Tally) -> None:
    """SIGKILL before a call that changes the file system, wherever that is."""
    tried, worst, finished = points(prepared.calls, 2), 0.0, set()
    for at in tried:
        folder = prepared.copy(prepared.folder.parent / "run")
        ended = prepared.run(folder, Fault(at=at, do="kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err  # 0: this time it took fewer calls
        finished.add(prepared.finished(folder, prepared.folder.parent / "done"))
        worst = max(worst, recover(prepared, folder))
    assert len(finished) > 1, "no kill has left a finished layer"
    tally("SIGKILL during export", len(tried), worst)


@pytest.mark.parametrize(("target", "over"), [(target, over) for target in TARGETS for over in OVER])
def test_killed_again_and_again(target: str, over: bool, runs: ForkedRuns, quick_folder: Path, tally: Tally) -> None:
    """Each run finds what several dead ones left, of this lock and of another one: nothing of theirs stays."""
    prepared, draw = prepare(runs, quick_folder, target, over), random.Random(f"{target} {over}")
    tries, worst = 60 if ALL else 6, 0.0
    for _ in range(tries):
        folder = prepared.copy(quick_folder / "run")
        for _ in range(draw.randint(2, 4)):
            publish(prepared.root, draw.choice([FIRST, SECOND, OTHER]))
            ended = prepared.run(folder, Fault(at=draw.randint(1, prepared.calls), do="kill"))
            assert ended.code in (-signal.SIGKILL, 0), ended.err
            prepared.image(folder)
        publish(prepared.root, SECOND)
        ended = prepared.run(folder)
        assert ended.code == 0, ended.err
        assert prepared.image(folder) == prepared.new
        assert [path.name for path in folder.iterdir()] == [target]
        if target == "image":
            assert_only_its_image(folder / "image")
        worst = max(worst, ended.seconds)
    tally("SIGKILL during export", tries, worst)


def test_told_to_end_at_any_call(prepared: Prepared, tally: Tally) -> None:
    """SIGTERM ends it with 143, and what it leaves is as good as after SIGKILL."""
    tried, worst = points(prepared.calls, 12), 0.0
    for at in tried:
        folder = prepared.copy(prepared.folder.parent / "run")
        ended = prepared.run(folder, Fault(at=at, do="term"))
        assert ended.code in (128 + signal.SIGTERM, 0), ended.err
        worst = max(worst, recover(prepared, folder))
    tally("SIGTERM", len(tried), worst)


@pytest.mark.parametrize("do", ["28", "5", "30", "13", "short"])
def test_a_call_is_refused(do: str, prepared: Prepared, tally: Tally) -> None:
    """0 or 4, in words, with the old image or the new one; a call that does half is no failure at all."""
    tried, worst, codes = points(prepared.calls, 9), 0.0, set()
    for at in tried:
        folder = prepared.copy(prepared.folder.parent / "run")
        ended = prepared.run(folder, Fault(at=at, do=do))
        codes.add(ended.code)
        assert ended.code in (0, 4), ended.err
        assert "Traceback" not in ended.err
        assert prepared.image(folder) in ((prepared.new,) if ended.code == 0 else (prepared.old, prepared.new))
        if prepared.target == "image.tar":
            assert [path.name for path in folder.glob(".*")] == []
        worst = max(worst, recover(prepared, folder))
    assert codes == {0} if do == "short" else 4 in codes
    tally("a call that writes is refused, or does half", len(tried), worst)


@pytest.mark.parametrize("target", TARGETS)
def test_space_runs_out_at_any_call(target: str, runs: ForkedRuns, quick_folder: Path, tally: Tally) -> None:
    """Somebody else takes the rest: 0 or 4, the old image whole, and the next run goes on."""
    prepared = prepare(runs, quick_folder, target, True)
    worst, codes = 0.0, set()
    with mounted("tmpfs", 64 << 20, 400) as volume:
        tried = points(prepared.calls, 9)
        for at in tried:
            folder = prepared.copy(volume.folder / "run")
            run = runs.start(folder, *prepared.words, fault=Fault(at=at, do="stop"))
            if run.stands_still():
                volume.leave(0)
                run.signal(signal.SIGCONT)
            ended = run.end()
            codes.add(ended.code)
            assert ended.code in (0, 4), ended.err
            volume.relieve()
            worst = max(worst, recover(prepared, folder))
    assert 4 in codes
    tally("space runs out", len(tried), worst)


@pytest.mark.parametrize("fault", [Fault(no_flock=True), Fault(bad_flock=True)], ids=["does nothing", "is refused"])
def test_killed_where_flock_does_nothing(fault: Fault, prepared: Prepared, tally: Tally) -> None:
    """Nothing half; an archive that was begun may stay, because nothing tells it from one of a run that is at work."""
    tried, worst = points(prepared.calls, 20), 0.0
    for at in tried:
        folder = prepared.copy(prepared.folder.parent / "run")
        ended = prepared.run(folder, Fault(at=at, do="kill", no_flock=fault.no_flock, bad_flock=fault.bad_flock))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        assert prepared.image(folder) in (prepared.old, prepared.new)
        again = prepared.run(folder, fault)
        assert again.code == 0, again.err
        assert prepared.image(folder) == prepared.new
        worst = max(worst, again.seconds)
    tally("SIGKILL during export", len(tried), worst)


@pytest.mark.parametrize("target", TARGETS)
def test_a_finished_layer_that_is_damaged_is_written_again(
    target: str, runs: ForkedRuns, quick_folder: Path, tally: Tally
) -> None:
    """A leftover of a killed run is compared, byte by byte, before it counts."""
    prepared = prepare(runs, quick_folder, target, False)
    folder = prepared.copy(quick_folder / "run")
    ended = prepared.run(folder, Fault(at=prepared.calls - 1, do="kill"))
    assert ended.code == -signal.SIGKILL
    parts = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > LARGE_FILE]
    flip(parts[0], LARGE_FILE // 2)
    again = prepared.run(folder)
    assert again.code == 0, again.err
    assert prepared.image(folder) == prepared.new
    assert sorted(events(again)) == ["layer", "reused", "reused"]
    tally("SIGKILL during export", 1, again.seconds)


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("target", TARGETS)
def test_any_user_and_umask_give_the_same_image(
    target: str, umask: int, runs: ForkedRuns, quick_folder: Path, tally: Tally
) -> None:
    """No owner and no mode is taken from the root, which another user may only read."""
    prepared = prepare(runs, quick_folder, target, False)
    folder = prepared.copy(quick_folder / "run")
    quick_folder.chmod(0o711)
    folder.chmod(0o777)
    ended = prepared.run(folder, Fault(user=65534, umask=umask))
    assert ended.code == 0, ended.err
    assert prepared.image(folder) == prepared.new
    assert {path.stat().st_uid for path in folder.rglob("*")} == {65534}
    tally("any umask", 1)


@pytest.mark.parametrize("target", TARGETS)
def test_power_cut(target: str, runs: ForkedRuns, quick_folder: Path, tmp_path: Path, tally: Tally) -> None:
    """What an ext4 disk holds at that instant: the old image or the new one, whole; copied and mounted elsewhere."""
    prepared, worst = prepare(runs, quick_folder, target, True), 0.0
    copied, found = tmp_path / "cut", tmp_path / "found"
    found.mkdir()
    with mounted("ext4", 96 << 20, 400) as volume:
        assert volume.image
        tried = [*points(prepared.calls, 13), prepared.calls - 1, prepared.calls + 999]
        for at in tried:
            folder = prepared.copy(volume.folder / "run")
            subprocess.run(["sync", "-f", volume.folder], check=True)
            ended = prepared.run(folder, Fault(at=at, do="kill"))
            assert ended.code in (-signal.SIGKILL, 0), ended.err
            if at % 2:  # somebody else's fsync makes names durable, and not what is in the files
                with (volume.folder / "elsewhere").open("w") as file:
                    os.fsync(file.fileno())
            shutil.copyfile(volume.image, copied)
            subprocess.run(["mount", "-o", "loop", copied, found], check=True)
            try:
                assert ended.code != 0 or prepared.image(found / "run") == prepared.new
                worst = max(worst, recover(prepared, found / "run"))
            finally:
                subprocess.run(["umount", found], check=True)
    tally("power cut", len(tried), worst)
