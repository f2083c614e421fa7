"""Limits for the clients of the reference API: number of requests, memory and time.

uvicorn and h11 parse HTTP. They wait forever for a header and for a client that does not read, and buffer the unread
part of an answer without limit. So this module gives each wait a deadline, limits the total size of arriving bodies,
and counts a request as in progress until its answer is sent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress

import h11
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from modelcache.cli.progress import write_line

MAX_BYTES = 4 << 20  # of one request's body
MAX_REQUESTS = 32  # requests whose body has arrived and whose answer is not sent yet
MAX_UPLOADS = 256  # bodies that are arriving
MAX_UPLOAD_BYTES = 128 << 20  # of all bodies that are arriving
MAX_IDLE = 1000  # connections without a request in progress
HEAD_SECONDS = 10  # for a request's header to arrive
READ_SECONDS = 30  # for its body to arrive
IDLE_SECONDS = 75  # for the next request after an answer; longer than the idle timeout of proxies, usually 60
SEND_SECONDS = 60  # for the client to read its answer,
SEND_RATE = 256 << 10  # plus one second for each of these bytes that it has read
GRACE_SECONDS = 1  # for a client to read why its body is refused
PIECE = 64 << 10  # bytes written to a connection at once


class RefusedError(Exception):
    """The reason for refusing a request; `param` and `code` as in OpenAI's errors. `close` ends the connection."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.close = status, message, param, code, close


class Connection(H11Protocol):
    """uvicorn's connection, closed after HEAD_SECONDS without a request in progress.

    Such a connection is new, has sent half a header, or still sends a refused body. After an answer the limit is
    IDLE_SECONDS: a proxy that keeps connections for longer may send a request into a connection that is being closed.
    """

    lost = False
    _deadline: asyncio.TimerHandle

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for a request; with too many idle connections, close the one that has waited longest."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `send` waits until the kernel has all earlier bytes
        self.app_state = {**self.app_state, "connection": self}
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_idle)
        waiting = [other for other in self.connections if isinstance(other, Connection) and other.idle]
        if len(waiting) > MAX_IDLE:
            longest = min(waiting, key=lambda other: other._deadline.when())
            self.connections.discard(longest)  # now, since connection_lost comes only in a later turn of the loop
            longest.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._deadline.cancel()
        seconds = IDLE_SECONDS if self.conn.their_state is h11.DONE else HEAD_SECONDS  # else a refused body still comes
        self._deadline = self.loop.call_later(seconds, self._end_idle)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline, which references this connection, and stop writing to it."""
        self.lost = True
        self._deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with 400 if no answer has begun; close the connection in any case."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.abort()

    def _end_idle(self) -> None:
        if self.idle:
            self.transport.abort()


class Bounded:
    """The application without ambiguous requests, and with a deadline for each answer.

    `state.held` is an ExitStack of the resources that a request holds until its answer is sent.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[RefusedError], ASGIApp]) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_all(message: Message) -> None:
            """Send a message and wait until the kernel has it; close the connection if its client does not read."""
            until = asyncio.get_running_loop().time() + SEND_SECONDS
            try:
                async with asyncio.timeout_at(until) as deadline:
                    for piece in pieces(message):
                        await send(piece)
                        until += len(piece.get("body", b"")) / SEND_RATE
                        deadline.reschedule(until)
                        await asyncio.sleep(0)  # other tasks run, and asyncio can report that the client is gone
                        if connection.lost:
                            break
            except TimeoutError:
                path = scope["raw_path"].decode()
                write_line(f"{scope['method']} {path}: its answer is not read", sys.stderr)
                connection.transport.abort()  # close() would wait for the client
                await asyncio.sleep(0)  # until uvicorn has noticed

        connection: Connection = scope["state"]["connection"]
        fault = framing_fault(scope)
        app = self._refuse(RefusedError(400, fault, close=True)) if fault else self._app
        with ExitStack() as held:
            scope["state"]["held"] = held
            await app(scope, receive, send_all)


def pieces(message: Message) -> list[Message]:
    """Split a message, so that only one piece of a body is buffered in the connection; the last piece is empty."""
    if message["type"] != "http.response.body":
        return [message]
    content = memoryview(message.get("body", b""))
    parts = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    return [*({**message, "body": part, "more_body": True} for part in parts), {**message, "body": b""}]


def framing_fault(scope: Scope) -> str:
    """Say why the end of a body is ambiguous: a proxy may find another end than h11 (RFC 9112, 6.1, 6.3).

    h11 itself refuses the other ambiguous requests.
    """
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" not in names:
        return ""
    if b"content-length" in names:
        return "a request has Content-Length or Transfer-Encoding, not both"
    return "HTTP/1.0 has no Transfer-Encoding" if scope["http_version"] == "1.0" else ""


class Uploads:
    """The bodies that are arriving. If they are too many, or too large in total, the oldest is refused.

    So idle uploads block no other body: a body that arrives at once is never the oldest.
    """

    def __init__(self) -> None:
        self.arrived: dict[asyncio.Timeout, int] = {}  # received bytes of each body, oldest first

    async def read(self, request: Request) -> bytearray:
        """Return a request's body; refuse one that is too large, too slow, or the oldest of too many."""
        size = int(request.headers.get("content-length", 0))
        content = bytearray()
        stream = request.stream()
        try:
            async with asyncio.timeout(READ_SECONDS) as deadline:
                self.arrived[deadline] = 0
                self._make_room()
                while size <= MAX_BYTES and (chunk := await anext(stream, None)) is not None:
                    content += chunk
                    size = max(size, len(content))
                    if deadline in self.arrived:
                        self.arrived[deadline] = len(content)
                        self._make_room()
        except TimeoutError:
            if deadline in self.arrived:
                words = f"the body did not arrive within {READ_SECONDS} seconds"
                raise RefusedError(408, words) from None
            words = "too many bodies are arriving, and this one has taken the longest"
            raise RefusedError(503, words, code="overloaded") from None
        finally:
            self.arrived.pop(deadline, None)
        if size <= MAX_BYTES:
            return content
        content.clear()
        # Most clients read an answer only after they have sent everything; for the others a moment is enough.
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                async for _ in stream:
                    pass
        raise RefusedError(413, f"the body is larger than {MAX_BYTES} bytes", code="request_too_large")

    def _make_room(self) -> None:
        while len(self.arrived) > MAX_UPLOADS or sum(self.arrived.values()) > MAX_UPLOAD_BYTES:
            oldest = next(iter(self.arrived))
            del self.arrived[oldest]
            if not oldest.expired():  # else its own deadline already ends it
                oldest.reschedule(asyncio.get_running_loop().time())
