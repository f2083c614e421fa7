"""The bounds for the API's clients, on uvicorn itself and raw sockets, before an application that needs no model."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from scripts import serve_limits
from scripts.serve_limits import Bounded, Connection, RefusedError, Uploads
from tests.conftest import SOON

LARGE = 32 << 20  # bytes of an answer, more than the kernel takes for a client that does not read
SHORT, LONG = 0.5, 60.0  # seconds of a deadline: one that a test waits for, and one that it must not meet
KERNEL = 8 << 20  # bytes at most that two sockets of this machine hold between them
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
Limit = Callable[[str, float], None]
WHOLE = POST + b"Content-Length: 2\r\n\r\nab"


class Peer:
    """A server in this process, over an application that echoes bodies and has one large answer."""

    def __init__(self) -> None:
        self.uploads = Uploads()
        self.held = 0
        self.port = 0
        self.server = uvicorn.Server(
            uvicorn.Config(
                Bounded(self._app, refusal),
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
            )
        )

    @property
    def connections(self) -> list[Connection]:
        """The connections that the server has."""
        return [one for one in list(self.server.server_state.connections) if isinstance(one, Connection)]

    def arrived(self) -> int:
        """How many bytes of bodies that are still arriving are here."""
        return sum(list(self.uploads.arrived.values()))

    @contextmanager
    def _place(self) -> Iterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer: ASGIApp
        if scope["path"] == "/large":
            request.state.held.enter_context(self._place())
            answer = PlainTextResponse(bytes(LARGE))
        elif scope["path"] == "/slow":
            await asyncio.sleep(3 * SHORT)
            answer = PlainTextResponse("slow")
        else:
            try:
                answer = PlainTextResponse(bytes(await self.uploads.read(request)))
            except RefusedError as error:
                answer = refusal(error)
        await answer(scope, receive, send)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Return a connection on which this was sent."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=LONG)
        line.sendall(sent)
        return line

    def ask(self, sent: bytes = WHOLE) -> int:
        """Send a request that is whole; return the status."""
        with self.connect(sent) as line:
            return status_on(line)


def refusal(error: RefusedError) -> ASGIApp:
    """Write a refusal as plainly as can be."""
    headers = {"Connection": "close"} if error.close else {}
    return PlainTextResponse(error.message, error.status, headers)


def status_on(line: socket.socket) -> int:
    """Read the beginning of an answer."""
    begin = b""
    while len(begin) < 12:
        begin += line.recv(12 - len(begin)) or pytest.fail(f"the connection ended after {begin!r}")
    return int(begin[9:])


def rest_of(line: socket.socket) -> bytes:
    """Read until the server ends the connection, however it does."""
    content = b""
    try:
        while block := line.recv(1 << 20):
            content += block
    except ConnectionResetError:
        pass
    return content


def until(holds: Callable[[], bool]) -> None:
    """Wait for what is to come."""
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server on the loopback; at the end it has no connection that a test did not close."""
    peer = Peer()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.port = listener.getsockname()[1]
        running = threading.Thread(target=peer.server.run, kwargs={"sockets": [listener]})
        running.start()
        yield peer
        peer.server.should_exit = peer.server.force_exit = True
        running.join()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Another value for one of the limits."""
    return lambda name, value: monkeypatch.setattr(serve_limits, name, value)


def test_an_answer_holds_its_place_until_it_is_read(peer: Peer) -> None:
    """Of an answer that is not read, one piece waits in the connection; the place is free when all is sent."""
    with peer.connect(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as line:
        read = bytearray(line.recv(1))
        until(lambda: any(one.transport.get_write_buffer_size() for one in peer.connections))
        assert max(one.transport.get_write_buffer_size() for one in peer.connections) <= serve_limits.PIECE
        assert peer.held == 1
        while len(read) < LARGE - KERNEL:
            read += line.recv(1 << 20)
            assert peer.held == 1
        read += rest_of(line)
        assert read.endswith(bytes(LARGE))
        until(lambda: peer.held == 0)


def test_clients_that_do_not_read_are_ended(peer: Peer, limit: Limit, capfd: pytest.CaptureFixture[str]) -> None:
    """Their places are free again, their connections are gone, and the log says why."""
    limit("SEND_SECONDS", SHORT)
    limit("SEND_RATE", 1 << 40)
    lines = [peer.connect(b"GET /large?key=secret HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(5)]
    assert [status_on(line) for line in lines] == [200] * 5
    until(lambda: peer.held == 0)
    until(lambda: not peer.connections)
    for line in lines:
        assert len(rest_of(line)) < LARGE
        line.close()
    assert peer.ask() == 200
    said = "GET /large: its answer is not read\n"
    assert capfd.readouterr().err == said * 5


def test_a_client_that_goes_away_is_no_noise(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """Its answer is not written on to the dead connection, where asyncio has a line in the log for each piece."""
    for _ in range(10):
        peer.connect(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").close()
    assert peer.ask() == 200
    until(lambda: peer.held == 0 and not peer.connections)
    assert caplog.messages == []


UPLOADS = {
    "only a header": b"Content-Length: 4000000\r\n\r\n",
    "a byte": b"Content-Length: 2000\r\n\r\na",
    "half": b"Content-Length: 2000000\r\n\r\n" + bytes(1_000_000),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "half a chunk": b"Transfer-Encoding: chunked\r\n\r\nfffff\r\na",
}


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_idle_uploads_keep_no_other_out(peer: Peer, limit: Limit, upload: bytes) -> None:
    """With more of them than may arrive at once, the oldest are told to come again, and a new body is answered."""
    limit("MAX_UPLOADS", 8)
    lines = [peer.connect(POST + upload) for _ in range(8)]
    until(lambda: len(peer.uploads.arrived) == 8)
    for number in range(8):
        assert peer.ask() == 200
        assert status_on(lines[number]) == 503
        lines.append(peer.connect(POST + upload))
    for line in lines:
        line.close()


def test_large_uploads_have_a_bound_together(peer: Peer, limit: Limit) -> None:
    """All but the last byte of bodies as large as may be: the oldest give way, the newest are answered."""
    limit("MAX_UPLOAD_BYTES", 3 * serve_limits.MAX_BYTES)
    size = serve_limits.MAX_BYTES

    def arrived(count: int) -> bool:
        return peer.arrived() >= count

    begin = POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size - 1)
    lines = []
    for count in range(1, 8):
        lines.append(peer.connect(begin))
        until(partial(arrived, min(count, 3) * (size - 1)))
        assert peer.arrived() <= serve_limits.MAX_UPLOAD_BYTES
        assert peer.ask() == 200
    assert [status_on(line) for line in lines[:4]] == [503] * 4
    for line in lines[4:]:
        line.sendall(b"a")
        assert status_on(line) == 200
    assert peer.arrived() == 0


@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_a_body_has_a_deadline(peer: Peer, limit: Limit, upload: bytes) -> None:
    """Also where a byte comes now and then; afterwards the client may send on for a while, and is ended."""
    limit("READ_SECONDS", SHORT)
    limit("HEAD_SECONDS", SHORT)
    with peer.connect(POST + upload) as line:
        trickle(line, until=lambda: not peer.connections)
        assert status_on(line) == 408
    assert peer.arrived() == 0


def trickle(line: socket.socket, *, until: Callable[[], bool]) -> None:
    """Send a byte now and then for as long as the server takes them."""
    end = time.monotonic() + SOON
    while not until():
        assert time.monotonic() < end
        try:
            line.sendall(b"a")
        except OSError:
            return
        time.sleep(SHORT / 10)


HEADS = {
    "nothing": b"",
    "half a line": b"POST / HT",
    "half a header": POST + b"Content-Len",
    "after an answer": WHOLE,
    "half a header after an answer": WHOLE + b"GET / HTTP/1.1\r\nHos",
    "a body after its answer": POST + b"Content-Length: 99999999\r\n\r\n",
}


@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickling"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_connection_without_a_request_is_ended(peer: Peer, limit: Limit, head: bytes, trickles: bool) -> None:
    limit("IDLE_SECONDS", SHORT)
    limit("HEAD_SECONDS", SHORT)
    with peer.connect(head) as line:
        until(lambda: len(peer.connections) == 1)
        if trickles and head:
            trickle(line, until=lambda: not peer.connections)
        until(lambda: not peer.connections)
        rest_of(line)


def test_a_request_that_is_being_answered_is_not_ended(peer: Peer, limit: Limit) -> None:
    """The deadline for a header has passed long before, for the connection and for the next request on it."""
    limit("IDLE_SECONDS", SHORT)
    limit("HEAD_SECONDS", SHORT)
    with peer.connect(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" * 2) as line:
        content = b""
        while content.count(b"slow") < 2:
            content += line.recv(1000) or pytest.fail(f"the connection ended after {content!r}")
    assert content.count(b"HTTP/1.1 200 ") == 2


def test_idle_connections_have_a_bound_together(peer: Peer, limit: Limit) -> None:
    """Those that have waited longest are ended; those with a request are not counted."""
    limit("MAX_IDLE", 5)
    limit("HEAD_SECONDS", 10 * LONG)
    with peer.connect(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") as busy:
        until(lambda: any(not one.idle for one in peer.connections))
        lines = [peer.connect(HEADS["half a header"]) for _ in range(20)]
        until(lambda: len(peer.connections) == 6)
        assert [rest_of(line) for line in lines[:15]] == [b""] * 15
        assert peer.ask() == 200
        assert status_on(busy) == 200
    for line in lines:
        line.close()


def test_a_connection_is_kept_for_longer_than_proxies_keep_it(peer: Peer, limit: Limit) -> None:
    """A request that comes after HEAD_SECONDS, the time for a header that is late, is answered on it."""
    limit("HEAD_SECONDS", SHORT)
    assert serve_limits.IDLE_SECONDS > 60  # of ingress-nginx and of most load balancers
    with peer.connect() as line:
        for _ in range(2):
            line.sendall(WHOLE)
            content = b""
            while not content.endswith(b"ab"):
                content += line.recv(1000) or pytest.fail(f"the connection ended after {content!r}")
            time.sleep(2 * SHORT)


def test_a_client_that_reads_slowly_gets_all_of_its_answer(peer: Peer, limit: Limit) -> None:
    """What it has read extends its time."""
    limit("SEND_SECONDS", SHORT)
    limit("SEND_RATE", LARGE // 16)
    with peer.connect(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as line:
        read = 0
        while block := line.recv(1 << 19):
            read += len(block)
            time.sleep(SHORT / 40)
    assert read > LARGE


CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n0\r\n\r\n"
FRAMINGS: list[tuple[bytes, int]] = [
    # What the application refuses.
    (POST + b"Content-Length: 5\r\n" + CHUNKED + END, 400),
    (POST + CHUNKED + b"Content-Length: 5\r\n" + END, 400),
    (POST + CHUNKED + b"content-length: 0\r\n" + END, 400),
    (b"POST / HTTP/1.0\r\nHost: a\r\n" + CHUNKED + END, 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + CHUNKED + END, 400),
    # What h11 refuses.
    (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    (POST + b"Content-Length: 1, 2\r\n\r\nab", 400),
    (POST + b"Content-Length: +1\r\n\r\na", 400),
    (POST + b"Content-Length: -1\r\n\r\na", 400),
    (POST + b"Content-Length: 0x1\r\n\r\na", 400),
    (POST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    (POST + "Content-Length: \N{ARABIC-INDIC DIGIT ONE}\r\n\r\na".encode(), 400),
    (POST + b"Content-Length:\r\n\r\n", 400),
    (POST + b"Content-Length: 999999999999999999999\r\n\r\n", 400),
    (POST + b"Content-Length : 1\r\n\r\na", 400),
    (POST + b"Transfer-Encoding : chunked\r\n" + END, 400),
    (POST + b"Transfer-Encoding: chunked, identity\r\n" + END, 400),
    (POST + b"Transfer-Encoding: identity\r\n" + END, 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n" + END, 400),
    (POST + b"Transfer-Encoding: xchunked\r\n" + END, 400),
    (POST + b"Transfer-Encoding: \x0bchunked\r\n" + END, 400),
    (POST + CHUNKED + CHUNKED + END, 400),
    (POST + b" Content-Length: 1\r\nX\r\n\r\na", 400),
    (POST + b"X: a\rContent-Length: 1\r\n\r\na", 400),
    (POST + b"X: a\0\r\nContent-Length: 1\r\n\r\na", 400),
    (POST + b"Host: b\r\nContent-Length: 1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 1\r\n\r\na", 400),
    (POST + CHUNKED + b"\r\n+1\r\na" + END, 400),
    (POST + CHUNKED + b"\r\n0x1\r\na" + END, 400),
    (POST + CHUNKED + b"\r\n1\r\nabc" + END, 400),
    # What is read in one way: the same length twice, and a folded line, which h11 makes one (RFC 9112, 5.2 and 6.3).
    (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 200),
    (POST + b"Content-Length: 1, 1\r\n\r\na", 200),
    (POST + b"Transfer-Encoding:\r\n chunked\r\n" + END, 200),
    (POST + CHUNKED + b"\r\n1;x=y\r\na" + END, 200),
]


def test_a_body_whose_end_is_in_doubt_is_refused(peer: Peer) -> None:
    """And nothing after it is read: what hides behind such a body is no request."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    wrong = []
    for sent, status in FRAMINGS:
        with peer.connect(sent + hidden) as line:
            answers = re.findall(rb"HTTP/1\.1 (\d+) ", rest_of(line))
        if answers != ([b"400"] if status == 400 else [b"200", b"200"]):
            wrong.append((sent, answers))
    assert wrong == []


def test_what_is_no_http_after_an_answer_ends_the_connection(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """A second answer to one request cannot be, and is no bug of the server's."""
    with peer.connect(POST + b"Content-Length: 5000000\r\n" + b"\r\n") as line:
        assert status_on(line) == 413
        line.sendall(bytes(5_000_000) + b"no request\r\n\r\n")
        assert b"400 Bad Request" in rest_of(line)
    with peer.connect(POST + CHUNKED + b"\r\n") as line:
        for _ in range(80):
            line.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        assert status_on(line) == 413
        line.sendall(b"no chunk\r\n")
        assert b"HTTP/1.1" not in rest_of(line)
    until(lambda: not peer.connections)
    assert {record.getMessage() for record in caplog.records} == {"Invalid HTTP request received."}


def test_an_answer_to_head_has_no_body(peer: Peer) -> None:
    with peer.connect(b"HEAD /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as line:
        answer = rest_of(line)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d\r\n" % LARGE in answer
    assert answer.endswith(b"\r\n\r\n")
