"""Troubles that only a registry has; all others are those of the stand-in Hub.

Each is a value. One of the Hub's bends the answer, after the registry did what was asked; `Status` and what is here
with `before` come before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.support.hub.answers import Answer
from tests.support.hub.content import Content
from tests.support.hub.faults import Status
from tests.support.hub.wire import Delivery, Ending

from .site import Ask, Site, refused


@dataclass(frozen=True, slots=True)
class StopUpload:
    """Read so many bytes of a body, keep them, then reset; with Ending.HOLD: read no more, and say nothing."""

    after: int
    ending: Ending = Ending.RESET

    def bend(self, delivery: Delivery) -> Delivery:
        """Send no answer."""
        return replace(delivery, head=False, limit=0, ending=self.ending)


@dataclass(frozen=True, slots=True)
class OtherBytes:
    """Send this body under the headers of the true one."""

    body: bytes

    def bend(self, delivery: Delivery) -> Delivery:
        """Put the bytes in the place of the others."""
        answer = delivery.answer
        return replace(delivery, answer=Answer(answer.status, answer.headers, Content(self.body), answer.ranges))


@dataclass(frozen=True, slots=True)
class NoRanges:
    """Know nothing of ranges: no Accept-Ranges, and the whole blob where a part was asked for."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Forget the Range header."""
        return replace(delivery, range=None, dropped=frozenset({"accept-ranges"}))


class Change:
    """A change in the registry; the true answer follows from it."""

    def before(self, site: Site, ask: Ask) -> None:
        """Make it."""

    def bend(self, delivery: Delivery) -> Delivery:
        """Leave the answer as it is."""
        return delivery


class ExpireToken(Change):
    """Let the token of the request be one that is no longer good."""

    def before(self, site: Site, ask: Ask) -> None:
        """End its time."""
        if site.login is not None and (token := site.login.tokens.get(ask.bearer or "")):
            token.until = 0.0


class ForgetUpload(Change):
    """Lose the upload that the request is about, as after a restart."""

    def before(self, site: Site, ask: Ask) -> None:
        """Delete it."""
        if ask.repo and ask.file and (upload := site.storage.upload(ask.repo, ask.file)):
            upload.unlink()


class IgnoreMount(Change):
    """Start an upload where a mount was asked for."""

    def before(self, site: Site, ask: Ask) -> None:
        """Forget the query."""
        ask.target = ask.path


def refusal(status: int, code: str, headers: Mapping[str, str] | None = None) -> Status:
    """Refuse with a status and a code of the spec; nothing is done."""
    answer = refused(status, code, "the stand-in was told to refuse", headers).answer
    return Status(status, answer.headers, answer.content.read())
