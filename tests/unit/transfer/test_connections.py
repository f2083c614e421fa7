"""How many connections a file comes over: counted, with lines that are fast, slow, become slow, and refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest

from modelcache.transfer.byte_ranges import Range, Ranges
from modelcache.transfer.connections import RangeConnections
from modelcache.transfer.retry import NoRangesError, SilentError, TransientError

UNIT = 2_000_000
"""Bytes of a range here, which come in one chunk."""
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


class Line:
    """A server, by how many seconds each chunk takes it and what it refuses; and the file that is written."""

    def __init__(
        self,
        pause: Callable[[int], float] = lambda start: 0.0,
        refuse: Callable[[Line, int, int], None] = lambda line, start, end: None,
        writing: float = 0.0,
    ) -> None:
        self.pause = pause
        self.refuse = refuse
        self.writing = writing
        self.requests: list[Range] = []
        self.failures: list[TransientError] = []
        self.there = Ranges()
        self.most = self.now = 0
        self.abandoned = False
        self._lock = threading.Lock()

    @contextmanager
    def request(self, start: int, end: int) -> Iterator[Iterator[list[bytes]]]:
        with self._lock:
            self.requests.append((start, end))
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.refuse(self, start, end)
            yield self.chunks(start, end)
        finally:
            with self._lock:
                self.now -= 1

    def chunks(self, start: int, end: int) -> Iterator[list[bytes]]:
        for at in range(start, end, UNIT):
            clock.spend(self.pause(at))
            yield [MEGABYTE, MEGABYTE]

    def write(self, start: int, pieces: list[bytes]) -> None:
        clock.spend(self.writing)
        with self._lock:
            self.there.add(start, start + sum(map(len, pieces)))

    def failed(self, error: TransientError) -> None:
        self.failures.append(error)
        if len(self.failures) > 3:
            raise OSError("given up")

    def abandon(self) -> None:
        self.abandoned = True


def connections(pool: Executor, most: int, line: Line, ranges: int) -> RangeConnections:
    """Connections for a file of so many ranges."""
    of_file = [(at * UNIT, (at + 1) * UNIT) for at in range(ranges)] or [(0, 0)]
    return RangeConnections(pool, most, line, ranges * UNIT, of_file, clock=clock)


def carried(line: Line, ranges: int, most: int = 8, pool: Executor | None = None) -> Line:
    """Have a file of so many ranges brought, to the last byte."""
    with pool or ThreadPoolExecutor(most) as threads:
        all_of_it = connections(threads, most, line, ranges)
        all_of_it.open()
        while line.there.missing(ranges * UNIT) and not line.abandoned:
            time.sleep(0.001)
        all_of_it.close()
        errors = [error for future in all_of_it.futures if (error := future.exception())]
    if errors:
        raise errors[0]
    return line


def refuse_further(line: Line, start: int, end: int) -> None:
    """Answer one connection at a time."""
    if line.now > 1:
        raise TransientError("status 503")


def test_a_fast_line_gets_one_connection_and_one_request() -> None:
    """2 MB in no time: more of them would take turns at the processor."""
    line = carried(Line(), 12)
    assert (line.most, line.requests) == (1, [(0, 12 * UNIT)])


def test_a_slow_line_gets_all() -> None:
    """2 MB in 60 ms are 33 MB/s."""
    assert carried(Line(lambda start: 0.06), 30).most == 8
    assert carried(Line(lambda start: 0.06), 30, most=3).most == 3


def test_a_line_that_becomes_slow_gets_all() -> None:
    """Bytes that came fast at first do not hide it for long."""
    assert carried(Line(lambda start: 0.0 if start < 10 * UNIT else 0.06), 40).most == 8


@pytest.mark.parametrize("most", [1, 2])
def test_never_more_than_allowed(most: int) -> None:
    """--jobs is a promise, also when the line is slow."""
    assert carried(Line(lambda start: 0.06), 9, most=most).most == most


def test_the_readers_own_time_is_not_the_lines() -> None:
    """A slow disk is no reason for more connections."""
    assert carried(Line(writing=0.06), 12).most == 1


def test_each_byte_comes_once_over_a_slow_line() -> None:
    """A connection stops where another one goes on; of what it asked for at first the rest is not read."""
    line = Line(lambda start: 0.06)
    read = list[int]()

    def counted(start: int, pieces: list[bytes], write: Callable[..., None] = line.write) -> None:
        read.append(start)
        write(start, pieces)

    line.write = counted  # type: ignore[method-assign]  # the same, counted
    carried(line, 30)
    assert sorted(read) == [number * UNIT for number in range(30)]


def test_a_server_that_allows_one_connection_gets_one() -> None:
    """A further one is tried once; that it is refused is no failure of the file."""
    line = carried(Line(lambda start: 0.06, refuse_further), 30)
    assert line.failures == []
    assert len(line.requests) == 2, line.requests


@pytest.mark.parametrize("allowed", [2, 5])
def test_a_server_that_allows_some_gets_no_more(allowed: int) -> None:
    """Each refused connection ends and gives its range to the others."""

    def refuse(line: Line, start: int, end: int) -> None:
        if line.now > allowed:
            raise TransientError("status 429")

    assert carried(Line(lambda start: 0.06, refuse), 60).failures == []


def test_a_further_connection_is_tried_again_later() -> None:
    """One refusal does not hold for hours."""
    refused = list[int]()

    def refuse(line: Line, start: int, end: int) -> None:
        if line.now > 1 and len(refused) < 2:
            refused.append(start)
            raise TransientError("status 503")

    line = carried(Line(lambda start: 3.0, refuse), 120)  # enough for all eight to be at it together
    assert (len(refused), line.most) == (2, 8)


def test_a_further_connection_that_is_not_prompt_lets_no_more_be_opened() -> None:
    """A cache that fetches all of a file before it answers for its end has more to do for each of them."""

    def wait_for_the_end(line: Line, start: int, end: int) -> None:
        if start:
            clock.spend(2.5)

    assert carried(Line(lambda start: 0.06, wait_for_the_end), 15).most == 2


def test_failures_are_counted_when_no_connection_is_left() -> None:
    """The last one tries again, and gives up when it may."""
    line = Line(lambda start: 0.0, lambda line, start, end: fail("status 500"))
    with pytest.raises(OSError, match="given up"):
        carried(line, 5)
    assert ([str(error) for error in line.failures], line.abandoned) == (["status 500"] * 4, True)


def fail(reason: str) -> None:
    """Refuse whatever is asked for."""
    raise TransientError(reason)


def test_a_break_goes_on_where_it_was() -> None:
    """Nothing is asked for twice, and as long as bytes come the same connection goes on."""

    class Breaks(Line):
        def chunks(self, start: int, end: int) -> Iterator[list[bytes]]:
            for number, chunk in enumerate(super().chunks(start, end)):
                if number == 4 and len(self.requests) < 3:
                    raise TransientError("reset")
                yield chunk

    line = carried(Breaks(), 12)
    assert line.requests == [(0, 12 * UNIT), (4 * UNIT, 12 * UNIT), (8 * UNIT, 12 * UNIT)]
    assert len(line.failures) == 2


@pytest.mark.parametrize("error", [NoRangesError("sends whole files only"), SilentError("no answer in time")])
def test_a_file_whose_end_cannot_be_had_is_asked_for_from_its_beginning(error: TransientError) -> None:
    """A server without ranges, and one that has to have a whole file before it answers for its end."""

    def refuse(line: Line, start: int, end: int) -> None:
        if start:
            raise error

    class Breaks(Line):
        def chunks(self, start: int, end: int) -> Iterator[list[bytes]]:
            yield from super().chunks(start, end if len(self.requests) > 1 else 3 * UNIT)
            if len(self.requests) == 1:
                raise TransientError("reset")

    line = carried(Breaks(refuse=refuse), 6)
    assert line.requests == [(0, 6 * UNIT), (3 * UNIT, 6 * UNIT), (0, 6 * UNIT)]


def test_what_is_closed_begins_nothing_more() -> None:
    """Work that is begun is waited for; no connection begins another range."""
    line = Line(lambda start: 0.06)
    with ThreadPoolExecutor(8) as pool:
        begun = connections(pool, 8, line, 1_000)
        begun.open()
        for _ in iter(lambda: len(line.there) and line.most == 8, True):
            time.sleep(0.001)
        begun.close()
        there = line.there.total()
        assert line.now == 0
        time.sleep(0.1)
        assert line.there.total() == there < 1_000 * UNIT


def test_a_connection_that_is_just_being_started_is_waited_for() -> None:
    """One connection starts another one, and does not know it yet, when all are closed."""

    class Late(ThreadPoolExecutor):
        def submit(self, *words: Any, **named: Any) -> Future[Any]:
            future = super().submit(*words, **named)
            time.sleep(0.05 if line.requests else 0)
            return future

    line = Line(lambda start: 0.06)
    with Late(8) as pool:
        begun = connections(pool, 8, line, 1_000)
        begun.open()
        for _ in iter(lambda: line.now > len(begun.futures), True):
            time.sleep(0.001)
        begun.close()
        assert line.now == 0


def test_a_file_that_is_done_does_not_wait_for_another_one() -> None:
    """Its connections that never got a thread are dropped, though the pool is busy with others for long."""
    let_go = threading.Event()

    def wait_long(line: Line, start: int, end: int) -> None:
        let_go.wait(60)

    long = Line(refuse=wait_long)
    with ThreadPoolExecutor(1) as pool:
        others = connections(pool, 2, long, 1)
        others.open()
        mine = connections(pool, 2, long, 1)
        mine.open()
        mine.close()
        assert mine.futures == []
        assert not any(future.done() for future in others.futures)
        let_go.set()
        others.close()


def test_without_a_thread_to_be_had_one_connection_does_all() -> None:
    """A pool that works in the thread that asks it to: that thread cannot be at two answers."""

    class Inline(Executor):
        def submit(self, work: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(work(*words, **named))
            return done

    line = carried(Line(lambda start: 0.06), 12, pool=Inline())
    assert (line.most, line.requests) == (1, [(0, 12 * UNIT)])


def test_an_empty_file_is_asked_for() -> None:
    """Its listing may lie; and a failure of that is tried again."""
    refused = list[int]()

    def refuse(line: Line, start: int, end: int) -> None:
        if not refused:
            refused.append(start)
            raise TransientError("status 500")

    line = Line(refuse=refuse)
    with ThreadPoolExecutor(1) as pool:
        begun = connections(pool, 1, line, 0)
        begun.open()
        wait(begun.futures, 10)
        begun.close()
    assert line.requests == [(0, 0), (0, 0)]
