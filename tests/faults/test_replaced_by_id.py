"""Programs that load a model by its id while it is replaced: old numbers, new numbers or an error, and never a mixture.

Two versions replace each other, a hundred times with FAULTS=all. Weights, pooling and vocabulary differ, so numbers
from files of both would be those of neither.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.formats.lockfile import parse_lock
from modelcache.store import hub_view
from tests.conftest import EMBEDDING, Tool
from tests.faults.conftest import Tally
from tests.support.faults.reader_by_id import numbers_of, reading_by_id
from tests.support.faults.scenarios import ALL
from tests.support.hub import StandInHub
from tests.support.models.replaced import one_version, other_version

pytestmark = pytest.mark.slow

SWAPS = 100 if ALL else 25
GRACE = 0.3
"""Seconds; a reader of so small a model looks up a file every few milliseconds."""


@pytest.fixture
def locks(tool: Tool, hub: StandInHub, tmp_path: Path) -> dict[str, Path]:
    """Two locks, by the commit that they pin."""
    tool.want(EMBEDDING)
    found = {}
    for number, version in enumerate((one_version, other_version)):
        hub.add(EMBEDDING, version(tmp_path / f"version-{number}"))
        lock = tool.folder / f"{number}.lock"
        assert tool("lock", "--upgrade", "--lockfile", str(lock)).exit_code == 0
        (pin,) = parse_lock(lock.read_bytes(), lock.name)
        found[pin.commit] = lock
    return found


def test_a_reader_by_id_gets_one_version_or_an_error(
    tool: Tool, locks: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """By the plain id, and by the commit of one version, which then are the numbers of that version and no other."""
    monkeypatch.setattr(hub_view, "GRACE", GRACE)
    (first, one), (_, other) = locks.items()
    right = {}
    for lock in (other, one):
        assert tool("sync", "--locked", "--lockfile", str(lock)).exit_code == 0
        right[lock] = numbers_of(str(tool.home(EMBEDDING)))
    assert len(set(right.values())) == len(locks)
    hub_folder = tool.folder / "hub"
    with reading_by_id(hub_folder, EMBEDDING) as plain, reading_by_id(hub_folder, EMBEDDING, first) as pinned:
        for number in range(SWAPS):
            lock = (other, one)[number % 2]
            assert tool("sync", "--locked", "--lockfile", str(lock)).exit_code == 0
    assert plain.numbers.keys() == set(right.values())
    assert pinned.numbers.keys() == {right[one]}
    assert plain.errors
    tally("replaced while programs load it by its id", SWAPS)
