"""A slow line between a client and the Hub: every byte is delayed, and all connections share one rate.

It forwards TCP and does not parse HTTP. It has no packet loss and no slow start: those would slow all clients equally.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE = 1 << 15
_HELD = 0.05
"""The length of the queue in seconds; beyond it the sender has to wait."""


class Rate:
    """The rate at which bytes leave, shared by all senders."""

    def __init__(self, bytes_a_second: float) -> None:
        self._rate = bytes_a_second
        self._free = 0.0
        self._lock = threading.Lock()

    def leaves(self, size: int) -> float:
        """Return the time at which the last of these bytes leaves."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            return self._free


class Link:
    """Forwards to some servers, with one port for each."""

    def __init__(self, *servers: str, round_trip: float, bytes_a_second: float) -> None:
        self._round_trip = round_trip
        self._down = Rate(bytes_a_second)
        self._up = Rate(bytes_a_second)
        self._servers = [(urlsplit(server).hostname or "", urlsplit(server).port or 80) for server in servers]
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in servers]
        self.urls = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]

    def __enter__(self) -> Self:
        """Begin to forward."""
        for listener, server in zip(self._listeners, self._servers, strict=True):
            threading.Thread(target=self._listen, args=(listener, server), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening; open connections end when client or server closes them."""
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listen(self, listener: socket.socket, server: tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                behind = socket.create_connection(server)
                for end in (client, behind):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one_way = self._round_trip / 2
                # A real handshake takes a round trip before the first byte; the one on loopback took none.
                _Way(client, behind, one_way, self._up, held_until=time.monotonic() + self._round_trip).start()
                _Way(behind, client, one_way, self._down, held_until=0).start()


class _Way:
    """One direction of one connection: one thread reads and sets the time of sending, another one sends."""

    def __init__(
        self, source: socket.socket, target: socket.socket, delay: float, rate: Rate, *, held_until: float
    ) -> None:
        self._source, self._target = source, target
        self._delay, self._rate, self._held_until = delay, rate, held_until
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()

    def start(self) -> None:
        for work in (self._read, self._send):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        data = b"more"
        while data:
            try:
                data = self._source.recv(_PIECE)
            except OSError:
                data = b""
            leaves = self._rate.leaves(len(data))
            with self._changed:
                self._waiting.append((max(leaves, self._held_until) + self._delay, data))
                self._changed.notify()
            time.sleep(max(0.0, leaves - time.monotonic() - _HELD))

    def _send(self) -> None:
        with suppress(OSError):
            while True:
                with self._changed:
                    while not self._waiting:
                        self._changed.wait()
                    due, data = self._waiting.popleft()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(data)
