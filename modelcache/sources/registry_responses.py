"""Check a response of a registry: the address that it leads to, the bytes that it brings, the error that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from modelcache.core.errors import HubError, IntegrityError
from modelcache.core.redact import redact
from modelcache.core.text import escape, one_line, size_in_words
from modelcache.core.types import LARGEST_TEXT
from modelcache.image.descriptors import Descriptor
from modelcache.sources.responses import CONTENT_RANGE, first_bytes, link_target
from modelcache.transfer.http_client import HttpResponse
from modelcache.transfer.origins import host_of
from modelcache.transfer.retry import NoRangesError, TransientError

NO_REGISTRY = "Check the name of the registry, and the proxy before it."
LENGTH = re.compile("[0-9]{1,18}")
"""A Content-Length: more digits are no number of bytes, and Python refuses to read thousands."""
_MOST_SKIPPED = 1 << 20
"""Bytes before a range that are read and dropped, where a registry knows no ranges: a tar header, say."""


@dataclass(frozen=True, slots=True)
class ManifestFound:
    """A manifest or an index as a registry has it."""

    descriptor: Descriptor
    """Of the content, with the type that the registry names."""
    content: bytes


def location_of(response: HttpResponse) -> str:
    """Return where a response leads; empty if it does not say.

    Raises:
        HubError: to no http address, or from https to http.

    """
    location = response.headers.get("Location", "")
    return link_target(response.url, location, hint=NO_REGISTRY) if location else ""


def check_range(response: HttpResponse, name: str, digest: str, asked: tuple[int, int], size: int) -> None:
    """Check that the body begins with the bytes that were asked for."""
    host, found = host_of(response.url), CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    _refuse_compressed(response, f"the blob {digest[:19]}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise TransientError(f"{host} answered with a page instead of the blob", hint=NO_REGISTRY)
    length = response.headers.get("Content-Length", "")
    whole = found[3] if found else length if response.status == 200 else ""
    if LENGTH.fullmatch(whole) and int(whole) != size:
        message = f"{name}: the blob {digest} has {int(whole)} bytes instead of {size}"
        raise IntegrityError(message, hint="Push the image again.")
    if response.status == 200:
        if asked[0] > _MOST_SKIPPED:
            raise NoRangesError(f"{host} sends whole blobs only, and no ranges of them")
    elif found is None or (int(found[1]), int(found[2]) + 1) != asked:
        raise TransientError(f"{host}: asked for bytes {asked[0]}-{asked[1] - 1} of a blob, and got others")


def without_first(count: int, chunks: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Yield a body without its first bytes."""
    for pieces in chunks:
        kept = []
        for piece in pieces:
            kept.append(piece[count:])
            count = max(0, count - len(piece))
        yield kept


def manifest_in(response: HttpResponse, what: str) -> ManifestFound:
    """Return the manifest or index of a response; `what` is its name, for messages.

    Raises:
        HubError: it is a web page, or has more than `LARGEST_TEXT` bytes.
        TransientError: it was sent compressed, or its head was cut.

    """
    host = host_of(response.url)
    _refuse_compressed(response, what)
    content = first_bytes(response, LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        message = f"{host} sent a manifest of more than {size_in_words(LARGEST_TEXT)}"
        raise HubError(message, hint="Check the name: no image of models has such a manifest.")
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if media_type == "text/html":  # of a proxy, or a page to log in
        raise HubError(f"{host} answered with a page instead of {what}", hint=NO_REGISTRY)
    if not media_type:
        raise TransientError(f"{host} does not say of which type {what} is")
    return ManifestFound(Descriptor.of(media_type, content), content)


def error_in(response: HttpResponse) -> tuple[str, str]:
    """Return code and message of a registry's error, as the specification has it; empty where it sends none."""
    with suppress(ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError, TransientError):
        first = json.loads(first_bytes(response, 1 << 14))["errors"][0]
        message = redact(str(first.get("message") or first["code"]))  # half of a secret would not be found any more
        return str(first["code"]), escape(one_line(message, 200))
    return "", ""


def _refuse_compressed(response: HttpResponse, what: str) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise TransientError(f"{host_of(response.url)} sent {what} compressed, and was asked not to")
