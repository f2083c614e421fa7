"""A line that is listened to: it passes everything on, and keeps every byte that the client sends."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE = 1 << 16


class RecordingRelay:
    """Stands in front of a server on loopback."""

    def __init__(self, backend: str) -> None:
        self.heard = bytearray()
        """What clients have sent, of all connections."""
        self.backend = urlsplit(backend).port or 80
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        """Start."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, relay: RecordingRelay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Who goes away early is nobody's bug here."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        client: socket.socket = self.request
        with socket.create_connection(("127.0.0.1", self.server.relay.backend), 5) as behind:
            behind.settimeout(None)
            threading.Thread(target=_pass, args=(behind, client, bytearray()), daemon=True).start()
            _pass(client, behind, self.server.relay.heard)


def _pass(source: socket.socket, target: socket.socket, heard: bytearray) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            heard += piece
            target.sendall(piece)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
