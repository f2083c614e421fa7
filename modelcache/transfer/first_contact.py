"""The first contact with a server: one request finds out whether it is there, and the others wait for what it learns.

A server that has not answered in this run is out of reach for every model: its name is not known, its port is closed
or speaks another language, a proxy or a certificate is in the way. So one request asks, with short pauses, since such
a failure costs little: for a resolver or a container that comes up some seconds later, as where compose starts a mirror
beside the tool. Once it has answered, a failure is one of the request that has it, with the whole patience: a Hub may
be started anew in the middle of a run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import TypeVar

from modelcache.core.errors import HubError
from modelcache.core.interfaces import Reporter
from modelcache.transfer.retry import (
    WORTH_A_TRY,
    AlreadyWaitedError,
    NoContactError,
    RetryPolicy,
    RetryState,
    ShortageError,
    TransientError,
)

T = TypeVar("T")

_GROWTH = 2.0
"""Pauses of two seconds at the most: seven in all with the default of --retries."""
_TRIES_THAT_HANG = 2
"""Retries where connecting takes the whole of --timeout, because packets end nowhere."""


class FirstContact:
    """What is known of one server."""

    def __init__(self, policy: RetryPolicy, reporter: Reporter) -> None:
        hanging = replace(policy, retries=min(policy.retries, _TRIES_THAT_HANG))
        self._refused = RetryState("", policy, reporter, threading.Event(), growth=_GROWTH)
        self._hanging = RetryState("", hanging, reporter, threading.Event(), growth=_GROWTH)
        self.made = False
        """Whether it has said something, or at least let itself be asked."""
        self._failure: HubError | None = None
        self._lock = threading.Lock()

    def call(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns; until the server has said something, one caller at a time asks.

        Raises:
            AlreadyWaitedError: there was no answer; the Hub, which sent us to this server, may name another one.
            HubUnreachableError: the server has not answered, now or when another caller asked.

        """
        if self.made:
            return ask()
        with self._lock:
            if self._failure is not None:
                raise copy(self._failure)
            if not self.made:
                return self._first(ask)
        return ask()

    def _first(self, ask: Callable[[], T]) -> T:
        try:
            answer = ask()
        except NoContactError as error:
            self._missed(error)
            raise AlreadyWaitedError(error.reason, hint=error.hint) from error
        except HubError as error:
            self._failure = error
            raise
        except ShortageError:
            raise
        except TransientError:  # silence after a connection, a status: it is there
            self.made = True
            raise
        self.made = True
        return answer

    def others_progress(self) -> None:
        """Begin to count anew, since bytes come from another server: as long as they do, this one is not given up."""
        if not self.made:
            self._refused.progressed(WORTH_A_TRY)
            self._hanging.progressed(WORTH_A_TRY)

    def _missed(self, error: NoContactError) -> None:
        try:
            (self._hanging if error.hung else self._refused).failed(error)
        except HubError as final:
            self._failure = final
            raise
