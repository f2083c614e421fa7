"""Many processes on one volume: they share the work, and none depends on another's honesty, or on its life.

A holder that stands still is overtaken after 60 s. `Leases` takes that time as an argument; runs that are to overtake
sooner are forked with another default for it (forked_runs.py), so the tool needs no option that only tests would use.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.forked_runs import End, Fault
from tests.support.faults.reader import ReaderReport, reading
from tests.support.faults.scenarios import ALL, EMBEDDING, RERANKER, STATE, Line, Scenario, Workspace, look, points

pytestmark = pytest.mark.slow

MANY = 8
LARGE = ("model.safetensors", "pytorch_model.bin")
HEADER = "bytes=0-32767"
TOLD = r"(?m)^  (?:fetch|copy|replace) +(\S+) +[\d.]+ [kM]?B "
SHARED = [
    "first fetch",
    "first fetch without a lock",
    "upgrade",
    "upgrade without exchange",
    "conversion",
    "conversion without a lock",
    "sync --from",
]


def together(workspace: Workspace, folder: Path, words: Sequence[str], fault: Fault) -> list[End]:
    """Run a command in many processes at once."""
    runs = [workspace.runs.start(folder, *words, fault=fault) for _ in range(MANY)]
    return [run.end() for run in runs]


def refuse_a_mess(workspace: Workspace, scenario: Scenario, folder: Path) -> None:
    """All is as one run alone would have left it, and the next has nothing to do."""
    assert look(folder).models == scenario.settled.models
    assert (folder / "models.lock").read_bytes() == scenario.lock
    assert (
        workspace.runs.run(folder, *scenario.sync).code == 0
    )  # the last to end may have met what another was clearing away
    workspace.hub.forget()
    quiet = workspace.runs.run(folder, *scenario.sync)
    assert (quiet.code, workspace.hub.requests) == (0, []), quiet.err
    assert look(folder) == scenario.settled


def refuse_mixtures(report: ReaderReport, scenario: Scenario) -> None:
    """A reader saw whole models only, and where names can be exchanged none that was there and had gone."""
    assert report.wrong == []
    assert report.gone == 0 or scenario.fault.no_exchange
    assert report.whole


@pytest.mark.parametrize("name", SHARED)
def test_many_processes_share_the_work(name: str, workspace: Workspace, tally: Tally) -> None:
    """Each file is sent once, and told by the one that got it; who reads meanwhile sees whole models only."""
    scenario = workspace.scenario(name)
    tries, worst = 30 if ALL else 3, 0.0
    for _ in range(tries):
        folder = scenario.copy(workspace.folder / "run")
        workspace.hub.forget()
        with reading(folder) as report:
            ends = together(workspace, folder, scenario.words, scenario.fault)
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        asked = [one for one in workspace.hub.requests if one.file]
        if "without a lock" in name:  # each process pins for itself, and reads small files and headers for that
            asked = [one for one in asked if one.file in LARGE and one.repo != RERANKER and one.range != HEADER]
        sent = Counter((one.host, one.repo, one.file) for one in asked)
        assert set(sent.values()) <= {1}, sent
        told = Counter(model for end in ends for model in re.findall(TOLD, end.err))
        assert set(told.values()) == {1}, told
        refuse_mixtures(report, scenario)
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes at once", tries, worst)


def test_many_processes_remove_the_same_model(workspace: Workspace, tally: Tally) -> None:
    """One of them does it, for the others it has gone; what is wanted stays in its place."""
    scenario = workspace.scenario("prune")
    tries, worst = 60 if ALL else 6, 0.0
    for _ in range(tries):
        folder = scenario.copy(workspace.folder / "run")
        ends = together(workspace, folder, scenario.words, scenario.fault)
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        assert look(folder).models == scenario.after.models
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes at once", tries, worst)


@pytest.mark.parametrize("name", SHARED)
def test_where_flock_does_nothing_work_is_done_twice(name: str, workspace: Workspace, tally: Tally) -> None:
    """Everybody gets every lease: the bytes are right, all end with 0, and readers see whole models only."""
    scenario = workspace.scenario(name)
    tries, worst = 30 if ALL else 2, 0.0
    for _ in range(tries):
        folder = scenario.copy(workspace.folder / "run")
        with reading(folder) as report:
            ends = together(workspace, folder, scenario.words, replace(scenario.fault, no_flock=True))
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        refuse_mixtures(report, scenario)
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes where flock does nothing", tries, worst)


@pytest.mark.parametrize("name", ["first fetch", "upgrade without exchange"])
def test_where_flock_is_refused_a_dead_holder_is_waited_for(name: str, workspace: Workspace, tally: Tally) -> None:
    """Nothing but its counter tells that it is dead: it has to stand still for as long as it may, and no longer."""
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    refused = replace(scenario.fault, bad_flock=True)
    tried, stale, worst = [scenario.calls // 4, scenario.calls // 2], 2.0, 0.0
    for at in tried:
        dead = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=replace(refused, at=at, do="kill"))
        assert dead.code == -signal.SIGKILL
        with reading(folder) as report:
            ends = together(workspace, folder, scenario.words, replace(refused, stale_after=stale))
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        assert stale < max(end.seconds for end in ends) < stale + 45  # of which the most is a busy machine's
        refuse_mixtures(report, scenario)
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("a dead holder where flock is refused", len(tried), worst)


@pytest.mark.parametrize("no_flock", [False, True], ids=["flock", "no flock"])
@pytest.mark.parametrize("name", ["first fetch", "upgrade", "upgrade without exchange", "conversion without a lock"])
def test_killed_among_others(name: str, no_flock: bool, workspace: Workspace, tally: Tally) -> None:
    """Some of many die at some call, the holder among them: the others go on at once, and do what is left."""
    scenario = workspace.scenario(name)
    draw = random.Random(name)
    tries, worst = 40 if ALL else 3, 0.0
    for _ in range(tries):
        folder = scenario.copy(workspace.folder / "run")
        well = replace(scenario.fault, no_flock=no_flock)
        with reading(folder) as report:
            dying = [replace(well, at=draw.randint(1, scenario.calls), do="kill") for _ in range(MANY - 2)]
            runs = [workspace.runs.start(folder, *scenario.words, fault=fault) for fault in [well, *dying, well]]
            ends = [run.end() for run in runs]
        assert {end.code for end in ends[1:-1]} <= {0, -signal.SIGKILL}, [end.err for end in ends]
        assert [ends[0].code, ends[-1].code] == [0, 0], [end.err for end in ends]
        # Less than a minute: nobody waited until a dead holder's counter had stood still for long enough.
        assert no_flock or max(end.seconds for end in ends) < 45
        refuse_mixtures(report, scenario)
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes, 6 of them killed", tries, worst)


@pytest.mark.parametrize("what", ["changes", "reads"])
@pytest.mark.parametrize(
    "name", ["first fetch", "upgrade", "upgrade without exchange", "conversion", "conversion without a lock"]
)
def test_a_suspended_process_is_overtaken_and_harms_nothing(
    name: str, what: str, workspace: Workspace, tally: Tally
) -> None:
    """Stopped at any call, its files open, it loses its lease; when it wakes the model has been published.

    It goes on reading and writing files that are nobody's any more, notices, and ends with 0.
    """
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    fault = replace(scenario.fault, reads=str(folder) if what == "reads" else "")
    calls = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=fault).calls
    tried, worst = points(calls, 12 if what == "changes" else 40), 0.0
    for at in tried:
        scenario.copy(folder)
        asleep = workspace.runs.start(folder, *scenario.words, fault=replace(fault, at=at, do="stop"))
        stopped = asleep.stands_still()
        with reading(folder) as report:
            other = workspace.runs.run(folder, *scenario.words, fault=replace(scenario.fault, stale_after=0.2))
            assert other.code == 0, other.err
            if stopped:
                assert look(folder).models == scenario.after.models
                asleep.signal(signal.SIGCONT)
            ended = asleep.end()
        assert ended.code == 0, ended.err
        refuse_mixtures(report, scenario)
        refuse_a_mess(workspace, scenario, folder)
        worst = max(worst, other.seconds)
    tally("a holder suspended, overtaken, and woken", len(tried), worst)


def test_a_holder_suspended_while_bytes_flow(workspace: Workspace, tally: Tally) -> None:
    """Several streams stand still in the middle of a file; what they bring after waking ends nowhere."""
    source = tiny.big_embedding(workspace.folder / "big", 3)
    workspace.hub.add(EMBEDDING, source)
    folder, line, draw, worst = workspace.folder / "run", Line(), random.Random(7), 0.0
    workspace.hub.fail(line, on=r"GET cdn .*model\.safetensors", times=-1)
    folder.mkdir()
    workspace.want(folder, EMBEDDING)
    workspace.well(folder, "lock")
    pieces, tries = Fault(segment=500_000), 30 if ALL else 4
    for _ in range(tries):
        for home in folder.glob("*/tinyorg__*"):
            home.rename(workspace.folder / f"away{time.monotonic_ns()}")
        line.rate = 500_000
        workspace.hub.forget()
        asleep = workspace.runs.start(folder, "sync", fault=pieces)
        while not any(request.host == "cdn" for request in workspace.hub.requests):
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.5))
        asleep.signal(signal.SIGSTOP)
        line.rate = None
        other = workspace.runs.run(folder, "sync", fault=replace(pieces, stale_after=0.2))
        assert other.code == 0, other.err
        before = look(folder).models
        asleep.signal(signal.SIGCONT)
        ended = asleep.end()
        assert ended.code == 0, ended.err
        assert look(folder).models == before
        assert workspace.runs.run(folder, "verify").code == 0
        assert workspace.runs.run(folder, "sync").code == 0
        assert not list(folder.glob(f"*/{STATE}"))
        worst = max(worst, other.seconds)
    tally("a holder suspended, overtaken, and woken", tries, worst)


def test_a_suspended_holder_is_waited_for_first(workspace: Workspace, tally: Tally) -> None:
    """Nobody overtakes a holder before its counter has stood still for as long as it may."""
    scenario = workspace.scenario("first fetch")
    folder = scenario.copy(workspace.folder / "run")
    asleep = workspace.runs.start(folder, *scenario.words, fault=scenario.struck(scenario.calls // 2, "stop"))
    assert asleep.stands_still()
    ended = workspace.runs.run(folder, *scenario.words, fault=replace(scenario.fault, stale_after=3.0))
    assert (ended.code, ended.seconds > 3.0) == (0, True), ended.err
    assert re.search("^  wait ", ended.err, re.MULTILINE)
    asleep.signal(signal.SIGCONT)
    assert asleep.end().code == 0
    refuse_a_mess(workspace, scenario, folder)
    tally("a holder suspended, overtaken, and woken", 1, ended.seconds)
