"""How many requests a host gets: fewer after a refusal, never none, and one more after a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from modelcache.transfer.host_limit import HostLimit


class Clock:
    """A time that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def requests(limit: HostLimit, count: int, *, answered: int = 0) -> Iterator[None]:
    """So many requests under way, of which some are being answered."""
    with ExitStack() as opened:
        for number in range(count):
            opened.enter_context(limit.turn())
            opened.enter_context(limit.sending())
            if number < answered:
                opened.enter_context(limit.answering())
        yield


def room_for(limit: HostLimit, count: int) -> bool:
    """Whether so many requests get a turn at the same time."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def ask() -> None:
        with limit.turn():
            inside.release()
            leave.wait(10)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    got = all(inside.acquire(timeout=0.3) for _ in range(count))
    leave.set()
    for thread in threads:
        thread.join(10)
    return got


@pytest.mark.parametrize("by_status", [True, False])
def test_a_refusal_of_the_only_request_is_a_failure(by_status: bool) -> None:
    """Nothing else is under way that it could wait for."""
    limit = HostLimit(4)
    with requests(limit, 1):
        assert not limit.refused(by_status=by_status)
    assert room_for(limit, 4)


def test_a_refusal_by_status_leaves_the_others_their_turns() -> None:
    """429 or 503 while three others are under way: three are allowed."""
    limit = HostLimit(8)
    with requests(limit, 4):
        assert limit.refused(by_status=True)
    assert room_for(limit, 3)
    assert not room_for(limit, 4)


def test_silence_counts_only_the_answers_that_are_read() -> None:
    """A server that is silent to all is no server that wants fewer requests."""
    limit = HostLimit(8)
    with requests(limit, 5):
        assert not limit.refused(by_status=False)
    with requests(limit, 5, answered=2):
        assert limit.refused(by_status=False)
    assert room_for(limit, 2)
    assert not room_for(limit, 3)


def test_one_more_is_tried_after_a_while() -> None:
    """Half a minute without a refusal, and again, up to what is allowed."""
    clock = Clock()
    limit = HostLimit(3, clock)
    with requests(limit, 2):
        assert limit.refused(by_status=True)
    assert not room_for(limit, 2)
    for most in (2, 3, 3):
        clock.now += 31
        assert room_for(limit, most)
        assert not room_for(limit, most + 1)


def test_a_request_that_waits_gets_the_turn_of_one_that_ends() -> None:
    """Also when the limit went down while more were inside."""
    limit = HostLimit(2)
    begun = threading.Event()

    def wait() -> None:
        with limit.turn():
            begun.set()

    with requests(limit, 2):
        assert limit.refused(by_status=True)
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.05)
        assert not begun.is_set()
    waiting.join(10)
    assert begun.is_set()
