"""The desk between the servers and the sites: notes every request, spoils the answers it was told to.

Shared by all connections, so everything here takes the lock.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote

from .faults import Fault
from .request import ParsedRequest
from .sites import Site
from .wire import Delivery

Host = Literal["hub", "cdn"]


@dataclass(frozen=True, slots=True)
class Request:
    """Record what was asked and what was sent; status 0 means that no status line went out."""

    host: Host
    method: str
    path: str
    status: int
    range: str | None = None
    authorization: str | None = None
    sent: int = 0
    repo: str | None = None
    file: str | None = None
    at: float = 0.0  # time.monotonic() when it arrived


class Note:
    """Keep one request's record while its body is still going out."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._sent = 0

    def count(self, size: int) -> None:
        """Add to the bytes sent; only the connection's own thread does."""
        self._sent += size

    @property
    def request(self) -> Request:
        """Give the record as it stands now."""
        return replace(self._request, sent=self._sent)


@dataclass(slots=True)
class _Armed:
    fault: Fault
    on: re.Pattern[str]
    left: int


class RequestLog:
    """Plan each delivery and remember it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._notes: list[Note] = []
        self._armed: list[_Armed] = []

    def plan(self, host: Host, ask: ParsedRequest) -> Delivery:
        """Decide the answer and what will go wrong with it."""
        answer = self.site.hub(ask) if host == "hub" else self.site.cdn(ask)
        delivery = Delivery(answer, ask.headers.get("Range") if ask.method == "GET" else None)
        fault = self._take(host, ask)
        return fault.bend(delivery) if fault else delivery

    def note(self, request: Request) -> Note:
        """Write a request down, before its answer goes out: a client that was answered finds it."""
        note = Note(request)
        with self._lock:
            self._notes.append(note)
        return note

    def arm(self, fault: Fault, on: str, times: int) -> None:
        """Spoil the next `times` requests that fit; -1 is for ever."""
        with self._lock:
            self._armed.append(_Armed(fault, re.compile(on), times))

    def requests(self) -> list[Request]:
        """Copy the record."""
        with self._lock:
            return [note.request for note in self._notes]

    def forget(self) -> None:
        """Start the record afresh."""
        with self._lock:
            self._notes.clear()

    def _take(self, host: Host, ask: ParsedRequest) -> Fault | None:
        paths = (ask.target, unquote(ask.target), f"{ask.repo}/{ask.file}")
        with self._lock:
            for armed in self._armed:
                if armed.left and any(armed.on.search(f"{ask.method} {host} {path}") for path in paths):
                    armed.left -= 1
                    return armed.fault
        return None
