"""A thread pool that works with as few threads as the machine allows, even with none.

A container may allow a handful of processes (`pids.max`, `ulimit -u`), an old seccomp profile may refuse clone3, and
an address space may have no room for a stack. The pool of the standard library fails there, after it has queued tasks
that no thread will run. In this pool a task waits for an existing thread; if there is none, the caller runs the task
inside `submit`, and the future is done when `submit` returns.

Each task runs once, whatever is refused. A task may submit to another pool and wait for that. It must not wait for a
task of its own pool, or for later work of its submitter; so never submit a task under a lock that it takes.

`threading.Thread.start` waits for ever for a thread without memory for its first steps, and every wait for a condition
allocates a lock. So this module starts threads with `_thread`, and they wait only for a queue.
"""

from __future__ import annotations

import _thread
import mmap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Executor, Future, InvalidStateError
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from modelcache.core.interfaces import StoppedError
from modelcache.system.limits import keep_reserve, use_reserve

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

_LONGEST_START = 5.0
_ROOM = 64 << 20
_failed_starts: list[Thread] = []
"""After a failed start no other is tried: each would take the whole `_LONGEST_START`."""
_Task = tuple["Future[Any]", Callable[[], object]]


class Thread:
    """A thread that keeps no process alive."""

    def __init__(self) -> None:
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self._begun = _thread.allocate_lock()

    def claim(self) -> bool:
        """Whether the caller comes first: the thread as it begins, or its parent as it gives up waiting."""
        return self._begun.acquire(blocking=False)

    def run(self, target: Callable[[], object], begun: SimpleQueue[None]) -> None:
        """Run the target."""
        try:
            if self.claim():
                begun.put(None)
                target()
        finally:
            self._running.release()

    def join(self) -> None:
        """Wait until it ends."""
        with self._running:
            pass


def start_thread(target: Callable[[], object]) -> Thread | None:
    """Start a thread; None if the machine refuses."""
    if _failed_starts:
        return None
    begun: SimpleQueue[None] = SimpleQueue()
    try:
        # Never touched: it tests whether a thread would leave enough address space for its work.
        mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        thread = Thread()
        _thread.start_new_thread(thread.run, (target, begun))
        begun.get(timeout=_LONGEST_START)
    except (RuntimeError, MemoryError, OSError):  # "can't start new thread": a limit of the user, cgroup or memory
        return None
    except Empty:  # it had no memory for its first call, and ended silently
        if not thread.claim():
            return thread  # it has begun meanwhile
        _failed_starts.append(thread)
        return None
    return thread


@contextmanager
def ticking(tick: Callable[[float], object], every: float = 1.0) -> Iterator[None]:
    """Call `tick` now and then while the body waits, with the seconds since its beginning.

    It is called in a thread, and never where the machine has none to spare.
    """
    ended, began = threading.Event(), time.monotonic()

    def run() -> None:
        while not ended.wait(every):
            tick(time.monotonic() - began)

    thread = start_thread(run)
    try:
        yield
    finally:
        ended.set()
        if thread:
            thread.join()


class Pool(Executor):
    """An executor of at most `count` threads, started when there is work for them."""

    def __init__(self, count: int, name: str) -> None:
        keep_reserve()
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._free = 0
        """Idle threads, minus the tasks that wait for one."""
        self._ended = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a task in a thread, or at once in the caller if there is no thread."""
        future: Future[T] = Future()
        task = (future, partial(work, *args, **kwargs))
        with self._lock:
            if self._ended:
                raise RuntimeError(f"the pool of {self._name} threads has been shut down")
            if self._free <= 0 and len(self._threads) < self._count and (thread := start_thread(self._serve)):
                self._threads.append(thread)
                self._free += 1
            if self._threads:
                self._free -= 1
                self._tasks.put(task)
                return future
        _run_task(task)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks; waiting ones still run, or are cancelled with `cancel_futures`."""
        with self._lock:
            self._ended = True
            while cancel_futures and not self._tasks.empty():
                self._drop_one()
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _drop_one(self) -> None:
        try:
            task = self._tasks.get_nowait()
        except Empty:  # a thread has taken it
            return
        if task and task[0].cancel():
            task[0].set_running_or_notify_cancel()  # for `wait` on several futures

    def _serve(self) -> None:
        while task := self._tasks.get():
            _run_task(task)
            del task  # or its arguments would live until the next task
            _retry_without_memory(self._free_one)
        _retry_without_memory(partial(self._tasks.put, None))  # for the next thread

    def _free_one(self) -> None:
        with self._lock:
            self._free += 1


def _run_task(task: _Task) -> None:
    future, work = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # the caller of `result` gets it
        if isinstance(error, MemoryError):
            use_reserve()
        _retry_without_memory(partial(future.set_exception, error))
    else:
        _retry_without_memory(partial(future.set_result, result))


def _retry_without_memory(notify: Callable[[], object]) -> None:
    """Notify others, without memory as often as needed: they fail, too, and release some."""
    with suppress(InvalidStateError):  # a try has notified them, and failed after that
        while True:
            try:
                notify()
            except MemoryError:
                continue
            return


def map_until_failure(
    pool: Executor, work: Callable[[Item], T], items: Sequence[Item], stop: Callable[[], object]
) -> list[T]:
    """Run work for several items in parallel; the first failure calls `stop` and is raised."""

    def run(item: Item) -> T:
        try:
            return work(item)
        except BaseException:
            stop()
            raise

    futures = [pool.submit(run, item) for item in items]
    if error := failure_of(futures):
        for future in futures:
            future.cancel()
        wait_for(futures)
        raise error
    return [future.result() for future in futures]


def failure_of(futures: Sequence[Future[Any]]) -> BaseException | None:
    """Wait until a task fails or all are done; return the failure.

    Tasks that end because another one has failed raise StoppedError, and may end before that one.
    """
    for until in (FIRST_EXCEPTION, ALL_COMPLETED):
        done, _ = wait_for(futures, return_when=until)
        failures = [error for task in futures if task in done and not task.cancelled() and (error := task.exception())]
        for error in failures:
            if not isinstance(error, StoppedError):
                return error
        if not failures:
            return None
    return failures[0]
