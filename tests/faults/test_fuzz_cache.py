"""Random days in the life of a cache: whatever is done in whatever order, each model is whole, or told not to be.

FAULTS=all makes the days longer and many more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.conftest import Tally
from tests.support.faults.cache_state_machine import machine
from tests.support.faults.forked_runs import ForkedRuns
from tests.support.faults.scenarios import ALL
from tests.support.hub import StandInHub

pytestmark = pytest.mark.slow

DAYS, HOURS = (400, 60) if ALL else (30, 25)


def test_whatever_is_done_each_model_is_whole_or_told_not_to_be(
    hub: StandInHub, runs: ForkedRuns, quick_folder: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simple model knows which bytes should lie where, and nothing of how they get there."""
    run_state_machine_as_test(
        machine(hub, runs, quick_folder),
        settings=settings(
            max_examples=DAYS,
            stateful_step_count=HOURS,
            deadline=None,
            derandomize=not ALL,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, *([Phase.shrink] if ALL else [])],
        ),
    )
    tally("random operations on a cache", DAYS * HOURS)
