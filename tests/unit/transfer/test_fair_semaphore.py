"""Who may ask when: never more than so many, and nobody is passed by."""

from __future__ import annotations

import threading
import time

import pytest

from modelcache.transfer.fair_semaphore import FairSemaphore


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_so_many(count: int) -> None:
    """Whoever waits gets in as soon as somebody leaves."""
    turns, lock, now, most = FairSemaphore(count), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        for _ in range(20):
            with turns:
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0.0005)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (now, most) == (0, count)


def test_first_come_first_served() -> None:
    """Threads that come back at once, again and again, do not keep a turn among themselves."""
    turns, over = FairSemaphore(1), threading.Event()

    def greedy() -> None:
        while not over.is_set():
            with turns:
                time.sleep(0.001)

    def patient() -> None:
        for _ in range(20):
            with turns:
                pass

    threads = [threading.Thread(target=greedy) for _ in range(2)]
    waiting = threading.Thread(target=patient)
    for thread in (*threads, waiting):
        thread.start()
    waiting.join(10)
    passed_by = waiting.is_alive()
    over.set()
    for thread in (*threads, waiting):
        thread.join(30)
    assert not passed_by


def test_a_failure_gives_its_turn_back() -> None:
    """As any context manager."""
    turns = FairSemaphore(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), turns:
            raise ValueError("no")
