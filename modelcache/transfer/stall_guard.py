"""Abort a response that does not keep a minimum rate.

A time limit on the socket is about silence, and each byte starts it anew: one header line every nine seconds, or
interim answers without end, would keep a request for days. So a response also has to make progress: its head, and
then every 64 KiB of its body, has to come within a window. Time that the reader spends elsewhere, as on a slow disk,
does not count.
"""

from __future__ import annotations

import http.client
import io
import socket
import time

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

_MINIMUM = 1 << 16
"""Bytes that a response has to bring in each window, unless it ends before."""


class TooSlowError(OSError):
    """The server sends something, but less than the minimum rate."""


def with_stall_guard(manager: urllib3.PoolManager, window: float) -> urllib3.PoolManager:
    """Make every response of this manager keep the minimum rate; `window` is counted in timeouts of the socket."""
    guarded = type("_Response", (_GuardedResponse,), {"window": window})

    class Connection(HTTPConnection):
        response_class = guarded

    class SecureConnection(_SecureConnection):
        response_class = guarded

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
    return manager


class _GuardedResponse(http.client.HTTPResponse):
    """A response whose head and body have to make progress; interim ones may come before it."""

    fp: io.BufferedReader
    window: float

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        # The timeout is there: urllib3 has set it on the socket just before.
        self._guard = _GuardedSocket(self.fp.detach(), sock, sock.gettimeout() or 0.0, self.window)
        self.fp = io.BufferedReader(self._guard)

    def begin(self) -> None:
        """Read the head, and pass over interim ones (RFC 9110, 15.2): http.client does so only if they are 100."""
        super().begin()
        while 102 <= self.status < 200:
            self.headers = None  # type: ignore[assignment]  # as before the first call
            super().begin()
        self._guard.pause(0)

    def read1(self, n: int = -1) -> bytes:
        self._guard.resume()
        data = super().read1(n)
        self._guard.pause(len(data))
        return data


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        """Connect; silence after CONNECT or during the handshake counts as a timeout of the connection."""
        try:
            super().connect()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no answer to CONNECT or to the TLS handshake") from error


class _GuardedSocket(io.RawIOBase):
    """Reads a socket until the window is over."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, timeout: float, window: float) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = timeout
        self._window = self._left = window * timeout
        self._count = 0
        self._until = time.monotonic() + self._left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int | None:
        left = self._until - time.monotonic()
        if left > 0:
            if left < self._timeout or self._sock.gettimeout() != self._timeout:
                self._sock.settimeout(min(self._timeout, left))
            try:
                return self._raw.readinto(buffer)  # type: ignore[arg-type]  # a buffer, as in the base class
            except TimeoutError:
                if time.monotonic() < self._until:
                    raise
        raise TooSlowError(f"too slow: less than {_MINIMUM >> 10} KiB in {self._window:.0f} s")

    def close(self) -> None:
        self._raw.close()
        super().close()

    def resume(self) -> None:
        """Let the window run: the reader waits for the server."""
        self._until = time.monotonic() + self._left

    def pause(self, count: int) -> None:
        """Stop the window: the reader has got `count` bytes. With enough of them the next window begins."""
        self._left = self._until - time.monotonic()
        self._count += count
        if self._count >= _MINIMUM:
            self._left, self._count = self._window, 0
