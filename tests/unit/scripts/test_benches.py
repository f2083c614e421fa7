"""The bench's own parts: what they tell has to be so. What they measure is no test; `scripts/bench` runs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from scripts.benches.goals import Figure, Scenario, as_markdown, as_text, from_json, to_json
from scripts.benches.link import Link
from scripts.benches.rounds import FailedError, Peer, in_turn, run
from scripts.benches.summary import ROWS, as_summary, goals_met
from tests.conftest import PROJECT, Tool
from tests.support import tiny
from tests.support.hub import StandInHub

FIGURES = PROJECT / "docs" / "performance.json"
WRITES = "import os; f = open('x', 'wb'); f.write(bytes(3 << 20)); f.flush(); os.fsync(f.fileno())"


def test_the_tables_of_the_pages_are_what_was_measured() -> None:
    """No figure in README and docs/performance.md comes from anywhere but the last run that was kept."""
    scenarios, machine = from_json(FIGURES.read_text())
    readme, page = ((PROJECT / name).read_text() for name in ("README.md", "docs/performance.md"))
    assert as_markdown(scenarios) in page
    assert as_summary(scenarios) in readme
    assert f"{goals_met(scenarios)} are met" in readme
    assert machine in page
    assert machine in readme


def test_a_row_of_the_summary_quotes_its_two_peers() -> None:
    """Times as they were printed, the ratio as it was measured; a figure that lacks one is an error, not a gap."""
    told = [("cache-models", "    12.9 ms     1.00 x ours"), ("hub, same files", "    0.34 s     24.13 x ours")]
    scenarios, _ = from_json(FIGURES.read_text())
    others = [scenario for scenario in scenarios if scenario.name != ROWS[0].scenario]
    told.append(("naive", "    12.27 s    817.77 x ours"))
    line = as_summary([Scenario(ROWS[0].scenario, told), *others]).splitlines()[2]
    assert line.endswith("| 12.9 ms | `snapshot_download` | 0.34 s | 24.1 x |")
    with pytest.raises(ValueError, match="x ours"):
        as_summary([Scenario(ROWS[0].scenario, [*told[:2], ("naive", "    1 s")]), *others])


def test_a_goal_is_met_or_missed_and_nothing_skipped_is_met() -> None:
    """Both signs, the edge included; a scenario that could not be run says why and has no verdict."""
    figures = [Figure("a", 2.0, 2.0, "<="), Figure("b", 1.9, 2.0, ">="), Figure("c", 0, 0, "<=", "")]
    assert [figure.met for figure in figures] == [True, False, True]
    told = as_text(Scenario("done", [], figures)) + as_text(Scenario("not done", skipped="no engine"))
    assert told.count(" met ") == 2
    assert told.count("missed") == 1
    assert "not done\n  skipped: no engine\n" in told
    assert "| not done | | skipped: no engine | |" in as_markdown([Scenario("not done", skipped="no engine")])


def test_figures_are_read_back() -> None:
    """What --json writes, `table` shows."""
    scenario = Scenario("x", [("a", "1 s")], [Figure("f", 1.5, 2, "<=", "MiB")], points={"x": {"y": [1.0]}})
    assert from_json(to_json([scenario], "here")) == ([scenario], "here")


def test_a_run_is_measured_and_told_from_the_bench_itself(tmp_path: Path) -> None:
    """Bytes written, disk, memory and time are those of the command; its own environment is a clean one."""
    folder = tmp_path / "run"
    folder.mkdir()
    hoard = bytearray(64 << 20)
    ran = run([sys.executable, "-c", WRITES], folder, {}, watch=True)
    assert 3 << 20 <= ran.written < 4 << 20
    assert 3 << 20 <= ran.disk < 4 << 20
    assert ran.peak < 32 << 20 < len(hoard)
    assert 0 < ran.processor <= ran.seconds * 2
    with pytest.raises(FailedError, match="ended with 3:\nwhy"):
        run([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"], folder, {})


def test_peers_run_in_turn_each_after_all_is_cleared(tmp_path: Path) -> None:
    """Every round begins with another peer, and what any of them left is cleared before each run."""
    folder = tmp_path / "run"
    folder.mkdir()
    log = tmp_path / "log"

    def told(word: str) -> list[str]:
        return ["sh", "-c", f"printf {word} >> {log}"]

    peers = [Peer(name, told(name.upper()), folder, before=partial(subprocess.run, told(name))) for name in "abc"]
    runs = in_turn(peers, 2)
    assert log.read_text() == "abcAabcBabcC" + "abcBabcCabcA"
    assert [len(runs[name].all) for name in "abc"] == [2, 2, 2]


def test_the_slow_line_is_slow() -> None:
    """A byte takes the round trip there and back; many take what the rate gives them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Link(address, round_trip=0.2, bytes_a_second=1e6) as link:
            client = socket.create_connection(("127.0.0.1", int(link.urls[0].rpartition(":")[2])))
            began = time.monotonic()
            client.sendall(b"?")
            behind, _ = server.accept()
            assert behind.recv(1) == b"?"
            assert time.monotonic() - began >= 0.3  # the handshake's round trip, and the way there
            behind.sendall(b"!" * 200_000)
            behind.close()
            received = 0
            while data := client.recv(1 << 16):
                received += len(data)
            assert received == 200_000
            assert time.monotonic() - began >= 0.3 + 0.1 + 0.2
            client.close()


def test_the_configurations_are_asked_for_at_once(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """Far from the Hub each question costs a round trip: pinning asks for one file while another is on its way."""
    hub.add("org/model", tiny.tiny_embedding(tmp_path / "model"))
    tool.want("org/model")
    assert tool("lock").exit_code == 0
    asked = [(request.host, request.file) for request in hub.requests if request.file]
    assert {file for _, file in asked[:8]} >= {"modules.json", "config.json", "1_Pooling/config.json"}
    assert len(asked) == len(set(asked))
