"""Tasks where threads are scarce: each is done once, by as many threads as there are, or by whoever submits it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from modelcache.system.threads import Pool, start_thread


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Let the machine refuse every thread: a stack of 4 EiB fits no address space."""
    before = threading.stack_size(1 << 62)
    try:
        assert start_thread(threading.get_ident) is None
        yield
    finally:
        threading.stack_size(before)


@contextmanager
def pools_with(*threads: int) -> Iterator[Sequence[Pool]]:
    """Give pools, each with so many threads, that could have four and get no more."""
    with ExitStack() as ending:
        pools = [ending.enter_context(Pool(4, "test")) for _ in threads]
        for pool, count in zip(pools, threads, strict=True):
            if count:
                everybody = threading.Barrier(count)
                wait([pool.submit(everybody.wait, 10) for _ in range(count)])
        ending.enter_context(no_more_threads())
        yield pools


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_every_task_is_done_once(threads: int) -> None:
    """Whatever the machine gives, and however many submit at once."""
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            done[number] += 1
        time.sleep(0.0005)
        return -number

    with pools_with(threads) as (pool,):
        assert list(pool.map(work, range(200))) == [-number for number in range(200)]
    assert done == Counter(range(200))


def test_without_a_thread_the_caller_does_it() -> None:
    """The future is done when submit returns."""
    with pools_with(0) as (pool,):
        future = pool.submit(threading.current_thread)
        assert future.done()
        assert future.result() is threading.current_thread()


def test_with_one_thread_the_task_waits_for_it() -> None:
    """A pool that has a thread never takes the time of the caller."""
    gate = threading.Event()
    with pools_with(1) as (pool,):
        first, second = pool.submit(gate.wait), pool.submit(threading.current_thread)
        assert not second.done()
        gate.set()
        assert first.result(10)
        assert second.result(10) is not threading.current_thread()


@pytest.mark.parametrize(("outer", "inner"), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 2)])
def test_a_task_may_wait_for_tasks_of_another_pool(outer: int, inner: int) -> None:
    """Files wait for their segments: with any number of threads in either pool."""
    with pools_with(inner, outer) as (segments, files):

        def file(number: int) -> int:
            return sum(future.result(10) for future in [segments.submit(abs, -number) for _ in range(5)])

        assert list(files.map(file, range(20))) == [5 * number for number in range(20)]


def test_threads_are_begun_once_they_can_be_had() -> None:
    """A refusal is not remembered: the next task may find room."""
    with Pool(2, "test") as pool:
        with no_more_threads():
            assert pool.submit(threading.current_thread).result() is threading.current_thread()
        assert pool.submit(threading.current_thread).result(10) is not threading.current_thread()


@pytest.mark.parametrize("threads", [0, 1])
def test_a_failure_is_told_to_whoever_asks_for_the_result(threads: int) -> None:
    """Also one of memory, and the pool goes on."""

    def fail() -> None:
        raise MemoryError

    with pools_with(threads) as (pool,):
        with pytest.raises(MemoryError):
            pool.submit(fail).result(10)
        assert pool.submit(abs, -1).result(10) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_threads_than_allowed(count: int) -> None:
    """And as many where there is work for them."""
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    with Pool(count, "test") as pool:
        list(pool.map(lambda _: work(), range(20)))
    assert most == count


def test_an_idle_thread_takes_the_next_task() -> None:
    """No second thread is begun while the first has nothing to do."""
    with Pool(8, "test") as pool:
        used = set()
        for _ in range(10):
            used.add(pool.submit(threading.get_ident).result(10))
            time.sleep(0.01)
    assert len(used) == 1


def test_what_waits_can_be_dropped() -> None:
    """Those who wait for it are told; what has begun is finished."""
    begun, gate, told = threading.Event(), threading.Event(), threading.Event()
    pool = Pool(1, "test")

    def work() -> bool:
        begun.set()
        return gate.wait()

    first, second = pool.submit(work), pool.submit(abs, -1)
    assert begun.wait(10)
    second.add_done_callback(lambda _: told.set())
    threading.Timer(0.05, gate.set).start()
    pool.shutdown(cancel_futures=True)
    assert first.result(0)
    assert told.is_set()
    with pytest.raises(CancelledError):
        second.result(0)
    both: list[Future[Any]] = [first, second]
    assert wait(both, timeout=0).not_done == set()
    with pytest.raises(RuntimeError):
        pool.submit(abs, -1)


def test_what_waits_is_done_before_the_end() -> None:
    """Leaving the pool as a context loses nothing."""
    with Pool(1, "test") as pool:
        futures: list[Future[int]] = [pool.submit(abs, -number) for number in range(50)]
    assert [future.result(0) for future in futures] == list(range(50))


def test_a_dropped_future_is_not_done() -> None:
    """A caller may take a task back that no thread has begun."""
    gate, ran = threading.Event(), threading.Event()
    with Pool(1, "test") as pool:
        pool.submit(gate.wait)
        second = pool.submit(ran.set)
        assert second.cancel()
        gate.set()
    assert not ran.is_set()


def test_nothing_of_a_task_outlives_it() -> None:
    """A thread that waits holds nothing of what it has done."""
    import gc
    import weakref

    class Thing:
        pass

    def work(thing: object) -> Callable[[], object]:
        return weakref.ref(thing)

    with Pool(1, "test") as pool:
        left = pool.submit(work, Thing()).result(10)
        deadline = time.monotonic() + 10
        while left() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert left() is None
