"""What can go wrong on the way, each as a value that bends one delivery.

Knows the shape of the trouble; the socket work is in wire.py.
"""

from __future__ import annotations

import gzip
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
class FlipFirst:
    """Spoil the first byte of whatever is sent."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Mark the byte."""
        return replace(delivery, flip=delivery.span().start)


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


@dataclass(frozen=True, slots=True)
class Headers:
    """Send these header lines, in the place of what the answer has under the same names; a name may come twice."""

    lines: tuple[tuple[str, str], ...]
    ending: Ending = Ending.KEEP

    def bend(self, delivery: Delivery) -> Delivery:
        """Put the lines in."""
        return replace(delivery, added=self.lines, ending=self.ending)


@dataclass(frozen=True, slots=True)
class CutHead:
    """Send so many bytes of status line and headers, then end: close, reset, or hold and say nothing more."""

    after: int
    ending: Ending = Ending.CLOSE

    def bend(self, delivery: Delivery) -> Delivery:
        """Cut the head."""
        return replace(delivery, head_limit=self.after, ending=self.ending)


@dataclass(frozen=True, slots=True)
class SlowHead:
    """Send status line and headers at so many bytes a second."""

    bytes_per_second: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Set the pace of the head."""
        return replace(delivery, head_rate=self.bytes_per_second)


@dataclass(frozen=True, slots=True)
class Interim:
    """Send interim answers with these statuses before the true one."""

    statuses: tuple[int, ...]

    def bend(self, delivery: Delivery) -> Delivery:
        """Put them in front."""
        told = "".join(f"HTTP/1.1 {status} Wait\r\nLink: </x>; rel=preload\r\n\r\n" for status in self.statuses)
        return replace(delivery, before=told.encode())


@dataclass(frozen=True, slots=True)
class Raw:
    """Send these bytes instead of an answer, then `again` for ever, every `pause` seconds; without it, close."""

    first: bytes
    again: bytes = b""
    pause: float = 0.0

    def bend(self, delivery: Delivery) -> Delivery:
        """Put the bytes in the place of head and body."""
        bare = replace(delivery, head=False, limit=0, before=self.first, ending=Ending.CLOSE)
        return replace(bare, again=self.again, pause=self.pause)


@dataclass(frozen=True, slots=True)
class Chunked:
    """Send the body in chunks of this size, and `tail` behind the last of them."""

    size: int
    tail: bytes = b"0\r\n\r\n"
    again: bytes = b""

    def bend(self, delivery: Delivery) -> Delivery:
        """Choose the framing; a tail that is none ends the connection."""
        ending = Ending.KEEP if self.tail == b"0\r\n\r\n" else Ending.CLOSE
        return replace(delivery, chunk=self.size, tail=self.tail, again=self.again, ending=ending)


@dataclass(frozen=True, slots=True)
class Http10:
    """Answer as servers did before 1997: HTTP/1.0, and the connection ends."""

    length: bool = True

    def bend(self, delivery: Delivery) -> Delivery:
        """Set the version."""
        dropped = frozenset() if self.length else frozenset({"content-length"})
        return replace(delivery, version="HTTP/1.0", dropped=dropped, ending=Ending.CLOSE)


@dataclass(frozen=True, slots=True)
class Gzip:
    """Compress the body though identity was asked for, as some proxies do, and say so."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Compress the bytes that were asked for."""
        chosen = delivery.span()
        body = gzip.compress(delivery.answer.content.read()[chosen.start : chosen.stop])
        told = {"Content-Range": chosen.content_range} if chosen.content_range else {}
        headers = {**delivery.answer.headers, **told, "Content-Encoding": "gzip"}
        return replace(delivery, answer=Answer(chosen.status, headers, Content(body)), range=None)


@dataclass(frozen=True, slots=True)
class Longer:
    """Send `extra` bytes more than were asked for; all headers but the length say what they would have said."""

    extra: int

    def bend(self, delivery: Delivery) -> Delivery:
        """Put the bytes behind those that were asked for."""
        chosen = delivery.span()
        body = delivery.answer.content.read()[chosen.start : chosen.stop] + b"x" * self.extra
        told = {"Content-Range": chosen.content_range} if chosen.content_range else {}
        answer = Answer(chosen.status, {**delivery.answer.headers, **told}, Content(body))
        return replace(delivery, answer=answer, range=None)
