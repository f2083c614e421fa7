"""Promise 3: a killed run goes on where it stopped, and what it left is never trusted unread."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from modelcache.transfer.byte_ranges import Ranges
from modelcache.transfer.partial_file import written_ranges
from tests.conftest import Tool, files_below
from tests.support import tiny
from tests.support.hub import Slow, StandInHub

BIG = "tinyorg/big"
MEGABYTES = 100


@pytest.fixture
def big(hub: StandInHub, tool: Tool, tmp_path: Path) -> Path:
    """A model of 100 MB, pinned; returns its repository."""
    source = tiny.big_embedding(tmp_path / "big", MEGABYTES)
    hub.add(BIG, source)
    tool.want(BIG)
    assert tool("lock").exit_code == 0
    return source


def kill_midway(tool: Tool, hub: StandInHub) -> Path:
    """Start a sync over a slow line, end it with SIGKILL when a good part has been written; return its staging."""
    hub.fail(Slow(20_000_000), on=r"GET cdn .*model\.safetensors", times=-1)
    process = tool.process("sync")
    state = tool.home(BIG).parent / ".cache-models"
    for _ in range(1000):
        journals = list(state.glob(f"{tool.home(BIG).name}~*/*.ranges"))
        if journals and written_ranges(journals[0].with_suffix(""), 10**9).total() > 15_000_000:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    hub.fail(Slow(10**12), on=r"GET cdn .*model\.safetensors", times=-1)
    return journals[0].parent


def test_killed_fetch_goes_on_where_it_stopped(tool: Tool, hub: StandInHub, big: Path) -> None:
    """After kill -9 the next run asks for exactly the ranges that the first had not written."""
    staging = kill_midway(tool, hub)
    part = next(staging.glob("*.ranges")).with_suffix("")
    size = (big / "model.safetensors").stat().st_size
    missing = written_ranges(part, size).missing(size)
    assert 0 < sum(end - start for start, end in missing) < size - 15_000_000

    hub.forget()
    assert tool("sync").exit_code == 0
    asked = Ranges()
    for request in hub.requests:
        if request.host == "cdn" and (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.range or "")):
            asked.add(int(wanted[1]), int(wanted[2]) + 1)
    assert list(asked) == missing
    assert {request.file for request in hub.requests} == {"model.safetensors"}
    assert (tool.home(BIG) / "model.safetensors").read_bytes() == (big / "model.safetensors").read_bytes()
    assert not (tool.home(BIG).parent / ".cache-models").exists()


def test_what_a_killed_run_left_is_hashed_before_it_counts(tool: Tool, hub: StandInHub, big: Path) -> None:
    """A byte that rotted in the kept part costs one whole refetch, never a failure and never a wrong model."""
    staging = kill_midway(tool, hub)
    part = next(staging.glob("*.ranges")).with_suffix("")
    with part.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    ran = tool("sync")
    assert ran.exit_code == 0
    assert re.search(f"^  again .*{BIG}: model.safetensors ", ran.err, re.MULTILINE)
    assert (tool.home(BIG) / "model.safetensors").read_bytes() == (big / "model.safetensors").read_bytes()


def test_a_torn_journal_is_read_as_far_as_it_is_whole(tool: Tool, hub: StandInHub, big: Path) -> None:
    """Half a line, or nonsense, in the journal counts for nothing."""
    staging = kill_midway(tool, hub)
    with next(staging.glob("*.ranges")).open("ab") as journal:
        journal.write(b"nonsense\n-5 9\n999999999999 9999999999999\n0 100")
    assert tool("sync").exit_code == 0
    assert (tool.home(BIG) / "model.safetensors").read_bytes() == (big / "model.safetensors").read_bytes()


def test_a_killed_upgrade_leaves_the_old_version_whole(tool: Tool, hub: StandInHub, big: Path) -> None:
    """While a new version is fetched, and after the fetcher's death, the name is the old one."""
    assert tool("sync").exit_code == 0
    before = files_below(tool.home(BIG))
    with (big / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    hub.add(BIG, big)
    assert tool("lock", "--upgrade").exit_code == 0
    kill_midway(tool, hub)
    assert files_below(tool.home(BIG)) == before
    assert tool("sync").exit_code == 0
    assert (tool.home(BIG) / "model.safetensors").read_bytes() == (big / "model.safetensors").read_bytes()


def test_sigterm_ends_within_a_second_and_the_next_run_goes_on(tool: Tool, hub: StandInHub, big: Path) -> None:
    """A pod that is told to stop stops, with 143, and what it fetched is kept."""
    hub.fail(Slow(10_000_000), on=r"GET cdn .*model\.safetensors", times=-1)
    process = tool.process("sync")
    while sum(request.host == "cdn" for request in hub.requests) < 2:
        time.sleep(0.01)
    time.sleep(0.5)
    process.terminate()
    began = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert (process.returncode, time.monotonic() - began < 3.0) == (143, True)
    assert "run it again" in err
    hub.fail(Slow(10**12), on=r"GET cdn .*model\.safetensors", times=-1)
    hub.forget()
    assert tool("sync").exit_code == 0
    assert sum(request.sent for request in hub.requests) < MEGABYTES * 1_000_000
