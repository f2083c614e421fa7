"""A pool of as many threads as the machine gives: fewer where it refuses them, none where it gives none.

A container may allow a handful of processes (`pids.max`, `ulimit -u`), an old seccomp profile may refuse clone3, and
an address space may have no room for a stack. The pool of the standard library fails there, and has by then queued
work that nobody does. In this one a task waits for a thread that is there, and where there is none the caller does
the task inside `submit`: the future is done when `submit` returns.

Each task is done once, whatever is refused. A task may submit to another pool and wait for that. It must not wait for
a task of its own pool, nor for what its submitter does later: so none is submitted under a lock that it takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SHORT_OF_MEMORY = 0.05

_Task = tuple["Future[Any]", Callable[[], object]]


def start_thread(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a thread that keeps no process alive; None where the machine gives none."""
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    except (RuntimeError, MemoryError):  # "can't start new thread": the limit of the user, of the cgroup, of memory
        return None
    return thread


class Pool(Executor):
    """An executor of `count` threads at the most, begun when there is work for them."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._ended = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a task done by a thread, or do it here and now where there is no thread.

        Raises:
            RuntimeError: the pool has been shut down.

        """
        future: Future[T] = Future()
        task = (future, partial(work, *args, **kwargs))
        with self._changed:
            if self._ended:
                raise RuntimeError("the pool has been shut down")
            if self._idle <= len(self._tasks) and len(self._threads) < self._count:
                self._add_thread()
            if self._threads:
                self._tasks.append(task)
                self._changed.notify()
                return future
        _do(task)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; those that wait are done, or with `cancel_futures` cancelled."""
        with self._changed:
            self._ended = True
            dropped = list(self._tasks) if cancel_futures else []
            if cancel_futures:
                self._tasks.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            if future.cancel():
                future.set_running_or_notify_cancel()  # tells those who wait for several
        if wait:
            for thread in self._threads:
                thread.join()

    def _add_thread(self) -> None:
        if thread := start_thread(self._serve, f"{self._name}_{len(self._threads)}"):
            self._threads.append(thread)

    def _serve(self) -> None:
        while True:
            try:
                task = self._next()
            except MemoryError:  # a thread that went for that would leave its tasks undone
                time.sleep(_SHORT_OF_MEMORY)
                continue
            if task is None:
                return
            _do(task)
            del task  # or what it holds would live until the next one comes

    def _next(self) -> _Task | None:
        """Wait for a task; None when there will be no more."""
        with self._changed:
            self._idle += 1
            try:
                while not self._tasks and not self._ended:
                    self._changed.wait()
            finally:
                self._idle -= 1
            return self._tasks.popleft() if self._tasks else None


def _do(task: _Task) -> None:
    future, work = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # whoever asks for the result gets it
        future.set_exception(error)
    else:
        future.set_result(result)
