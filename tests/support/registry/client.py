"""Our own client, connected to the stand-in with few retries and a login of no file; a blob and a manifest for it."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from modelcache.cli.progress import QuietReporter
from modelcache.image.reference import Reference
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.registry_auth import RegistryAuth
from modelcache.sources.registry_login import Login
from modelcache.sources.responses import joined
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import RetryPolicy

BYTES = hashlib.shake_256(b"layer").digest(300_000)
"""A blob, and its digest."""
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"
JSON = b'{"schemaVersion": 2}'
"""A manifest, and its digest."""
JSON_DIGEST = f"sha256:{hashlib.sha256(JSON).hexdigest()}"


class Listener(QuietReporter):
    """Keeps the text of every event."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []

    def event(self, name: str, text: str, /, **fields: object) -> None:
        """Keep it."""
        del fields
        self.told.append((name, text))

    @property
    def retries(self) -> list[str]:
        """The reasons of the retries."""
        return [text for name, text in self.told if name == "retry"]


def connect_to(
    url: str,
    repository: str = "a/b",
    login: Login | None = None,
    *,
    retries: int = 0,
    timeout: float = 5.0,
    longest_requested_pause: float = 1.0,
    reporter: Listener | None = None,
    ca_bundle: Path | None = None,
) -> RegistryRepository:
    """Connect to a registry by its address; plain http is no obstacle."""
    policy = RetryPolicy(timeout, retries, longest_requested_pause=longest_requested_pause)
    client = HttpClient(policy, reporter or QuietReporter(), ca_bundle=ca_bundle)
    image = Reference(urlsplit(url).netloc, repository, "latest")
    return RegistryRepository(image, RegistryAuth(image.registry, url, login, client), client, url)


def read_range(repository: RegistryRepository, start: int = 0, end: int = len(BYTES), size: int = len(BYTES)) -> bytes:
    """A range of the blob `BYTES`, asked for once; `size` is the one that an image says it has."""
    with repository.open_blob(DIGEST, start, end, size) as chunks:
        return joined(chunks)


@contextmanager
def names_of_this_machine() -> Iterator[None]:
    """Let every name that ends in `.example` be the address of this machine, as a resolver might."""
    found = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        return found("127.0.0.1" if str(host).endswith(".example") else host, *rest, **more)

    with patch.object(socket, "getaddrinfo", getaddrinfo):
        yield
