"""Two things that stand between a client and a server, on loopback: an HTTP proxy, and the end of a TLS tunnel.

Real sockets, nothing but the standard library and the openssl program.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Trouble = Callable[[socket.socket], None]
"""What is done with a connection instead of serving it."""

_PIECE = 1 << 16
_HOP_BY_HOP = {"proxy-authorization", "proxy-connection", "connection", "keep-alive"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that came to the proxy."""

    method: str
    target: str
    authorization: str | None
    """What it carries for the server behind; the proxy's own password is not kept."""
    headers: tuple[str, ...] = ()


class Troubled:
    """Whoever takes connections, and gives the next `times` of them trouble; -1: all."""

    trouble: Trouble | None = None
    times = 0
    only = ""
    """Only requests whose target holds this are concerned."""

    def arm(self, trouble: Trouble, times: int = -1) -> None:
        """Begin."""
        self.trouble, self.times = trouble, times

    def mend(self) -> None:
        """End."""
        self.trouble, self.times = None, 0

    def next_trouble(self, target: str = "") -> Trouble | None:
        """What is to be done with the connection that has just come."""
        if self.times == 0 or self.only not in target:
            return None
        self.times -= 1
        return self.trouble


class Proxy(Troubled):
    """Forward GETs in absolute form and CONNECT tunnels; count them, ask for a password, reset when told to."""

    def __init__(self, password: str | None = None) -> None:
        self.asked: list[Asked] = []
        self.refused = 0
        self.password = password
        """As `user:password`; None lets everybody through."""
        self.resets = 0
        """How many of the next requests are answered with a TCP reset; -1: all."""
        self.status = 0
        """Answer everything with this status instead of forwarding."""
        self._server = _ProxyServer(self)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address without a password."""
        return f"http://127.0.0.1:{self.port}"

    def with_login(self, login: str) -> str:
        """Its address with `user:password`, percent-encoded by the caller."""
        return f"http://{login}@127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening and cut every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()


class TlsFront(Troubled):
    """Terminate TLS in front of a server that speaks plain HTTP."""

    def __init__(self, backend: str, certificate: Path) -> None:
        self.backend = urlsplit(backend).port or 80
        self.hangups = 0
        """How many of the next connections are closed in the middle of the handshake; -1: all."""
        self.show(certificate)
        self._server = _TlsServer(self)

    def show(self, certificate: Path) -> None:
        """Show this certificate from now on; its key lies beside it."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    @property
    def context(self) -> ssl.SSLContext:
        """Certificate and key."""
        return self._context

    @property
    def url(self) -> str:
        """Its address; the certificate names 127.0.0.1 and localhost."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening and cut every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()


def make_certificate(path: Path, names: str = "IP:127.0.0.1,DNS:localhost", *, expired: bool = False) -> Path:
    """Write a self-signed certificate for 127.0.0.1 and localhost, its key beside it with the suffix .key."""
    key, request = path.with_suffix(".key"), path.with_suffix(".csr")
    words = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -addext"
    _run(
        *words.split(),
        f"subjectAltName={names}",
        "-subj",
        f"/CN={path.stem}",
        "-keyout",
        str(key),
        "-out",
        str(request),
    )
    signed = ["openssl", "x509", "-req", "-in", str(request), "-signkey", str(key), "-copy_extensions", "copy"]
    out = ["-out", str(path)]
    if not expired:
        _run(*signed, *out, "-days", "2")
        return path
    try:
        _run(*signed, *out, "-days", "-1")
    except subprocess.CalledProcessError:  # newer versions of openssl have a word for it
        _run(*signed, *out, "-not_before", "20200101000000Z", "-not_after", "20200102000000Z")
    return path


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def silent(connection: socket.socket) -> None:
    """Say nothing, until the client goes away."""
    while connection.recv(_PIECE):
        pass


def hang_up(connection: socket.socket) -> None:
    """Say nothing, and close."""


def reset(connection: socket.socket) -> None:
    """End with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def says(words: bytes, then: Trouble = hang_up) -> Trouble:
    """Say this, whatever the question was."""

    def trouble(connection: socket.socket) -> None:
        connection.sendall(words)
        then(connection)

    return trouble


def crawls(words: bytes, again: bytes, pause: float) -> Trouble:
    """Say something, and then a little every few moments, for ever."""

    def trouble(connection: socket.socket) -> None:
        connection.sendall(words)
        while True:
            time.sleep(pause)
            connection.sendall(again)

    return trouble


def make_folder(folder: Path, certificate: Path) -> Path:
    """Make a directory of certificates as `openssl rehash` does: each under the hash of its subject."""
    named = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(certificate)], check=True, capture_output=True, text=True
    )
    folder.mkdir()
    (folder / f"{named.stdout.strip()}.0").write_bytes(certificate.read_bytes())
    return folder


class _Cuttable(socketserver.ThreadingMixIn):
    """Remember the open connections, to cut them at the end."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.open: set[socket.socket] = set()
        self.guard = threading.Lock()

    def cut(self) -> None:
        with self.guard:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def holding(self, connection: socket.socket) -> Iterator[None]:
        with self.guard:
            self.open.add(connection)
        try:
            yield
        finally:
            with self.guard:
                self.open.discard(connection)


class _ProxyServer(_Cuttable, ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, proxy: Proxy) -> None:
        _Cuttable.__init__(self)
        self.proxy = proxy
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), _ProxyHandler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # no question to the resolver

    def handle_error(self, request: object, client_address: object) -> None:
        """Who goes away early is nobody's bug here."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _ProxyServer

    def do_CONNECT(self) -> None:  # http.server's name for it
        if not self._admitted():
            return
        host, _, port = self.path.rpartition(":")
        with self.server.holding(self.connection), socket.create_connection((host.strip("[]"), int(port)), 5) as behind:
            self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _join(self.connection, behind)

    def do_GET(self) -> None:
        if not self._admitted():
            return
        parts = urlsplit(self.path)
        address = (parts.hostname or "", parts.port or 80)
        lines = [f"GET {parts.path}{'?' if parts.query else ''}{parts.query} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP]
        with self.server.holding(self.connection), socket.create_connection(address, 5) as behind:
            behind.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
            # One request a connection, and said so: else the client may ask again while the connection is closing.
            if status := behind.recv(1 << 16):
                line, _, rest = status.partition(b"\r\n")
                self.connection.sendall(line + b"\r\nConnection: close\r\n" + rest)
            _join(self.connection, behind)

    def _admitted(self) -> bool:
        proxy = self.server.proxy
        self.close_connection = True
        proxy.asked.append(
            Asked(self.command, self.path, self.headers.get("Authorization"), tuple(map(str.lower, self.headers)))
        )
        if trouble := proxy.next_trouble(self.path):
            with self.server.holding(self.connection), contextlib.suppress(OSError):
                trouble(self.connection)
            return False
        if proxy.resets:
            proxy.resets -= 1
            reset(self.connection)
            return False
        if proxy.status:
            self._say(f"{proxy.status} Because")
            return False
        expected = None if proxy.password is None else "Basic " + base64.b64encode(proxy.password.encode()).decode()
        if expected is None or self.headers.get("Proxy-Authorization") == expected:
            return True
        proxy.refused += 1
        self._say('407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="proxy"')
        return False

    def _say(self, status: str) -> None:
        self.connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""


class _TlsServer(_Cuttable, socketserver.TCPServer):
    request_queue_size = 128

    def __init__(self, front: TlsFront) -> None:
        _Cuttable.__init__(self)
        self.front = front
        socketserver.TCPServer.__init__(self, ("127.0.0.1", 0), _TlsHandler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that refuses the certificate is what some tests are about."""


class _TlsHandler(socketserver.BaseRequestHandler):
    server: _TlsServer

    def handle(self) -> None:
        front = self.server.front
        with self.server.holding(self.request):
            if trouble := front.next_trouble():
                with contextlib.suppress(OSError):
                    self.request.recv(_PIECE)  # the ClientHello
                    trouble(self.request)
                return
            if front.hangups:
                front.hangups -= 1
                self.request.recv(64)  # some of the ClientHello
                return
            with (
                front.context.wrap_socket(self.request, server_side=True) as secured,
                socket.create_connection(("127.0.0.1", front.backend), 5) as behind,
            ):
                _join(secured, behind)


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side ends."""
    back = threading.Thread(target=_pump, args=(other, one), daemon=True)
    back.start()
    _pump(one, other)
    back.join(10)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        source.settimeout(None)
        while data := source.recv(_PIECE):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Foreign:
    """A host that has nothing to do with the Hub: it answers everything alike and keeps all that it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heard: list[bytes] = []
        self._server = _ForeignServer(self)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening and cut every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()


class _ForeignServer(_Cuttable, socketserver.TCPServer):
    request_queue_size = 128

    def __init__(self, foreign: Foreign) -> None:
        _Cuttable.__init__(self)
        self.foreign = foreign
        socketserver.TCPServer.__init__(self, ("127.0.0.1", 0), _ForeignHandler)


class _ForeignHandler(socketserver.BaseRequestHandler):
    server: _ForeignServer

    def handle(self) -> None:
        heard = b""
        with self.server.holding(self.request), contextlib.suppress(OSError):
            while b"\r\n\r\n" not in heard and (data := self.request.recv(_PIECE)):
                heard += data
            self.server.foreign.heard.append(heard)
            self.request.sendall(self.server.foreign.answer)
