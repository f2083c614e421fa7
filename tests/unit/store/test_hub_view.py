"""Processes that write one Hub view at the same time, as happens where file locks do nothing."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from modelcache.core.types import LockedModel
from modelcache.store.hub_view import hold_view, write_view
from modelcache.store.inspect_view import inspect_view
from tests.support.published_model import CONTENT, pinned

PROCESSES = 4
ROUNDS = 40
TIMES = 3


def test_processes_without_locks_leave_a_whole_view(tmp_path: Path) -> None:
    """Each of them may remove what another one is making; whichever is the last has written all of it."""
    model = pinned({**CONTENT, **{f"{folder}_Module/config.json": b"{}" for folder in range(6)}})
    found = []
    for number in range(ROUNDS):
        hub = tmp_path / str(number)
        children = [_writer(hub, model) for _ in range(PROCESSES)]
        ended = [os.waitpid(child, 0)[1] for child in children]
        found.append((ended, inspect_view(hub, model).difference))
    assert found == [([0] * PROCESSES, None)] * ROUNDS


def _writer(hub: Path, model: LockedModel) -> int:
    if child := os.fork():
        return child
    try:
        for _ in range(TIMES):
            hold_view(hub, model)
            write_view(hub, model)
    except BaseException:  # noqa: BLE001  # nothing may return into pytest here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
