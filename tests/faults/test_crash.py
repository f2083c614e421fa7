"""A process that dies at any point: what readers see, what the next run makes of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.transfer.partial_file import written_ranges
from tests.conftest import unavailable
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.forked_runs import Fault
from tests.support.faults.scenarios import (
    ALL,
    EMBEDDING,
    SCENARIOS,
    STATE,
    Line,
    Scenario,
    Seen,
    Workspace,
    look,
    misleading_views,
    points,
)

pytestmark = pytest.mark.slow


def refuse_mixtures(seen: Seen, scenario: Scenario) -> None:
    """Each model is the old one or the new one, byte for byte, or absent where it may be; nothing has its name else."""
    for name in {*seen.models, *scenario.before.models, *scenario.after.models}:
        allowed = [scenario.before.models.get(name), scenario.after.models.get(name)]
        if scenario.fault.no_exchange:
            allowed.append(None)
        assert seen.models.get(name) in allowed, f"{name} is neither the old version nor the new one"


def is_right(seen: Seen, settled: Seen) -> bool:
    """Whether all models are as they end, and each view is, too, or has no snapshot."""
    models = all(seen.models.get(name) == version for name, version in settled.models.items())
    for name, view in settled.views.items():
        found = seen.views.get(name, {})
        models = models and (found == view or not any(path.startswith("snapshots") for path in found))
    return models


def recover(workspace: Workspace, scenario: Scenario, folder: Path) -> float:
    """Let the next runs find what a dead one left: they make it whole and leave nothing; return how long it took."""
    seen = look(folder)
    refuse_mixtures(seen, scenario)
    assert misleading_views(folder) == []
    verified = workspace.runs.run(folder, "verify")
    assert verified.code == (0 if is_right(seen, scenario.settled) else 1), verified.err
    ended = workspace.runs.run(folder, *scenario.sync, fault=scenario.fault)
    assert ended.code == 0, ended.err
    if scenario.words != scenario.sync:
        again = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
        assert again.code == 0, again.err
    assert look(folder) == scenario.settled
    assert (folder / "models.lock").read_bytes() == scenario.lock
    workspace.hub.forget()
    quiet = workspace.runs.run(folder, *scenario.sync)
    assert (quiet.code, workspace.hub.requests) == (0, []), quiet.err
    assert "unchanged" in quiet.err
    return ended.seconds


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_any_call(name: str, workspace: Workspace, tally: Tally) -> None:
    """SIGKILL before a call that changes the file system, wherever that is."""
    scenario = workspace.scenario(name)
    tried = points(scenario.calls, 4)
    worst = 0.0
    for at in tried:
        folder = scenario.copy(workspace.folder / "run")
        ended = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(at, "kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err  # 0: this time it took fewer calls
        worst = max(worst, recover(workspace, scenario, folder))
    tally("SIGKILL before a file-system call", len(tried), worst)


@pytest.mark.parametrize("name", SCENARIOS)
def test_told_to_end_at_any_call(name: str, workspace: Workspace, tally: Tally) -> None:
    """SIGTERM ends it within a second or two with 143, and what it leaves is as good as after SIGKILL."""
    scenario = workspace.scenario(name)
    tried = points(scenario.calls, 12)
    worst = 0.0
    for at in tried:
        folder = scenario.copy(workspace.folder / "run")
        ended = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(at, "term"))
        assert ended.code in (128 + signal.SIGTERM, 0), ended.err
        assert ended.code == 0 or "run it again" in ended.err
        assert ended.seconds < 5.0
        worst = max(worst, recover(workspace, scenario, folder))
    tally("SIGTERM", len(tried), worst)


@pytest.mark.parametrize("name", ["first fetch", "upgrade without exchange", "lock with a conversion"])
def test_killed_again_and_again(name: str, workspace: Workspace, tally: Tally) -> None:
    """A pod that is killed at every start: each run finds what several dead ones left."""
    scenario = workspace.scenario(name)
    draw = random.Random(name)
    tries, worst = 200 if ALL else 8, 0.0
    for _ in range(tries):
        folder = scenario.copy(workspace.folder / "run")
        for _ in range(draw.randint(2, 5)):
            at = draw.randint(1, scenario.calls)
            ended = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(at, "kill"))
            assert ended.code in (-signal.SIGKILL, 0), ended.err
            refuse_mixtures(look(folder), scenario)
        worst = max(worst, recover(workspace, scenario, folder))
    tally("SIGKILL several times in a row", tries, worst)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_killed_while_bytes_flow(number: signal.Signals, workspace: Workspace, tally: Tally) -> None:
    """At any time, in the middle of several streams: the next run asks for what the journal lacks, and no byte more."""
    source = tiny.big_embedding(workspace.folder / "big", 3)
    pieces, line = Fault(segment=500_000), Line()
    size = (source / "model.safetensors").stat().st_size
    workspace.hub.add(EMBEDDING, source)
    workspace.hub.fail(line, on=r"GET cdn .*model\.safetensors", times=-1)
    folder, draw, worst = workspace.folder / "run", random.Random(number), 0.0
    tries = 0
    for _ in range(100 if ALL else 12):
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.mkdir()
        workspace.want(folder, EMBEDDING)
        workspace.well(folder, "lock")
        line.rate = 500_000
        workspace.hub.forget()
        run = workspace.runs.start(folder, "sync", fault=pieces)
        while not any(request.host == "cdn" for request in workspace.hub.requests):
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.7))
        run.signal(number)
        ended = run.end()
        if ended.code == 0:  # the machine was busy, and the run was faster than the signal
            continue
        assert ended.code == (-9 if number == signal.SIGKILL else 143), ended.err
        assert not look(folder).models
        there = sum(written_ranges(part.with_suffix(""), size).total() for part in folder.rglob("*.ranges"))
        line.rate = None
        workspace.hub.forget()
        again = workspace.runs.run(folder, "sync", fault=pieces)
        assert again.code == 0, again.err
        sent = sum(request.sent for request in workspace.hub.requests if request.file == "model.safetensors")
        assert sent <= size - there + 4096  # of what was asked the Hub's own headers are no part
        assert workspace.runs.run(folder, "verify").code == 0
        assert not list(folder.glob(f"*/{STATE}"))
        worst, tries = max(worst, again.seconds), tries + 1
    assert tries
    tally("SIGTERM" if number == signal.SIGTERM else "SIGKILL while bytes flow", tries, worst)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """A file with an ext4 file system in it, mounted as `files` beside it."""
    made, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with made.open("wb") as file:
        file.truncate(16 << 20)
    for command in (["mkfs.ext4", "-q", str(made)], ["mount", "-o", "loop", str(made), str(disk)]):
        try:
            ended = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            unavailable(f"there is no {command[0]}")
        if ended.returncode:
            unavailable(f"mounting an image is not permitted here: {ended.stderr.strip()}")
    yield made
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["first fetch without a lock", "upgrade", "upgrade without exchange", "prune"])
def test_power_cut(name: str, workspace: Workspace, image: Path, tmp_path: Path, tally: Tally) -> None:
    """What an ext4 disk holds at that instant: whatever was not made durable is gone, and the name is whole or absent.

    The image is copied as the kernel has written it so far, and mounted elsewhere.
    """
    scenario = workspace.scenario(name)
    disk, copied, found = tmp_path / "disk", tmp_path / "cut", tmp_path / "found"
    found.mkdir()
    tried, worst = [*points(scenario.calls, 13), scenario.calls + 998, scenario.calls + 999], 0.0
    for at in tried:
        folder = scenario.copy(disk / "run")
        subprocess.run(["sync", "-f", disk], check=True)
        ended = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(at, "kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        if at % 2 == scenario.calls % 2:  # somebody else's fsync makes names durable, and not what is in the files
            with (disk / "elsewhere").open("w") as file:
                os.fsync(file.fileno())
        shutil.copyfile(image, copied)
        subprocess.run(["mount", "-o", "loop", copied, found], check=True)
        try:
            worst = max(worst, recover(workspace, scenario, found / "run"))
        finally:
            subprocess.run(["umount", found], check=True)
    tally("power cut", len(tried), worst)
