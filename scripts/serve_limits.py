"""Bounds for the clients of the reference API: places, memory and time, whatever a client sends or does not read.

uvicorn and h11 read HTTP. They wait without end for a header
and for a client that does not read, and one `send` keeps whatever the client has not taken. So here each wait has a
deadline, the bodies that are arriving have a bound together, and a request keeps its place until its answer is sent.
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
MAX_REQUESTS = 32  # whose body is there: they wait for the model, are being answered, or are being sent
MAX_UPLOADS = 256  # bodies that are arriving
MAX_UPLOAD_BYTES = 128 << 20  # of all bodies that are arriving
MAX_IDLE = 1000  # connections without a request that is being answered
HEAD_SECONDS = 10  # for a request's header to arrive
READ_SECONDS = 30  # for its body to arrive
IDLE_SECONDS = 75  # for the next request after an answer; longer than proxies keep a connection, most often 60
SEND_SECONDS = 60  # for the client to take its answer,
SEND_RATE = 256 << 10  # and a second more for so many bytes that it has taken
GRACE_SECONDS = 1  # for a client to see why its body is refused
PIECE = 64 << 10  # bytes that are given to a connection at once


class RefusedError(Exception):
    """Why a request gets no answer; `param` and `code` are OpenAI's. `close`: nothing more is read from its client."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.close = status, message, param, code, close


class Connection(H11Protocol):
    """uvicorn's connection. It is ended when no request of it is being answered for HEAD_SECONDS.

    Such a connection is new, or has sent half a header, or still sends a body that was refused. After an answer it is
    IDLE_SECONDS: a proxy that keeps connections for longer than that sends a request into one that is being closed.
    """

    lost = False
    _deadline: asyncio.TimerHandle

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request; with too many connections that wait, end the one that has waited longest."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `send` waits until all that was sent before is in the kernel
        self.app_state = {**self.app_state, "connection": self}
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_idle)
        waiting = [other for other in self.connections if isinstance(other, Connection) and other.idle]
        if len(waiting) > MAX_IDLE:
            longest = min(waiting, key=lambda other: other._deadline.when())
            self.connections.discard(longest)  # at once: it is lost only when the loop comes to that
            longest.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._deadline.cancel()
        seconds = IDLE_SECONDS if self.conn.their_state is h11.DONE else HEAD_SECONDS  # the latter of a refused body
        self._deadline = self.loop.call_later(seconds, self._end_idle)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline, which holds this connection, and have no more written to it."""
        self.lost = True
        self._deadline.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, where no answer has begun, and end the connection in any case."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.abort()

    def _end_idle(self) -> None:
        if self.idle:
            self.transport.abort()


class Bounded:
    """The application, for requests that all readers of HTTP read alike, and with a deadline for each answer.

    `state.held` is what a request holds until its answer has been sent: an ExitStack.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[RefusedError], ASGIApp]) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_all(message: Message) -> None:
            """Send a message and wait until the kernel has it; end a connection whose client does not read."""
            until = asyncio.get_running_loop().time() + SEND_SECONDS
            try:
                async with asyncio.timeout_at(until) as deadline:
                    for piece in pieces(message):
                        await send(piece)
                        until += len(piece.get("body", b"")) / SEND_RATE
                        deadline.reschedule(until)
                        await asyncio.sleep(0)  # others have a turn, and asyncio can say that the client is gone
                        if connection.lost:
                            break
            except TimeoutError:
                path = scope["raw_path"].decode()
                write_line(f"{scope['method']} {path}: its answer is not read", sys.stderr)
                connection.transport.abort()  # to close it would wait for the client
                await asyncio.sleep(0)  # until uvicorn knows

        connection: Connection = scope["state"]["connection"]
        fault = framing_fault(scope)
        app = self._refuse(RefusedError(400, fault, close=True)) if fault else self._app
        with ExitStack() as held:
            scope["state"]["held"] = held
            await app(scope, receive, send_all)


def pieces(message: Message) -> list[Message]:
    """Return a message as several, so that only one piece of a body waits in the connection; the last one is empty."""
    if message["type"] != "http.response.body":
        return [message]
    content = memoryview(message.get("body", b""))
    parts = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    return [*({**message, "body": part, "more_body": True} for part in parts), {**message, "body": b""}]


def framing_fault(scope: Scope) -> str:
    """Say why the end of a body is in doubt. h11 reads these, and a proxy may read them otherwise (RFC 9112, 6.1, 6.3).

    What else readers differ over, h11 refuses itself.
    """
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" not in names:
        return ""
    if b"content-length" in names:
        return "a request has Content-Length or Transfer-Encoding, not both"
    return "HTTP/1.0 has no Transfer-Encoding" if scope["http_version"] == "1.0" else ""


class Uploads:
    """The bodies that are arriving. Where they are too many, or too large together, the oldest is ended.

    So idle uploads keep no other body out, however many they are: a body that arrives at once is never the oldest.
    """

    def __init__(self) -> None:
        self.arrived: dict[asyncio.Timeout, int] = {}  # the bytes of each, the oldest first

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
        # Most clients listen only when they have sent everything; for the others a moment is enough.
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                async for _ in stream:
                    pass
        raise RefusedError(413, f"the body is larger than {MAX_BYTES} bytes", code="request_too_large")

    def _make_room(self) -> None:
        while len(self.arrived) > MAX_UPLOADS or sum(self.arrived.values()) > MAX_UPLOAD_BYTES:
            oldest = next(iter(self.arrived))
            del self.arrived[oldest]
            if not oldest.expired():  # else its own deadline is ending it
                oldest.reschedule(asyncio.get_running_loop().time())
