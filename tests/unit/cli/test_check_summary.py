"""The last line of `check`: how many models passed, and how many did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli.commands.check import Counts, summary


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(2, 2, 0, 0, 0), "2 models in /r load with no network: 2 with the recorded numbers."),
        (Counts(0, 1, 0, 0, 0), "1 model in /r loads with no network: 1 recorded in x."),
        (Counts(1, 3, 0, 0, 0), "3 models in /r load with no network: 1 with the recorded numbers, 2 recorded in x."),
        (
            Counts(1, 1, 2, 0, 0),
            "1 model in /r loads with no network: 1 with the recorded numbers, 2 models of [[other]] never loaded.",
        ),
        (Counts(0, 6, 0, 1, 0), "7 models in /r: 6 recorded in x, 1 failed."),
        (
            Counts(2, 3, 1, 1, 2),
            "6 models in /r: 2 with the recorded numbers, 1 recorded in x, 1 failed, 2 not checked,"
            " 1 model of [[other]] never loaded.",
        ),
        (Counts(0, 0, 0, 1, 0), "1 model in /r: 1 failed."),
        (Counts(0, 0, 1, 0, 0), "Nothing to load in /r: 1 model of [[other]] never loaded."),
        (Counts(0, 0, 1, 1, 0), "1 model in /r: 1 failed, 1 model of [[other]] never loaded."),
        (Counts(0, 0, 0, 0, 0), "Nothing to load in /r: the manifest lists none."),
    ],
)
def test_the_last_line_counts_each_model_once(counts: Counts, text: str) -> None:
    """Models load where all of them pass; of others only what became of each is said."""
    assert summary(counts, Path("/r"), "recorded in x") == text
