"""A threaded HTTP/1.1 server for one of the two hosts.

Reads requests and keeps connections; what to answer comes from the desk.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .request import ParsedRequest
from .request_log import Host, Request, RequestLog
from .wire import deliver


class Server(ThreadingHTTPServer):
    """Listen from construction on; answer from `start` to `stop`."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], log: RequestLog, host: Host) -> None:
        super().__init__(address, _Handler)
        self.log = log
        self.host = host
        self._thread = threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind without asking the resolver for our own name, which can hang with no network."""
        socketserver.TCPServer.server_bind(self)

    def start(self) -> None:
        """Answer in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut every open connection."""
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                _cut(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about clients that went away, and loud about bugs of our own."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection, to cut it at the end."""
        with self._lock:
            self._open.add(connection)
            if self.log.closing.is_set():
                _cut(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.discard(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def _serve(self) -> None:
        arrived = time.monotonic()
        log, host = self.server.log, self.server.host
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        ask = ParsedRequest(self.command, self.path, self.headers, body)
        delivery = log.plan(host, ask)
        chosen = delivery.span()
        note = log.note(
            Request(
                host=host,
                method=ask.method,
                path=ask.target,
                status=chosen.status if delivery.head else 0,
                range=self.headers.get("Range"),
                authorization=self.headers.get("Authorization"),
                repo=ask.repo,
                file=ask.file,
                at=arrived,
            )
        )
        self.close_connection = self.close_connection or not delivery.keeps
        deliver(
            self.connection,
            delivery,
            chosen,
            body=ask.method != "HEAD",
            count=note.count,
            closing=log.closing,
        )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name for it
        """Keep quiet: the record tells more."""


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
