"""When to try again, how long to wait before, and when to give up."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from modelcache.core.errors import HubUnreachableError, LimitError
from modelcache.core.interfaces import Reporter, StoppedError
from modelcache.core.redact import redact

PROGRESS = 1 << 16
"""Bytes after which failures are counted anew."""
BUSY_STATUSES = frozenset((429, 503))
_RETRYABLE = frozenset((408, 425, 429))
_FINAL = frozenset((501, 505))
_MOMENT = 0.05
RUN_AGAIN = "Run it again later: it goes on where it stopped."
_HINT = f"{RUN_AGAIN} A server that is slow, or that allows few connections, may need a longer --timeout, or --jobs 1."


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for the network, and how often to try again."""

    timeout: float = 10.0
    """Seconds without a byte after which a request is given up and tried again."""
    retries: int = 5
    """Tries after the first, without progress, before the Hub counts as unreachable."""
    first_pause: float = 1.0
    """Seconds before the second try; twice as many before each further one, up to eight times."""
    longest_requested_pause: float = 300.0
    """Seconds; the Hub's rate limits are counted over five minutes (hub-docs, rate-limits.md)."""
    stall_window: float = 6.0
    """Timeouts in which an answer has to bring its head, and then every 64 KiB of its body."""
    longest_read: float = 1.0
    """Seconds after which bytes that came are counted as progress, also where few came."""


class TransientError(Exception):
    """One try failed; another may not. `pause` is how long the server asks to wait, in seconds."""

    def __init__(self, reason: str, *, pause: float | None = None, hint: str = "") -> None:
        self.reason = redact(reason)
        super().__init__(self.reason)
        self.pause = pause
        self.hint = hint or _HINT


class BusyError(TransientError):
    """The server has asked for a pause after another request, so this one was not sent."""


class CrowdedError(TransientError):
    """The server answers other requests of this process; this one has to wait until one of them is done."""


class NoContactError(TransientError):
    """The server could not be reached, or closed without an answer; `hung` if that took all of --timeout."""

    def __init__(self, reason: str, *, hint: str = "", hung: bool = False) -> None:
        super().__init__(reason, hint=hint)
        self.hung = hung


class AlreadyWaitedError(TransientError):
    """No contact; it was reported and waited for already, once for all requests to that server."""


class SilentError(TransientError):
    """No answer came in time."""


class CrawlError(TransientError):
    """The server sent something, but less than the minimum rate."""


class ShortageError(TransientError):
    """No descriptor or no memory was left for a request; some may be when others are done."""


class NoRangesError(TransientError):
    """The server sends whole files only; each request for a range would send all of the file."""


class RetryState:
    """Counts the tries without progress of one piece of work, and pauses between them. Several threads may use one.

    Messages begin with `what`, unless it is empty. Pauses grow up to `growth` times the first one.
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
        self._excused = False
        self._lock = threading.Lock()

    def progressed(self, count: int) -> None:
        """Count bytes that came: a long transfer over a bad line is not given up while it makes progress."""
        with self._lock:
            self._progress += count
            if self._progress >= PROGRESS:
                self._failures = self._progress = 0

    def failed(self, error: TransientError) -> None:
        """Pause before the next try.

        A `CrowdedError` is not counted, and its pause is a moment. An `AlreadyWaitedError` is neither reported nor
        paused for.

        Raises:
            HubUnreachableError: no try is left, or the server asks for a longer pause than the policy allows.
            LimitError: no try is left, and this machine is the reason.
            StoppedError: other work has failed.

        """
        if isinstance(error, CrowdedError):
            self._reporter.event("retry", f"{self._what}{error.reason}; again when other transfers are done")
            self._wait(_MOMENT)
            return
        with self._lock:
            excused = self._excuse(error)
            pause = (error.pause or 0) if excused else self._count(error)
        if isinstance(error, AlreadyWaitedError):
            pause = 0
        elif not excused:
            self._reporter.event(
                "retry", f"{self._what}{error.reason}; again in {pause:.1f} s", seconds=round(pause, 1)
            )
        self._wait(pause)

    def _excuse(self, error: TransientError) -> bool:
        """Whether a request that was not sent counts as no try; never twice in a row, so that this ends."""
        acceptable = error.pause and error.pause <= self._policy.longest_requested_pause
        self._excused = bool(isinstance(error, BusyError) and not self._excused and acceptable)
        return self._excused

    def _count(self, error: TransientError) -> float:
        """Count a failure; return how long to pause, in seconds."""
        policy, pause = self._policy, error.pause
        self._failures += 1
        if isinstance(error, CrawlError):  # or a server could go on for ever with a little at a time
            self._progress = 0
        if pause is None:
            growth = min(2.0 ** (self._failures - 1), self._growth)
            pause = policy.first_pause * growth * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing
        if self._failures > policy.retries or pause > policy.longest_requested_pause:
            asked = f"; it asks to wait {error.pause:.0f} s" if error.pause else ""
            kind = LimitError if isinstance(error, ShortageError) else HubUnreachableError
            cause = f"{error.reason}{asked} (tried {'once' if self._failures == 1 else f'{self._failures} times'})"
            raise kind(f"{self._what}{cause}", hint=error.hint, cause=cause) from error
        return pause

    def _wait(self, pause: float) -> None:
        if self._stopped.wait(pause):
            raise StoppedError


def is_retryable(status: int) -> bool:
    """Whether a later try can get another status."""
    return status in _RETRYABLE or (status >= 500 and status not in _FINAL)


def requested_pause(headers: Mapping[str, str]) -> float | None:
    """Return how long the server asks to wait, in seconds."""
    pause = _retry_after(headers)
    return _rate_limit(headers) if pause is None else pause


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header; a date is compared with the server's own clock, if it tells it."""
    after = headers.get("Retry-After", "")
    if re.fullmatch(r"[0-9]+", after):
        return float(after[:9])
    if (until := _date(after)) is None:
        return None
    seconds = (until - (_date(headers.get("Date", "")) or datetime.now(UTC))).total_seconds()
    return seconds if seconds > 0 else None


def _date(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # of no use to commands that need no network

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _rate_limit(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the Hub counts anew, if nothing is left (huggingface.co/docs/hub/rate-limits)."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    try:
        limit = parse_ratelimit_headers(headers)
        return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None
    except (ValueError, OverflowError):  # numbers of thousands of digits
        return None
