"""Many processes on one volume: they share the work, and none depends on another's honesty, or on its life.

A holder that stands still is overtaken after 60 s. `Leases` takes that time as an argument; runs that are to overtake
sooner are forked with another default for it (forks.py), so the tool needs no option that only tests would use.
"""

from __future__ import annotations

import random
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
from tests.support.faults.reader import Sight, reading
from tests.support.faults.scenarios import ALL, EMBEDDING, RERANKER, STATE, Line, Stage, Story, look, points

pytestmark = pytest.mark.slow

MANY = 8
LARGE = ("model.safetensors", "pytorch_model.bin")
HEADER = "bytes=0-32767"
SHARED = [
    "first fetch",
    "first fetch without a lock",
    "upgrade",
    "upgrade without exchange",
    "conversion",
    "conversion without a lock",
    "sync --from",
]


def together(stage: Stage, folder: Path, words: Sequence[str], fault: Fault) -> list[End]:
    """Run a command in many processes at once."""
    runs = [stage.forks.start(folder, *words, fault=fault) for _ in range(MANY)]
    return [run.end() for run in runs]


def refuse_a_mess(stage: Stage, story: Story, folder: Path) -> None:
    """All is as one run alone would have left it, and the next has nothing to do."""
    assert look(folder).models == story.settled.models
    assert (folder / "models.lock").read_bytes() == story.lock
    assert stage.forks.run(folder, *story.sync).code == 0  # the last to end may have met what another was clearing away
    stage.hub.forget()
    quiet = stage.forks.run(folder, *story.sync)
    assert (quiet.code, stage.hub.requests) == (0, []), quiet.err
    assert look(folder) == story.settled


def refuse_mixtures(sight: Sight, story: Story) -> None:
    """A reader saw whole models only, and where names can be exchanged none that was there and had gone."""
    assert sight.wrong == []
    assert sight.gone == 0 or story.fault.no_exchange
    assert sight.whole


@pytest.mark.parametrize("name", SHARED)
def test_many_processes_share_the_work(name: str, stage: Stage, tally: Tally) -> None:
    """Each file is sent once, all end with 0, and who reads meanwhile sees whole models only."""
    story = stage.story(name)
    tries, worst = 30 if ALL else 3, 0.0
    for _ in range(tries):
        folder = story.copy(stage.folder / "run")
        stage.hub.forget()
        with reading(folder) as sight:
            ends = together(stage, folder, story.words, story.fault)
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        asked = [one for one in stage.hub.requests if one.file]
        if "without a lock" in name:  # each process pins for itself, and reads small files and headers for that
            asked = [one for one in asked if one.file in LARGE and one.repo != RERANKER and one.range != HEADER]
        sent = Counter((one.host, one.repo, one.file) for one in asked)
        assert set(sent.values()) <= {1}, sent
        refuse_mixtures(sight, story)
        refuse_a_mess(stage, story, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes at once", tries, worst)


def test_many_processes_remove_the_same_model(stage: Stage, tally: Tally) -> None:
    """One of them does it, for the others it has gone; what is wanted stays in its place."""
    story = stage.story("prune")
    tries, worst = 60 if ALL else 6, 0.0
    for _ in range(tries):
        folder = story.copy(stage.folder / "run")
        ends = together(stage, folder, story.words, story.fault)
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        assert look(folder).models == story.after.models
        refuse_a_mess(stage, story, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes at once", tries, worst)


@pytest.mark.parametrize("name", SHARED)
def test_where_flock_does_nothing_work_is_done_twice(name: str, stage: Stage, tally: Tally) -> None:
    """Everybody gets every lease: the bytes are right, all end with 0, and readers see whole models only."""
    story = stage.story(name)
    tries, worst = 30 if ALL else 2, 0.0
    for _ in range(tries):
        folder = story.copy(stage.folder / "run")
        with reading(folder) as sight:
            ends = together(stage, folder, story.words, replace(story.fault, no_flock=True))
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        refuse_mixtures(sight, story)
        refuse_a_mess(stage, story, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes where flock does nothing", tries, worst)


@pytest.mark.parametrize("name", ["first fetch", "upgrade without exchange"])
def test_where_flock_is_refused_a_dead_holder_is_waited_for(name: str, stage: Stage, tally: Tally) -> None:
    """Nothing but its counter tells that it is dead: it has to stand still for as long as it may, and no longer."""
    story, folder = stage.story(name), stage.folder / "run"
    refused = replace(story.fault, bad_flock=True)
    tried, stale, worst = [story.calls // 4, story.calls // 2], 2.0, 0.0
    for at in tried:
        dead = stage.forks.run(story.copy(folder), *story.words, fault=replace(refused, at=at, do="kill"))
        assert dead.code == -signal.SIGKILL
        with reading(folder) as sight:
            ends = together(stage, folder, story.words, replace(refused, stale_after=stale))
        assert {end.code for end in ends} == {0}, next(end.err for end in ends if end.code)
        assert stale < max(end.seconds for end in ends) < stale + 45  # of which the most is a busy machine's
        refuse_mixtures(sight, story)
        refuse_a_mess(stage, story, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("a dead holder where flock is refused", len(tried), worst)


@pytest.mark.parametrize("no_flock", [False, True], ids=["flock", "no flock"])
@pytest.mark.parametrize("name", ["first fetch", "upgrade", "upgrade without exchange", "conversion without a lock"])
def test_killed_among_others(name: str, no_flock: bool, stage: Stage, tally: Tally) -> None:
    """Some of many die at some call, the holder among them: the others go on at once, and do what is left."""
    story = stage.story(name)
    draw = random.Random(name)
    tries, worst = 40 if ALL else 3, 0.0
    for _ in range(tries):
        folder = story.copy(stage.folder / "run")
        well = replace(story.fault, no_flock=no_flock)
        with reading(folder) as sight:
            dying = [replace(well, at=draw.randint(1, story.calls), do="kill") for _ in range(MANY - 2)]
            runs = [stage.forks.start(folder, *story.words, fault=fault) for fault in [well, *dying, well]]
            ends = [run.end() for run in runs]
        assert {end.code for end in ends[1:-1]} <= {0, -signal.SIGKILL}, [end.err for end in ends]
        assert [ends[0].code, ends[-1].code] == [0, 0], [end.err for end in ends]
        # Less than a minute: nobody waited until a dead holder's counter had stood still for long enough.
        assert no_flock or max(end.seconds for end in ends) < 45
        refuse_mixtures(sight, story)
        refuse_a_mess(stage, story, folder)
        worst = max(worst, *(end.seconds for end in ends))
    tally("8 processes, 6 of them killed", tries, worst)


@pytest.mark.parametrize("what", ["changes", "reads"])
@pytest.mark.parametrize(
    "name", ["first fetch", "upgrade", "upgrade without exchange", "conversion", "conversion without a lock"]
)
def test_a_suspended_process_is_overtaken_and_harms_nothing(name: str, what: str, stage: Stage, tally: Tally) -> None:
    """Stopped at any call, its files open, it loses its lease; when it wakes the model has been published.

    It goes on reading and writing files that are nobody's any more, notices, and ends with 0.
    """
    story, folder = stage.story(name), stage.folder / "run"
    fault = replace(story.fault, reads=str(folder) if what == "reads" else "")
    calls = stage.forks.run(story.copy(folder), *story.words, fault=fault).calls
    tried, worst = points(calls, 12 if what == "changes" else 40), 0.0
    for at in tried:
        story.copy(folder)
        asleep = stage.forks.start(folder, *story.words, fault=replace(fault, at=at, do="stop"))
        stopped = asleep.stands_still()
        with reading(folder) as sight:
            other = stage.forks.run(folder, *story.words, fault=replace(story.fault, stale_after=0.2))
            assert other.code == 0, other.err
            if stopped:
                assert look(folder).models == story.after.models
                asleep.signal(signal.SIGCONT)
            ended = asleep.end()
        assert ended.code == 0, ended.err
        refuse_mixtures(sight, story)
        refuse_a_mess(stage, story, folder)
        worst = max(worst, other.seconds)
    tally("a holder suspended, overtaken, and woken", len(tried), worst)


def test_a_holder_suspended_while_bytes_flow(stage: Stage, tally: Tally) -> None:
    """Several streams stand still in the middle of a file; what they bring after waking ends nowhere."""
    source = tiny.big_embedding(stage.folder / "big", 3)
    stage.hub.add(EMBEDDING, source)
    folder, line, draw, worst = stage.folder / "run", Line(), random.Random(7), 0.0
    stage.hub.fail(line, on=r"GET cdn .*model\.safetensors", times=-1)
    folder.mkdir()
    stage.want(folder, EMBEDDING)
    stage.well(folder, "lock")
    pieces, tries = Fault(segment=500_000), 30 if ALL else 4
    for _ in range(tries):
        for home in folder.glob("*/tinyorg__*"):
            home.rename(stage.folder / f"away{time.monotonic_ns()}")
        line.rate = 500_000
        stage.hub.forget()
        asleep = stage.forks.start(folder, "sync", fault=pieces)
        while not any(request.host == "cdn" for request in stage.hub.requests):
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.5))
        asleep.signal(signal.SIGSTOP)
        line.rate = None
        other = stage.forks.run(folder, "sync", fault=replace(pieces, stale_after=0.2))
        assert other.code == 0, other.err
        before = look(folder).models
        asleep.signal(signal.SIGCONT)
        ended = asleep.end()
        assert ended.code == 0, ended.err
        assert look(folder).models == before
        assert stage.forks.run(folder, "verify").code == 0
        assert stage.forks.run(folder, "sync").code == 0
        assert not list(folder.glob(f"*/{STATE}"))
        worst = max(worst, other.seconds)
    tally("a holder suspended, overtaken, and woken", tries, worst)


def test_a_suspended_holder_is_waited_for_first(stage: Stage, tally: Tally) -> None:
    """Nobody overtakes a holder before its counter has stood still for as long as it may."""
    story = stage.story("first fetch")
    folder = story.copy(stage.folder / "run")
    asleep = stage.forks.start(folder, *story.words, fault=story.struck(story.calls // 2, "stop"))
    assert asleep.stands_still()
    ended = stage.forks.run(folder, *story.words, fault=replace(story.fault, stale_after=3.0))
    assert (ended.code, ended.seconds > 3.0) == (0, True), ended.err
    assert "waiting: another process is fetching" in ended.err
    asleep.signal(signal.SIGCONT)
    assert asleep.end().code == 0
    refuse_a_mess(stage, story, folder)
    tally("a holder suspended, overtaken, and woken", 1, ended.seconds)
