"""Putting one answer on a socket, whole or broken in the way a fault asks for.

Knows sockets; nothing of the Hub.
"""

from __future__ import annotations

import enum
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from .answers import Answer, Span, span
from .content import Content

_PIECE = 8 << 20  # at most this much between two looks at the connection
_DRAIN_SECONDS = 5.0


class Ending(enum.Enum):
    """Say what becomes of the connection after the body."""

    KEEP = enum.auto()
    CLOSE = enum.auto()
    RESET = enum.auto()
    HOLD = enum.auto()


@dataclass(frozen=True, slots=True)
class Delivery:
    """Hold an answer and everything that will go wrong with it."""

    answer: Answer
    range: str | None = None
    head: bool = True
    limit: int | None = None
    ending: Ending = Ending.KEEP
    rate: int | None = None
    flip: int | None = None
    delta: int = 0
    dropped: frozenset[str] = frozenset()
    added: tuple[tuple[str, str], ...] = ()
    before: bytes = b""
    """Goes out in front of the status line."""
    version: str = "HTTP/1.1"
    head_limit: int | None = None
    head_rate: int | None = None
    chunk: int | None = None
    """The body goes out in chunks of this size."""
    tail: bytes = b""
    """Goes out behind the body."""
    again: bytes = b""
    """Goes out after everything else, again and again until the client goes away."""
    pause: float = 0.0
    """Seconds between two of these."""

    def span(self) -> Span:
        """Choose the bytes to announce."""
        return span(self.answer, self.range)

    def header(self, chosen: Span) -> bytes:
        """Compose status line and headers."""
        headers = {
            **self.answer.headers,
            "Date": formatdate(usegmt=True),
            "Content-Length": str(chosen.stop - chosen.start + self.delta),
        }
        if chosen.content_range is not None:
            headers["Content-Range"] = chosen.content_range
        if chosen.status in (204, 304):
            del headers["Content-Length"]
        reason = HTTPStatus(chosen.status).phrase if chosen.status in set(HTTPStatus) else "Unknown"
        if self.chunk is not None:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        lines = [f"{self.version} {chosen.status} {reason}"]
        gone = self.dropped | {name.lower() for name, _ in self.added}
        lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() not in gone]
        lines += [f"{name}: {value}" for name, value in self.added]
        return "\r\n".join([*lines, "", ""]).encode("utf-8")[: self.head_limit]

    @property
    def keeps(self) -> bool:
        """Tell whether another request may follow on this connection."""
        framed = {"content-length", "transfer-encoding"}
        touched = self.dropped | {name.lower() for name, _ in self.added}
        return self.ending is Ending.KEEP and not framed & touched and self.version == "HTTP/1.1"


def deliver(
    sock: socket.socket,
    delivery: Delivery,
    chosen: Span,
    *,
    body: bool,
    count: Callable[[int], None],
    closing: threading.Event,
) -> None:
    """Send the answer and end the connection as the delivery says; `body` is false for HEAD."""
    sock.sendall(delivery.before)
    if delivery.head:
        _send_head(sock, delivery.header(chosen), delivery.head_rate, closing)
    if body and delivery.head_limit is None:
        stop = chosen.stop if delivery.limit is None else min(chosen.stop, chosen.start + delivery.limit)
        for start, end in _pieces(chosen.start, stop, delivery):
            if delivery.chunk is not None:
                sock.sendall(f"{end - start:x}\r\n".encode())
            _send(sock, delivery.answer.content, start, end, flip=delivery.flip, count=count)
            if delivery.chunk is not None:
                sock.sendall(b"\r\n")
            if delivery.rate is not None and closing.wait((end - start) / delivery.rate):
                return
        sock.sendall(delivery.tail)
    while delivery.again and not closing.wait(delivery.pause):
        sock.sendall(delivery.again)
    if delivery.ending is Ending.HOLD:
        _hold(sock, closing)
    elif delivery.ending is Ending.RESET:
        _reset(sock)


def _send_head(sock: socket.socket, head: bytes, rate: int | None, closing: threading.Event) -> None:
    if rate is None:
        sock.sendall(head)
        return
    for at in range(len(head)):
        sock.sendall(head[at : at + 1])
        if closing.wait(1 / rate):
            return


def _pieces(start: int, stop: int, delivery: Delivery) -> Iterator[tuple[int, int]]:
    step = _PIECE if delivery.rate is None else max(1, min(_PIECE, delivery.rate // 20))
    step = min(step, delivery.chunk or step)
    while start < stop:
        end = min(start + step, stop)
        if delivery.flip is not None and start <= delivery.flip < end:
            # the spoiled byte travels alone, so that everything around it still goes by sendfile
            end = delivery.flip if start < delivery.flip else start + 1
        yield start, end
        start = end


def _send(
    sock: socket.socket, content: Content, start: int, end: int, *, flip: int | None, count: Callable[[int], None]
) -> None:
    if isinstance(content.source, bytes) or flip == start:
        data = _read(content, start, end)
        count(len(data))  # before sending: who has read the last byte finds it counted
        sock.sendall(bytes([data[0] ^ 0xFF]) if flip == start else data)
        return
    with content.source.open("rb", buffering=0) as stream:
        while start < end:
            count(end - start)
            moved = 0
            try:
                moved = os.sendfile(sock.fileno(), stream.fileno(), start, end - start)
            finally:
                count(moved - (end - start))
            if moved == 0:
                raise ConnectionAbortedError(f"{content.source} became shorter while it was served")
            start += moved


def _read(content: Content, start: int, end: int) -> bytes:
    if isinstance(content.source, bytes):
        return content.source[start:end]
    with content.source.open("rb", buffering=0) as stream:
        return os.pread(stream.fileno(), end - start, start)


def _hold(sock: socket.socket, closing: threading.Event) -> None:
    while not closing.is_set():
        readable, _, _ = select.select([sock], [], [], 0.05)
        if readable and not sock.recv(4096):
            return


def _reset(sock: socket.socket) -> None:
    # An abortive close throws away what is still in the send buffer; the promised bytes go out first.
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline and _unsent(sock):
        time.sleep(0.001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # detached, because socketserver would shut the socket down, which is a FIN, before closing it
    os.close(sock.detach())


def _unsent(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
