"""What was asked, and what is to go wrong: shared by all connections, so everything here takes the lock."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.support.hub.faults import Fault

from .site import Ask, Host, Kind


@dataclass(slots=True)
class Request:
    """Record what was asked and what was sent; status 0 means that no status line went out."""

    host: Host
    kind: Kind
    method: str
    path: str
    repository: str | None
    reference: str | None
    """The tag, digest or session."""
    headers: Mapping[str, str]
    """With names in lower case."""
    status: int = 0
    received: int = 0
    sent: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def range(self) -> str | None:
        """The bytes that it asks for."""
        return self.headers.get("range")

    @property
    def authorization(self) -> str | None:
        """Its password or token."""
        return self.headers.get("authorization")


@dataclass(slots=True)
class Armed:
    """A fault and its requests: `left` of those that fit, after `skip` that stay whole; -1 is for ever."""

    fault: Fault
    kind: Kind | None
    method: str | None
    host: Host | None
    on: str
    skip: int
    left: int

    def fits(self, ask: Ask) -> bool:
        """Tell whether the request may be one of them."""
        fits = self.kind in (None, ask.kind) and self.method in (None, ask.method) and self.host in (None, ask.host)
        return fits and self.left != 0 and re.search(self.on, ask.target) is not None


class RequestLog:
    """Every request in the order of arrival, and the faults that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._armed: list[Armed] = []

    def note(self, ask: Ask) -> Request:
        """Write a request down; its own thread counts on in what it gets."""
        headers = {name.lower(): value for name, value in ask.headers.items()}
        request = Request(ask.host, ask.kind, ask.method, ask.target, ask.repo, ask.file, headers)
        with self._lock:
            self._requests.append(request)
        return request

    def arm(self, armed: Armed) -> None:
        """Let requests that fit go wrong."""
        with self._lock:
            self._armed.append(armed)

    def fault(self, ask: Ask) -> Fault | None:
        """The fault of this request."""
        with self._lock:
            for armed in self._armed:
                if not armed.fits(ask):
                    continue
                if armed.skip:
                    armed.skip -= 1
                    continue
                armed.left -= 1
                return armed.fault
        return None

    def mend(self) -> None:
        """Forget the faults."""
        with self._lock:
            self._armed.clear()

    def requests(self) -> list[Request]:
        """Copy the record."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def forget(self) -> None:
        """Start the record afresh."""
        with self._lock:
            self._requests.clear()
