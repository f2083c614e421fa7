"""Read a response of the Hub or of a registry: where it leads, and the bytes of its body."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from urllib.parse import urljoin

from modelcache.core.errors import HubError, HubUnreachableError
from modelcache.core.text import size_in_words
from modelcache.transfer.http_client import HttpResponse
from modelcache.transfer.origins import host_of, origin_of
from modelcache.transfer.retry import TransientError

CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
"""Of the header Content-Range: the first byte, the last byte, and the size, which may be unknown (RFC 9110, 14.4)."""
_CHUNK = 1 << 19


def is_redirect(response: HttpResponse) -> bool:
    """Whether a response leads to another address."""
    return response.status in (301, 302, 303, 307, 308) and "Location" in response.headers


def link_target(url: str, location: str, *, hint: str, what: str = "") -> str:
    """Return the address that a response of `url` leads to; `what` is sent there, for messages.

    Raises:
        HubError: it is no http address, or plain http behind https.

    """
    leads = f"{host_of(url)} leads {what}".rstrip()
    try:
        address = urljoin(url, location)
        scheme = origin_of(address)[0]
    except (ValueError, HubError):  # it is not shown: it may hold a signature
        raise HubError(f"{leads} to no http address", hint=hint) from None
    if origin_of(url)[0] == "https" and scheme != "https":
        raise HubError(f"{leads} to plain http", hint=hint)
    return address


def body_of(response: HttpResponse, length: int) -> Iterator[list[bytes]]:
    """Yield the first `length` bytes of a body; one that ends early raises."""
    for pieces in response.chunks(_CHUNK, length):
        length -= sum(map(len, pieces))
        yield pieces
    if length:
        raise TransientError(f"{host_of(response.url)}: cut short, {size_in_words(length)} are missing")


def first_bytes(response: HttpResponse, most: int) -> bytes:
    """Return the first bytes of a body: all, if it has no more than `most`."""
    return joined(response.chunks(_CHUNK, most))


def read_short(response: HttpResponse, name: str, most: int, deadline: float, *, hint: str) -> bytes:
    """Return a body of `most` bytes at the most; one that is longer, or comes too late, raises before its end.

    `name` is what the answer is about, and `hint` says what to do about one that is too long.
    """
    pieces: list[bytes] = []
    host, length = host_of(response.url), 0
    for more in response.chunks(_CHUNK, most + 1):
        pieces += more
        length += sum(map(len, more))
        if time.monotonic() > deadline:
            raise HubUnreachableError(
                f"{name}: {host} takes too long over its answers",
                hint="Run it again later, or allow more with --timeout.",
                cause=f"{host} takes too long over its answers",
            )
    if length > most:
        raise HubUnreachableError(f"{host} sent more than {most} bytes where a short answer belongs", hint=hint)
    return b"".join(pieces)


def joined(chunks: Iterable[list[bytes]]) -> bytes:
    """Return the bytes of a body in one piece."""
    return b"".join(chain.from_iterable(chunks))
