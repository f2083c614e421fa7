"""Answers as values: what goes out before any fault touches it.

Knows statuses, headers and the Hub's way of saying no; nothing of sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from .content import Content


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold one whole response; `byte_ranges` says that a Range header may cut it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = field(default_factory=lambda: Content(b""))
    ranges: bool = False


class RefusalError(Exception):
    """Carry a refusing answer out of the depth where it was decided."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def as_json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with `value` as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, Content(body))


def as_text(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with plain text, as the Hub does outside /api."""
    return Answer(status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}, Content(text.encode()))


def as_xml(code: str, message: str, *, status: int) -> Answer:
    """Answer with an error as object storage words it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml"}, Content(body.encode()))


def refused(status: int, code: str | None, message: str, *, headers: Mapping[str, str] | None = None) -> RefusalError:
    """Make the Hub's error: code and message in headers, the message again in the body."""
    told = {"X-Error-Message": message, **(headers or {})}
    if code is not None:
        told["X-Error-Code"] = code
    return RefusalError(as_json({"error": message}, status=status, headers=told))


def unauthorized(message: str, *, code: str | None = None) -> RefusalError:
    """Make a 401 with the challenge the Hub sends along."""
    challenge = 'Bearer realm="Authentication required", charset="UTF-8"'
    return refused(401, code, message, headers={"WWW-Authenticate": challenge})


def disposition(path: str) -> str:
    """Name the file for a browser, by its last part only."""
    name = path.rpartition("/")[2]
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name.encode('ascii', 'replace').decode()}\";"


@dataclass(frozen=True, slots=True)
class Span:
    """Say which bytes of the content go out, and under which status."""

    status: int
    start: int
    stop: int
    content_range: str | None = None


def span(answer: Answer, asked: str | None) -> Span:
    """Apply a Range header; what is not one single byte range is ignored, as real servers do."""
    size = answer.content.size
    whole = Span(answer.status, 0, size)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (asked or "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or not answer.ranges or answer.status != 200:
        return whole
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole
    if start >= stop:
        return Span(416, 0, 0, f"bytes */{size}")
    return Span(206, start, stop, f"bytes {start}-{stop - 1}/{size}")
