"""The first contact with a server: one request finds out whether it can be reached, and the others wait for that.

A server that has not answered in this run is out of reach for every model: its name is not known, its port is closed
or speaks another protocol, a proxy or a certificate is in the way. So one request tries for all, with short pauses: a
resolver or a container may come up some seconds later, as where compose starts a mirror beside the tool. Once the
server has answered, each failure counts for its own request, with all its retries: a Hub may be restarted during a run.
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
    PROGRESS,
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
_HANGING_RETRIES = 2
"""Retries if connecting takes the whole of --timeout, as where a firewall drops packets."""


class FirstContact:
    """Whether one server can be reached."""

    def __init__(self, policy: RetryPolicy, reporter: Reporter) -> None:
        hanging = replace(policy, retries=min(policy.retries, _HANGING_RETRIES))
        self._refused = RetryState("", policy, reporter, threading.Event(), growth=_GROWTH)
        self._hanging = RetryState("", hanging, reporter, threading.Event(), growth=_GROWTH)
        self.made = False
        """Whether it has answered, or at least taken a connection."""
        self._failure: HubError | None = None
        self._lock = threading.Lock()

    def call(self, send: Callable[[], T]) -> T:
        """Return the result of `send`; until the server has answered, one caller at a time may send.

        Raises:
            AlreadyWaitedError: there was no answer; the Hub, which redirected to this server, may name another one.
            HubUnreachableError: the server has not answered, now or to another caller.

        """
        if self.made:
            return send()
        with self._lock:
            if self._failure is not None:
                raise copy(self._failure)
            if not self.made:
                return self._first(send)
        return send()

    def _first(self, send: Callable[[], T]) -> T:
        try:
            result = send()
        except NoContactError as error:
            try:
                (self._hanging if error.hung else self._refused).failed(error)
            except HubError as final:
                self._failure = final
                raise
            raise AlreadyWaitedError(error.reason, hint=error.hint) from error
        except HubError as error:
            self._failure = error
            raise
        except TransientError as error:  # silence after a connection, or a status: it can be reached
            self.made = not isinstance(error, ShortageError)
            raise
        self.made = True
        return result

    def others_progress(self) -> None:
        """Count failures anew: while bytes come from another server, this one is not given up."""
        if not self.made:
            self._refused.progressed(PROGRESS)
            self._hanging.progressed(PROGRESS)
