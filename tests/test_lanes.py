"""How many connections a file comes over: counted, with lines that are fast, slow, and that become slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from modelcache.lanes import Lanes, Watch
from modelcache.ranges import Range

MEGABYTE = b"x" * 1_000_000


class Clock(threading.local):
    """Seconds of each thread by itself, so that no load of the machine makes a line slow."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds
        time.sleep(0.005)  # for others to come in between


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelcache.lanes.monotonic", clock)


class Line:
    """Brings ranges with so many seconds for each chunk of 2 MB; counts how many at once, and which."""

    def __init__(self, pauses: Callable[[Range], list[float]]) -> None:
        self.pauses = pauses
        self.brought: list[Range] = []
        self.most = self.now = 0
        self._lock = threading.Lock()

    def bring(self, piece: Range, watch: Watch) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        for _ in watch(self.chunks(piece)):
            pass
        with self._lock:
            self.now -= 1
            self.brought.append(piece)

    def chunks(self, piece: Range) -> Iterator[list[bytes]]:
        for pause in self.pauses(piece):
            clock.spend(pause)
            yield [MEGABYTE, MEGABYTE]


def carried(line: Line, ranges: int, most: int = 8) -> Line:
    """Have ranges brought, to the last."""
    with ThreadPoolExecutor(most) as pool:
        lanes = Lanes(pool, most, line.bring, [(at, at + 1) for at in range(ranges)])
        lanes.open()
        for _ in iter(lambda: len(line.brought), ranges):
            time.sleep(0.001)
        lanes.close()
        assert not any(lane.exception() for lane in lanes.futures if not lane.cancelled())
    assert sorted(line.brought) == [(at, at + 1) for at in range(ranges)]
    return line


def test_a_fast_line_gets_two_connections() -> None:
    """2 MB in no time: more of them would take turns."""
    assert carried(Line(lambda piece: [0.0] * 5), 12).most == 2


def test_a_slow_line_gets_all() -> None:
    """2 MB in 60 ms are 33 MB/s."""
    assert carried(Line(lambda piece: [0.06] * 3), 12).most == 8
    assert carried(Line(lambda piece: [0.06] * 3), 12, most=3).most == 3


def test_a_line_that_becomes_slow_gets_all() -> None:
    """What came fast at first does not hide it for long."""
    assert carried(Line(lambda piece: [0.0] if piece[0] < 4 else [0.06] * 3), 14).most == 8


@pytest.mark.parametrize("most", [1, 2])
def test_never_more_than_allowed(most: int) -> None:
    """--jobs is a promise, also when the line is slow."""
    assert carried(Line(lambda piece: [0.03] * 3), 5, most=most).most == most


def test_the_readers_own_time_is_not_the_lines() -> None:
    """A slow disk is no reason for more connections."""
    line = Line(lambda piece: [0.0] * 3)

    def bring(piece: Range, watch: Watch) -> None:
        def slowly(chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
            for came in watch(chunks):
                clock.spend(0.03)
                yield came

        line.bring(piece, slowly)

    with ThreadPoolExecutor(8) as pool:
        lanes = Lanes(pool, 8, bring, [(at, at + 1) for at in range(8)])
        lanes.open()
        for _ in iter(lambda: len(line.brought), 8):
            time.sleep(0.001)
        lanes.close()
    assert line.most == 2


def test_what_is_closed_begins_nothing_more() -> None:
    """What is begun is waited for; what is not, is not begun, by no lane."""
    line = Line(lambda piece: [0.06] * 3)
    with ThreadPoolExecutor(8) as pool:
        lanes = Lanes(pool, 8, line.bring, [(at, at + 1) for at in range(1_000)])
        lanes.open()
        for _ in iter(lambda: len(line.brought) > 10, True):
            time.sleep(0.001)
        lanes.close()
        there = len(line.brought)
        assert line.now == 0
        time.sleep(0.1)
        assert len(line.brought) == there < 1_000


def test_a_failure_ends_its_lane_and_is_told() -> None:
    """The others go on until they are stopped."""

    def bring(piece: Range, watch: Watch) -> None:
        if piece[0] == 1:
            raise OSError("no")

    with ThreadPoolExecutor(2) as pool:
        lanes = Lanes(pool, 2, bring, [(at, at + 1) for at in range(5)])
        lanes.open()
        wait(lanes.futures)
        lanes.close()
    assert [str(error) for lane in lanes.futures if (error := lane.exception())] == ["no"]


def test_a_file_that_is_done_does_not_wait_for_another_one() -> None:
    """Its lanes that never got a thread are dropped, though the pool is busy with others for long."""
    let_go = threading.Event()

    def long(piece: Range, watch: Watch) -> None:
        let_go.wait(60)

    with ThreadPoolExecutor(2) as pool:
        others = Lanes(pool, 2, long, [(at, at + 1) for at in range(2)])
        others.open()
        mine = Lanes(pool, 2, long, [(at, at + 1) for at in range(2)])
        mine.open()
        mine.close()
        assert mine.futures == []
        assert not any(lane.done() for lane in others.futures)
        let_go.set()
        others.close()
