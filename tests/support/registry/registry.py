"""An OCI registry on loopback that speaks the distribution spec and breaks on request.

Three real HTTP servers: the registry, a host that gives tokens, and a content network that blobs are redirected to.
What differs from a real one: only SHA-256, one user, no catalog, no referrers, no upload in one POST.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.hub.answers import Answer
from tests.support.hub.faults import Fault, Status
from tests.support.hub.request_log import RequestLog as HubLog
from tests.support.hub.server import Server
from tests.support.hub.sites import Site as HubSite
from tests.support.hub.wire import Delivery, Ending, deliver
from tests.support.proxy import TlsFront

from .faults import Change, StopUpload
from .login import Login
from .request_log import Armed, Request, RequestLog
from .site import Ask, Host, Kind, Site
from .storage import Storage

_PIECE = 1 << 20
# both as in net/http of Go, of which most registries are made
_READ_OF_REFUSED = 256 << 10
_BEFORE_RESET = 0.5


class StandInRegistry:
    """Keep repositories in a folder, record requests, fail when told to."""

    def __init__(
        self,
        folder: Path,
        *,
        login: Login | None = None,
        tls: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Listen; `tls` is a certificate of `tests.support.proxy.make_certificate`."""
        self.storage = Storage(folder)
        self.site = Site(self.storage, login)
        """How it behaves; its settings may change at any time."""
        self._log = RequestLog()
        idle = HubLog(HubSite(0, False))  # the server asks it whether the end has come, and nothing else
        self._closing = idle.closing
        ports: dict[Host, int] = {"registry": port, "token": 0, "content": 0}
        self._servers = [_Server((host, ports[name]), idle, name, self.site, self._log) for name in ports]
        urls = [f"http://{host}:{server.server_address[1]}" for server in self._servers]
        self._fronts = [TlsFront(url, tls) for url in urls] if tls else []
        self.url, self.token_url, self.content_url = [front.url for front in self._fronts] or urls
        self.site.url, self.site.content_url = self.url, self.content_url
        self.site.realm = f"{self.url}/token"

    @property
    def address(self) -> str:
        """HOST:PORT, as a reference of an image begins."""
        return urlsplit(self.url).netloc

    def __enter__(self) -> Self:
        """Start."""
        for server in self._servers:
            server.start()
        for front in self._fronts:
            front.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering and cut every connection, held ones too."""
        self._closing.set()
        for front in self._fronts:
            front.__exit__(None, None, None)
        for server in self._servers:
            server.stop()

    def blobs(self, repository: str) -> dict[str, Path]:
        """The files of the blobs, by digest."""
        return self.storage.blobs(repository)

    def manifests(self, repository: str) -> dict[str, Path]:
        """The files of the manifests and indexes, by digest."""
        return self.storage.manifests(repository)

    def tags(self, repository: str) -> dict[str, str]:
        """The digests of the tags."""
        return self.storage.tags(repository)

    def add(self, repository: str, layout: Path, tag: str = "latest") -> str:
        """Put the first image of an OCI layout there, with all below it, under a tag; return its digest."""
        first: dict[str, Any] = json.loads((layout / "index.json").read_bytes())["manifests"][0]
        return self._add(repository, layout / "blobs" / "sha256", first, tag)

    def _add(self, repository: str, blobs: Path, descriptor: dict[str, Any], tag: str | None) -> str:
        data = (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        told = json.loads(data)
        for below in told.get("manifests", []):
            self._add(repository, blobs, below, None)
        for blob in [*told.get("layers", []), *([told["config"]] if "config" in told else [])]:
            self.storage.put_blob(repository, blobs / blob["digest"].removeprefix("sha256:"))
        return self.storage.put_manifest(repository, tag, data, descriptor["mediaType"])

    def fail(
        self,
        fault: Fault,
        kind: Kind | None = None,
        *,
        method: str | None = None,
        host: Host | None = None,
        on: str = "",
        nth: int = 1,
        times: int = 1,
    ) -> None:
        """Break `times` requests (-1: all) from the `nth` on, of those that fit.

        `on` is a regex to be found in the path and query as sent.
        """
        self._log.arm(Armed(fault, kind, method, host, on, nth - 1, times))

    def mend(self) -> None:
        """Let nothing go wrong any more."""
        self._log.mend()

    @property
    def requests(self) -> list[Request]:
        """Copy the record of all requests, in the order in which they came."""
        return self._log.requests()

    def asked(self, **wanted: object) -> list[Request]:
        """The requests with these values: `asked(kind="blob", method="HEAD", host="content")`."""
        return [one for one in self.requests if all(getattr(one, name) == wanted[name] for name in wanted)]

    def count(self, **wanted: object) -> int:
        """How many there are of them."""
        return len(self.asked(**wanted))

    def forget(self) -> None:
        """Start the record afresh."""
        self._log.forget()


class _Server(Server):
    def __init__(self, address: tuple[str, int], idle: HubLog, name: Host, site: Site, log: RequestLog) -> None:
        super().__init__(address, idle, "hub")
        self.RequestHandlerClass = _Handler
        self.name, self.site, self.requests = name, site, log


class _StoppedError(Exception):
    """So many bytes of the body were to be read, and no more."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def _serve(self) -> None:
        server, closing = self.server, self.server.log.closing
        ask = Ask(self.command, self.path, self.headers, host=server.name)
        note, fault = server.requests.note(ask), server.requests.fault(ask)
        ask.pieces = self._pieces(note, fault.after if isinstance(fault, StopUpload) else None)
        try:
            answer = self._answer(ask, fault)
            unread = not self._read_on(ask, note, refused=answer.status >= 400)
        except _StoppedError:
            answer, unread = Answer(500), False  # no answer goes out
            if isinstance(fault, StopUpload) and fault.ending is Ending.HOLD:
                closing.wait()  # reading on would be the opposite of a stall
        delivery = Delivery(answer, self.headers.get("Range") if ask.method == "GET" else None)
        delivery = fault.bend(delivery) if fault else delivery
        if unread:
            delivery = replace(delivery, added=(("Connection", "close"),), ending=Ending.CLOSE)
        chosen = delivery.span()
        note.status = chosen.status if delivery.head else 0
        self.close_connection = self.close_connection or not delivery.keeps

        def count(size: int) -> None:
            note.sent += size

        deliver(self.connection, delivery, chosen, body=ask.method != "HEAD", count=count, closing=closing)
        if unread:  # a socket that is closed with unread bytes is reset, and the client may lose the answer
            self.connection.shutdown(socket.SHUT_WR)
            closing.wait(_BEFORE_RESET)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

    def _answer(self, ask: Ask, fault: Fault | None) -> Answer:
        if isinstance(fault, Status):
            return Answer(fault.code)
        if isinstance(fault, Change):
            fault.before(self.server.site, ask)
        return self.server.site.answer(ask)

    def _read_on(self, ask: Ask, note: Request, *, refused: bool) -> bool:
        """Read the body to its end, where the next request begins; false if it was left there."""
        for _ in ask.pieces:
            if refused and not self.server.site.reads_refused_bodies and note.received > _READ_OF_REFUSED:
                return False
        return True

    def _pieces(self, note: Request, limit: int | None) -> Iterator[bytes]:
        for piece in _body(self.rfile, self.headers.get("Transfer-Encoding"), self.headers.get("Content-Length")):
            part = piece if limit is None else piece[: limit - note.received]
            note.received += len(part)
            yield part
            if note.received == limit:
                raise _StoppedError

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name for it
        """Keep quiet: the record tells more."""


def _body(stream: BufferedIOBase, coding: str | None, length: str | None) -> Iterator[bytes]:
    if coding is None:
        yield from _exactly(stream, int(length or 0))
        return
    while size := int(stream.readline().partition(b";")[0], 16):
        yield from _exactly(stream, size)
        stream.readline()
    while stream.readline().strip():
        pass


def _exactly(stream: BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        piece = stream.read1(min(size, _PIECE))
        if not piece:
            raise ConnectionAbortedError("the client went away in the middle of a body")
        size -= len(piece)
        yield piece
