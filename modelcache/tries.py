"""When to try again, how long to wait before, and when to give up."""

from __future__ import annotations

import random
import threading

from modelcache.errors import HubUnreachableError, LimitError
from modelcache.hidden import hidden
from modelcache.records import Patience, Voice

_WORTH_A_TRY = 1 << 16


class TransientError(Exception):
    """One try failed in a way that another may not; `pause` is how long the server asks us to wait, in seconds."""

    def __init__(self, reason: str, *, pause: float | None = None, hint: str = "") -> None:
        self.reason = hidden(reason)
        super().__init__(self.reason)
        self.pause = pause
        self.hint = hint or "Run it again later: what has arrived is kept."


class BusyError(TransientError):
    """The server has asked another request for a pause, so this one was not sent."""


class CrawlError(TransientError):
    """The server took its time and brought next to nothing."""


class ShortageError(TransientError):
    """A request for which this machine had no descriptor or no memory; it may have once others are done."""


class NoRangesError(TransientError):
    """The server sends a file whole or not at all; asking for its segments would send it many times over."""


class StoppedError(Exception):
    """Somebody else failed, or the user has had enough; this request is of no use any more."""


class Tries:
    """Counts tries that brought nothing, pauses between them, and knows when to give up."""

    def __init__(self, what: str, patience: Patience, voice: Voice, stopped: threading.Event) -> None:
        self._what = what
        self._patience = patience
        self._voice = voice
        self._stopped = stopped
        self._failures = 0
        self._progress = 0
        self._gave_way = False

    def progressed(self, count: int) -> None:
        """Count bytes that came: a long transfer over a bad line is not given up as long as it gets on."""
        self._progress += count
        if self._progress >= _WORTH_A_TRY:
            self._failures = self._progress = 0

    def failed(self, error: TransientError) -> None:
        """Pause before the next try.

        Raises:
            HubUnreachableError: there is none left, or the server asks for more patience than there is.
            LimitError: there is none left, and this machine is the reason.
            StoppedError: the work is of no use any more.

        """
        pause = error.pause
        if isinstance(error, BusyError) and not self._gave_way and pause and pause <= self._patience.longest_pause:
            self._gave_way = True  # once before each try of its own, so that it cannot give way for ever
            self._rest(pause)
            return
        self._gave_way = False
        self._failures += 1
        if isinstance(error, CrawlError):  # else a server could go on for ever with a little at a time
            self._progress = 0
        if pause is None:
            pause = self._patience.first_pause * min(2.0 ** (self._failures - 1), 8.0) * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing
        if self._failures > self._patience.retries or pause > self._patience.longest_pause:
            asked = f"; it asks to wait {error.pause:.0f} s" if error.pause else ""
            kind = LimitError if isinstance(error, ShortageError) else HubUnreachableError
            raise kind(
                f"{self._what}: {error.reason}{asked} (tried {self._failures} times)",
                hint=error.hint,
            ) from error
        self._voice.say("retry", f"{self._what}: {error.reason}; again in {pause:.1f} s", seconds=round(pause, 1))
        self._rest(pause)

    def _rest(self, pause: float) -> None:
        if self._stopped.wait(pause):
            raise StoppedError
