"""One request as the sites see it.

Knows how to read a request; nothing of repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from urllib.parse import parse_qs, urlsplit

Query = dict[str, list[str]]


@dataclass(slots=True)
class ParsedRequest:
    """Hold one request; the routes note down which repository and file it was about."""

    method: str
    target: str
    headers: Message
    body: bytes = b""
    repo: str | None = None
    file: str | None = None

    @property
    def path(self) -> str:
        """Give the path as sent, percent signs and all."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> Query:
        """Give the decoded query."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def bearer(self) -> str | None:
        """Give the token, if there is one."""
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None


def flag(query: Query, name: str) -> bool:
    """Read a boolean the way httpx and curl users write them."""
    return query.get(name, ["false"])[0].lower() in ("true", "1")
