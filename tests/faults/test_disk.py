"""A disk that says no: the old version stays whole, the error says what and where, and the next run completes."""

from __future__ import annotations

import errno
import re

import pytest

from tests.faults.conftest import Tally
from tests.faults.forks import End
from tests.faults.stories import STORIES, Stage
from tests.faults.test_crash import ALL, points, recover

REFUSALS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EACCES", "EPERM")


def assert_storage_told(ended: End, where: str) -> None:
    """Check that a run that met a disk which refuses ended in words: what, where and what to do."""
    assert ended.code == 4, ended.err
    assert "Traceback" not in ended.err
    assert re.search(rf"^error: cannot .*{re.escape(where)}", ended.err, re.MULTILINE), ended.err
    assert re.search(r"^hint: .", ended.err, re.MULTILINE), ended.err


@pytest.mark.parametrize("onwards", [False, True], ids=["once", "from there on"])
@pytest.mark.parametrize("name", STORIES)
def test_refused_at_any_call(name: str, onwards: bool, stage: Stage, tally: Tally) -> None:
    """A call that changes the file system fails, wherever that is: exit 4, or it can be done without."""
    story = stage.story(name)
    stride = 1 if ALL else 8
    worst = 0.0
    tried = [
        (at, refusal)
        for number, at in enumerate(points(story.calls, stride))
        for refusal in [REFUSALS[(number + onwards * 3) % len(REFUSALS)]]
    ]
    for at, refusal in tried:
        folder = story.copy(stage.folder / "run")
        fault = story.struck(at, str(getattr(errno, refusal)), onwards=onwards)
        ended = stage.forks.run(folder, *story.words, fault=fault)
        try:
            if ended.code:
                assert_storage_told(ended, str(folder))
            worst = max(worst, recover(stage, story, folder))
        except AssertionError as e:
            print(
                "FAIL", name, at, refusal, onwards, str(e)[:600].replace("\n", "|"), file=open("/tmp/fd/errno.txt", "a")
            )
    tally(f"refused {'from a call on' if onwards else 'at a call'}, {name}", len(tried), worst)
