"""What can go wrong on the way, each as a value that bends one delivery.

Knows the shape of the trouble; the socket work is in wire.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from .answers import Answer
from .content import Content
from .wire import Delivery, Ending

_PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>Please accept the terms.</body></html>"


class Fault(Protocol):
    """Change what would have been delivered."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Return the delivery with the trouble in it."""


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with another status."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def bend(self, delivery: Delivery) -> Delivery:
        """Put this answer in the place of the true one."""
        return replace(delivery, answer=Answer(self.code, dict(self.headers), Content(self.body)))


@dataclass(frozen=True, slots=True)
class Reset:
    """Send a TCP reset after so many body bytes; None: before the status line."""

    after: int | None = 0

    def bend(self, delivery: Delivery) -> Delivery:
        """Cut the body and end with RST."""
        return replace(delivery, limit=self.after or 0, head=self.after is not None, ending=Ending.RESET)


@dataclass(frozen=True, slots=True)
class Short:
    """Announce the full length, send `after` bytes and close the connection cleanly."""

    after: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Cut the body and end with FIN."""
        return replace(delivery, limit=self.after, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Silent:
    """Take the request and say nothing until the client goes away."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Send not even a status line, and hold."""
        return replace(delivery, head=False, limit=0, ending=Ending.HOLD)


@dataclass(frozen=True, slots=True)
class Stall:
    """Send `after` body bytes, then nothing more on an open connection."""

    after: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Cut the body and hold."""
        return replace(delivery, limit=self.after, ending=Ending.HOLD)


@dataclass(frozen=True, slots=True)
class Slow:
    """Send the body at so many bytes a second."""

    bytes_per_second: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Set the pace."""
        return replace(delivery, rate=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class Flip:
    """Spoil the byte at this offset of the file, whichever range carries it."""

    offset: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Mark the byte."""
        return replace(delivery, flip=self.offset)


@dataclass(frozen=True, slots=True)
class IgnoreRange:
    """Answer 200 with the whole file to a request for a part."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Forget the Range header."""
        return replace(delivery, range=None)


@dataclass(frozen=True, slots=True)
class WrongRange:
    """Answer 206 with bytes from elsewhere, and say so in Content-Range."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Move the asked range to the start of the file, or one byte on if it was there."""
        match = re.match(r"bytes=(\d+)-(\d*)", delivery.range or "bytes=0-")
        start, last = (int(match[1]), match[2]) if match else (0, "")
        length = int(last) - start + 1 if last else delivery.answer.content.size - start
        moved = 0 if start else 1
        return replace(delivery, range=f"bytes={moved}-{moved + max(length, 1) - 1}")


@dataclass(frozen=True, slots=True)
class WrongLength:
    """Send the true body under a Content-Length that is off by `delta`, then close."""

    delta: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Falsify the length."""
        return replace(delivery, delta=self.delta, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Html:
    """Answer 200 with a web page, as captive portals and proxies do."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Put the page in the place of the answer."""
        page = Answer(200, {"Content-Type": "text/html; charset=utf-8"}, Content(_PAGE))
        return replace(delivery, answer=page)


@dataclass(frozen=True, slots=True)
class DropHeaders:
    """Leave these headers out, upper or lower case; without a length the body ends with the connection."""

    names: tuple[str, ...]

    def bend(self, delivery: Delivery) -> Delivery:
        """Mark the headers."""
        return replace(delivery, dropped=frozenset(name.lower() for name in self.names))
