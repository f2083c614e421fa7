"""Other defaults for the fields of `RetryPolicy` and `TransferLimits`, in this process and its forks.

A suite that breaks a thousand requests cannot wait out the pauses that users have, so the first one is short. It is as
long as ever in processes that a test starts as a user does, and where a test asks for the fixture `real_pauses`.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING

from modelcache.store import hub_view
from modelcache.transfer.connections import TransferLimits
from modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    import pytest

REAL = RetryPolicy.__init__.__defaults__
FIRST = 0.02
"""Seconds of the first pause."""


def shorten_pauses() -> None:
    """Let the first pause be `FIRST` seconds, unless the caller of `RetryPolicy` says; wait for no readers by id."""
    hub_view.GRACE = hub_view.PAUSE = 0.0
    RetryPolicy.__init__.__defaults__ = astuple(replace(RetryPolicy(), first_pause=FIRST))


def set_limits(**values: float) -> None:
    """Let these be defaults of `TransferLimits`."""
    TransferLimits.__init__.__defaults__ = _limits(values)


def patch_limits(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Let these be defaults of `TransferLimits` until the test ends."""
    monkeypatch.setattr(TransferLimits.__init__, "__defaults__", _limits(values))


def patch_policy(monkeypatch: pytest.MonkeyPatch, **values: float) -> None:
    """Let these be defaults of `RetryPolicy` until the test ends."""
    changed = replace(RetryPolicy(), **values)  # type: ignore[arg-type]  # some are int
    monkeypatch.setattr(RetryPolicy.__init__, "__defaults__", astuple(changed))


def _limits(values: dict[str, float]) -> tuple[object, ...]:
    return astuple(replace(TransferLimits(), **values))  # type: ignore[arg-type]  # some are int
