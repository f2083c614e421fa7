"""Pauses between tries, short enough that a suite which breaks a thousand requests does not wait for an hour.

Every default of `RetryPolicy` stays as users have it, but the first pause. It holds for the tests' own process and
for the runs that the fault suite forks. Processes started as a user starts them pause as long as ever; so does, in this
process, a test that asks for the fixture `real_pauses`.
"""

from __future__ import annotations

from dataclasses import astuple, replace

from modelcache.transfer.retry import RetryPolicy

REAL = RetryPolicy.__init__.__defaults__
FIRST = 0.02


def shorten_pauses() -> None:
    """Let the first pause be `FIRST` seconds in this process and its forks, unless the caller of `RetryPolicy` says."""
    RetryPolicy.__init__.__defaults__ = astuple(replace(RetryPolicy(), first_pause=FIRST))
