"""When to try again, how long to wait before, and when to give up."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from modelcache.core.errors import HubUnreachableError, LimitError
from modelcache.core.interfaces import Reporter, StoppedError
from modelcache.core.redact import redact

WORTH_A_TRY = 1 << 16
TRY_AGAIN = frozenset((408, 425, 429))
"""Statuses below 500 that another try may do without."""
_YIELD = 0.05
LATER = "Run it again later: what has arrived is kept."
_HINT = f"{LATER} A server that is slow, or that allows few connections, may need a longer --timeout, or --jobs 1."


class TransientError(Exception):
    """One try failed in a way that another may not; `pause` is how long the server asks us to wait, in seconds."""

    def __init__(self, reason: str, *, pause: float | None = None, hint: str = "") -> None:
        self.reason = redact(reason)
        super().__init__(self.reason)
        self.pause = pause
        self.hint = hint or _HINT


class BusyError(TransientError):
    """The server has asked another request for a pause, so this one was not sent."""


class CrowdedError(TransientError):
    """The server answers other requests of ours and not this one, which has to wait until one of them is done."""


class NoContactError(TransientError):
    """The server could not be reached, or closed before a word of an answer; `hung` if that took all of --timeout."""

    def __init__(self, reason: str, *, hint: str = "", hung: bool = False) -> None:
        super().__init__(reason, hint=hint)
        self.hung = hung


class AlreadyWaitedError(TransientError):
    """No contact, told and waited for already: once for all requests to that server."""


class SilentError(TransientError):
    """No answer came in time."""


class CrawlError(TransientError):
    """The server took its time and brought next to nothing."""


class ShortageError(TransientError):
    """A request for which this machine had no descriptor or no memory; it may have once others are done."""


class NoRangesError(TransientError):
    """The server sends a file whole or not at all; asking for its segments would send it many times over."""


class RetryState:
    """Counts tries that brought nothing, pauses between them, and gives up in the end. Several threads may use one.

    What is tried is told as `what`, unless that is empty; pauses grow up to `growth` times the first one.
    """

    def __init__(
        self, what: str, policy: RetryPolicy, reporter: Reporter, stopped: threading.Event, *, growth: float = 8.0
    ) -> None:
        self._what = f"{what}: " if what else ""
        self._growth = growth
        self._policy = policy
        self._reporter = reporter
        self._stopped = stopped
        self._failures = 0
        self._progress = 0
        self._gave_way = False
        self._lock = threading.Lock()

    def progressed(self, count: int) -> None:
        """Count bytes that came: a long transfer over a bad line is not given up as long as it gets on."""
        with self._lock:
            self._progress += count
            if self._progress >= WORTH_A_TRY:
                self._failures = self._progress = 0

    def failed(self, error: TransientError) -> None:
        """Pause before the next try; a `CrowdedError` is not counted, and its pause is a moment.

        After a `AlreadyWaitedError` there is nothing to tell, and no pause.

        Raises:
            HubUnreachableError: there is none left, or the server asks for more patience than there is.
            LimitError: there is none left, and this machine is the reason.
            StoppedError: the work is of no use any more.

        """
        if isinstance(error, CrowdedError):
            self._reporter.event("retry", f"{self._what}{error.reason}; again when others are done")
            self._rest(_YIELD)
            return
        with self._lock:
            gives_way = self._gives_way(error)
            pause = (error.pause or 0) if gives_way else self._counted(error)
        if isinstance(error, AlreadyWaitedError):
            pause = 0
        elif not gives_way:
            self._reporter.event(
                "retry", f"{self._what}{error.reason}; again in {pause:.1f} s", seconds=round(pause, 1)
            )
        self._rest(pause)

    def _gives_way(self, error: TransientError) -> bool:
        """Whether this was no try of its own: once before each, so that it cannot give way for ever."""
        bearable = error.pause and error.pause <= self._policy.longest_pause
        self._gave_way = bool(isinstance(error, BusyError) and not self._gave_way and bearable)
        return self._gave_way

    def _counted(self, error: TransientError) -> float:
        """Count a failure; return how long to pause, in seconds."""
        policy, pause = self._policy, error.pause
        self._failures += 1
        if isinstance(error, CrawlError):  # else a server could go on for ever with a little at a time
            self._progress = 0
        if pause is None:
            growth = min(2.0 ** (self._failures - 1), self._growth)
            pause = policy.first_pause * growth * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing
        if self._failures > policy.retries or pause > policy.longest_pause:
            asked = f"; it asks to wait {error.pause:.0f} s" if error.pause else ""
            kind = LimitError if isinstance(error, ShortageError) else HubUnreachableError
            raise kind(
                f"{self._what}{error.reason}{asked} (tried {self._failures} times)",
                hint=error.hint,
            ) from error
        return pause

    def _rest(self, pause: float) -> None:
        if self._stopped.wait(pause):
            raise StoppedError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to bear with the network."""

    timeout: float = 10.0
    """Seconds without a byte after which a request is given up and tried again."""
    retries: int = 5
    """Tries after the first that bring nothing before the Hub counts as unreachable."""
    first_pause: float = 1.0
    """Seconds before the second try; twice as many before each further one, up to eight times."""
    longest_pause: float = 300.0
    """Seconds; the Hub's rate limits are counted over five minutes (hub-docs, rate-limits.md)."""
    stall_window: float = 6.0
    """Timeouts in which an answer has to bring its head, and then every 64 KiB of its body."""
    longest_read: float = 1.0
    """Seconds after which bytes that came are counted as progress, also where few came."""
