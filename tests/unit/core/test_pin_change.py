"""What a new pin changes: a table of cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelcache.core.kinds import Kind
from modelcache.core.pin_change import PinChange, pin_change, same_files
from modelcache.core.types import LockedFile, LockedModel

FILE, OTHER = (LockedFile("config.json", 1, digit * 64) for digit in "ab")
HUB = LockedModel(Kind.EMBEDDING, "a/b", "main", "1" * 40, (FILE,))
DIRECTORY = replace(HUB, commit="")
CASES: dict[str, tuple[LockedModel | None, LockedModel, PinChange]] = {
    "none before": (None, HUB, PinChange.NEW),
    "the same": (HUB, replace(HUB), PinChange.UNCHANGED),
    "another commit": (HUB, replace(HUB, commit="2" * 40), PinChange.MOVED),
    "another commit, other files": (HUB, replace(HUB, commit="2" * 40, files=(OTHER,)), PinChange.MOVED),
    "from a directory now": (HUB, DIRECTORY, PinChange.MOVED),
    "other files": (HUB, replace(HUB, files=(FILE, OTHER)), PinChange.CHANGED),
    "another name of the revision": (HUB, replace(HUB, revision="v1"), PinChange.CHANGED),
    "the same directory": (DIRECTORY, replace(DIRECTORY), PinChange.UNCHANGED),
    "other files in the directory": (DIRECTORY, replace(DIRECTORY, files=(OTHER,)), PinChange.CHANGED),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pin_is_compared_with_the_one_before(case: str) -> None:
    """The commit decides first, then everything else that the lock holds."""
    old, new, change = CASES[case]
    assert pin_change(old, new) is change


def test_files_are_the_same_by_name_and_content() -> None:
    """A new commit may change nothing of what is shipped; a file under another name is another file."""
    assert same_files(HUB, replace(HUB, commit="2" * 40, licence="mit"))
    assert not same_files(HUB, replace(HUB, files=(OTHER,)))
    assert not same_files(HUB, replace(HUB, files=(replace(FILE, path="x.json"),)))
