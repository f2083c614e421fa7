"""How slowly an answer may come: a server that sends a byte now and then is as good as a silent one.

A time limit on the socket is about silence, and each byte starts it anew: one header line every nine seconds, or
interim answers without end, would keep a request for days. So an answer also has to get on: its beginning, and then
every 64 KiB of what it is about, has to come within a window. Time that the reader spends elsewhere, as on a slow
disk, is not the server's.
"""

from __future__ import annotations

import http.client
import io
import socket
import time

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

LEAST = 1 << 16
"""Bytes that an answer has to bring, unless it ends before."""
WINDOW = 6.0
"""How much time it has for them, in timeouts."""


class TooSlowError(OSError):
    """The server says something, but gets nowhere."""


class _Timed(io.RawIOBase):
    """Reads a socket until the time is over."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = timeout
        self._left = WINDOW * timeout
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
                return self._raw.readinto(buffer)  # type: ignore[arg-type]  # what came in goes on
            except TimeoutError:
                if time.monotonic() < self._until:
                    raise
        raise TooSlowError(f"too slow: less than {LEAST >> 10} KiB in {WINDOW * self._timeout:.0f} s")

    def close(self) -> None:
        self._raw.close()
        super().close()

    def resume(self) -> None:
        """The reader wants more: from here on it is the server's time."""
        self._until = time.monotonic() + self._left

    def pause(self, came: int) -> None:
        """The reader has got so many bytes; with enough of them the time begins anew."""
        self._left = self._until - time.monotonic()
        self._count += came
        if self._count >= LEAST:
            self._left, self._count = WINDOW * self._timeout, 0


class _PacedResponse(http.client.HTTPResponse):
    """An answer that has to get on, also while it is only a beginning; and that may be announced by interim ones."""

    fp: io.BufferedReader

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        # The timeout is there: urllib3 has set it on the socket just before.
        self._timed = _Timed(self.fp.detach(), sock, sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.pause(0)

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status of the answer itself: http.client passes over interim ones (RFC 9110, 15.2) only if 100."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # unknown to typeshed
            if not 102 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def read1(self, n: int = -1) -> bytes:
        self._timed.resume()
        data = super().read1(n)
        self._timed.pause(len(data))
        return data


class _Connection(HTTPConnection):
    response_class = _PacedResponse


class _SecureConnection(HTTPSConnection):
    response_class = _PacedResponse

    def connect(self) -> None:
        """Connect; the words with a proxy and the handshake belong to that, and are late in the same way."""
        try:
            super().connect()
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no answer to CONNECT or to the TLS handshake") from error


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def paced(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """Let every answer that comes through this manager have to get on."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager
