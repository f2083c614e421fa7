"""What can go wrong with the bytes of a file: in the end they are right, or they are not published."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.formats.lockfile import format_lock
from modelcache.pipeline.pins import read_lock
from tests.conftest import EMBEDDING, PROJECT, RERANKER, SOON, Tool, files_below
from tests.support import tiny
from tests.support.hub import (
    DropHeaders,
    Fault,
    Flip,
    Html,
    IgnoreRange,
    Request,
    Reset,
    Short,
    Silent,
    Slow,
    Stall,
    StandInHub,
    Status,
    WrongLength,
    WrongRange,
)
from tests.support.hub.wire import Delivery
from tests.support.policy_defaults import patch_limits, patch_policy

pytestmark = pytest.mark.slow

SEGMENT = 1 << 20
WEIGHTS = "model.safetensors"
SMALL = "vocab.txt"
AT_ONCE = {"Retry-After": "0"}
HASTY = ("--timeout=0.5", "--retries=1")
ENDS = {"first": 0, "middle": 2, "last": 4}


@pytest.fixture
def large(hub: StandInHub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The tool, with a lock for one model whose weights come in five segments, as over a slow line; one is shorter."""
    patch_limits(monkeypatch, segment=SEGMENT, first_connections=2)
    folder = tiny.big_embedding(tmp_path / "embedding", 4)
    weights = folder / WEIGHTS
    weights.write_bytes(tiny.safetensors_of(weights.read_bytes()[: 3 * SEGMENT], 4 * SEGMENT + 300_000))
    hub.add(EMBEDDING, folder, licence="mit")
    tool.want(EMBEDDING)
    assert tool("lock").exit_code == 0
    hub.forget()
    return tool


@pytest.fixture
def small(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, with no lock yet, wanting one small model."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"), licence="mit")
    tool.want(EMBEDDING)
    return tool


def directory_of(tool: Tool) -> dict[str, bytes]:
    """What the repository holds."""
    return files_below(tool.folder.parent / "embedding")


def assert_right(tool: Tool) -> None:
    """Check every byte of the published model, and that nothing else lies in its collection."""
    source = directory_of(tool)
    published = files_below(tool.home(EMBEDDING))
    assert published.keys() == source.keys() - {".gitattributes"} | {".cache-models.json"}
    assert all(data == source[path] for path, data in published.items() if path in source)
    collection = tool.folder / "cached_embedding_models"
    assert [path.name for path in collection.iterdir()] == [tool.home(EMBEDDING).name]


def assert_clean_after_failure(tool: Tool, hub: StandInHub) -> None:
    """Check that a failure published nothing and that a run after it, with a sound Hub, ends right and tidy."""
    assert not tool.home(EMBEDDING).exists()
    hub._log._armed.clear()  # the trouble is over
    ran = tool("sync", *HASTY)
    assert ran.exit_code == 0, ran.err
    assert_right(tool)


def ranges_of(requests: list[Request]) -> list[tuple[int, int]]:
    """The byte ranges asked for, half-open and sorted."""
    told = (re.fullmatch(r"bytes=(\d+)-(\d+)", request.range or "") for request in requests)
    return sorted((int(found[1]), int(found[2]) + 1) for found in told if found)


class Nth:
    """A fault for requests that begin in one segment, and where it lasts for those of the whole file, which hold it."""

    def __init__(self, fault: Fault, number: int, times: int) -> None:
        self.fault = fault
        self.number = number
        self.left = times

    def bend(self, delivery: Delivery) -> Delivery:
        """Bend it if it is about the segment and there is a time left."""
        found = re.match(r"bytes=(\d+)-", delivery.range or "bytes=0-")
        lasting = delivery.range is None and self.left < 0
        if found and (int(found[1]) // SEGMENT == self.number or lasting) and self.left:
            self.left -= 1
            return self.fault.bend(delivery)
        return delivery


# no faults ------------------------------------------------------------------------------------------------------


def test_a_large_file_is_asked_for_once_at_the_hub_and_each_byte_once(hub: StandInHub, large: Tool) -> None:
    """One request at the Hub's own host shows the way; at the cdn the ranges cover each byte exactly once."""
    assert large("sync").exit_code == 0
    asked = [request for request in hub.requests if request.file == WEIGHTS]
    assert len([request for request in asked if request.host == "hub"]) == 1
    ranges = ranges_of([request for request in asked if request.host == "cdn"])
    assert len(ranges) == 5
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == 4 * SEGMENT + 300_000
    assert sum(request.sent for request in asked if request.host == "cdn") == 4 * SEGMENT + 300_000
    assert_right(large)


@pytest.mark.parametrize("attempt", range(3))
def test_a_fresh_process_asks_the_hub_once_for_each_file(
    hub: StandInHub, tool: Tool, tmp_path: Path, attempt: int
) -> None:
    """Also while threads begin at the same moment, one Hub is connected to: no file is asked for twice."""
    folder = tiny.big_embedding(tmp_path / "embedding", 140)  # five segments of 32 MiB
    hub.add(EMBEDDING, folder)
    tool.want(EMBEDDING)
    assert tool("lock").exit_code == 0
    hub.forget()
    ran = tool.run("sync")
    assert ran.exit_code == 0, ran.err
    asked = [str(request.file) for request in hub.requests if request.host == "hub"]
    assert sorted(asked) == sorted(set(asked)), [file for file in asked if asked.count(file) > 1]


# large file, each fault at each segment -------------------------------------------------------------------------

ONCE: dict[str, Fault] = {
    "500": Status(500, AT_ONCE),
    "503": Status(503, AT_ONCE),
    "429": Status(429, AT_ONCE),
    "reset before": Reset(None),
    "reset": Reset(700_000),
    "short": Short(200_000),
    "silent": Silent(),
    "stall": Stall(299_999),
    "slow": Slow(3_000_000),
    "ignored range": IgnoreRange(),
    "wrong range": WrongRange(),
    "longer than told": WrongLength(-5),
    "shorter than told": WrongLength(5),
    "html": Html(),
    "no headers": DropHeaders(("Content-Length", "Content-Range")),
    "no length": DropHeaders(("Content-Length",)),
    "403": Status(403),
    "404": Status(404),
    "416": Status(416),
    "204": Status(204),
    "empty": Status(200),
}


@pytest.mark.parametrize("where", ENDS)
@pytest.mark.parametrize("what", ONCE)
def test_a_fault_at_one_segment_is_survived(hub: StandInHub, large: Tool, what: str, where: str) -> None:
    """Whatever happens once at the first, a middle or the last segment: the bytes are right in the end."""
    hub.fail(Nth(ONCE[what], ENDS[where], 1), on="GET cdn", times=-1)
    began = time.monotonic()
    ran = large("sync", "--timeout=0.5")
    assert ran.exit_code == 0, ran.err
    assert time.monotonic() - began < SOON
    assert_right(large)


@pytest.mark.parametrize("where", ENDS)
def test_a_flipped_byte_is_refetched(hub: StandInHub, large: Tool, where: str) -> None:
    """One wrong byte in any segment costs one more round, is told, and ends right."""
    hub.fail(Nth(Flip(ENDS[where] * SEGMENT + 77), ENDS[where], 1), on="GET cdn", times=-1)
    ran = large("sync", *HASTY)
    assert ran.exit_code == 0, ran.err
    assert re.search(f"^  again .*{EMBEDDING}: {WEIGHTS} ", ran.err, re.MULTILINE)
    assert_right(large)


@pytest.mark.parametrize("where", ENDS)
def test_a_byte_that_is_always_flipped_is_refused(hub: StandInHub, large: Tool, where: str) -> None:
    """Exit 1 with the file, the hash expected and the one found; the file was fetched twice, not more."""
    hub.fail(Flip(ENDS[where] * SEGMENT + 77), on="GET cdn", times=-1)
    ran = large("sync", *HASTY)
    assert ran.exit_code == 1
    assert f"{EMBEDDING}: {WEIGHTS}" in ran.err
    expected, found = re.findall(r"(?:expected|found) +sha256 ([0-9a-f]{64})", ran.err)
    assert expected in (large.folder / "models.lock").read_text()
    assert found != expected
    assert len([request for request in hub.requests if request.host == "cdn"]) == 10
    assert_clean_after_failure(large, hub)


@pytest.mark.parametrize("where", ENDS)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Short(0), "cut short"),
        (Reset(0), "cut short|reset"),
        (Status(500, AT_ONCE), "500"),
        (Status(403), "403"),
        (Silent(), "no answer in time"),
        (WrongRange(), "offered bytes"),
    ],
)
def test_a_segment_that_never_comes_ends_with_3(
    hub: StandInHub, large: Tool, fault: Fault, reason: str, where: str
) -> None:
    """Exit 3 soon, with model, file and reason; what arrived is kept, and the next run ends right and tidy."""
    hub.fail(Nth(fault, ENDS[where], -1), on="GET cdn", times=-1)
    began = time.monotonic()
    ran = large("sync", *HASTY)
    assert ran.exit_code == 3, ran.err
    assert time.monotonic() - began < SOON
    assert f"{EMBEDDING}: {WEIGHTS}" in ran.err
    assert re.search(reason, ran.err)
    hub.forget()
    assert_clean_after_failure(large, hub)


def test_what_arrived_before_a_failure_is_not_fetched_again(hub: StandInHub, large: Tool) -> None:
    """After exit 3 the next run asks for the missing ranges only, and hashes the rest again."""
    hub.fail(Nth(Silent(), 4, -1), on="GET cdn", times=-1)
    assert large("sync", *HASTY).exit_code == 3
    hub._log._armed.clear()
    hub.forget()
    assert large("sync", *HASTY).exit_code == 0
    assert sum(request.sent for request in hub.requests if request.host == "cdn") <= 300_000
    assert_right(large)


def test_a_long_transfer_over_a_bad_line_gets_there(hub: StandInHub, large: Tool) -> None:
    """Every connection breaks after 600 kB: as long as bytes come, tries are not counted."""
    hub.fail(Short(600_000), on="GET cdn", times=-1)
    ran = large("sync", "--timeout=0.5", "--retries=1", "--jobs=8")
    assert ran.exit_code == 0, ran.err
    assert_right(large)


class FailsFirst:
    """Answer the first requests with 500."""

    def __init__(self, times: int) -> None:
        self.left = times

    def bend(self, delivery: Delivery) -> Delivery:
        """Refuse it, or deliver it as it is."""
        self.left -= 1
        return Status(500).bend(delivery) if self.left >= 0 else delivery


def test_no_file_is_given_up_while_another_one_brings_bytes(
    hub: StandInHub, large: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty refusals of a small file, where nine would be too many, while the weights are on their way."""
    patch_policy(monkeypatch, longest_read=0.02)  # bytes are counted as often as pauses are short here
    fault = FailsFirst(30)
    hub.fail(fault, on=r"GET hub /.*/resolve/[0-9a-f]+/config\.json", times=-1)
    hub.fail(Slow(500_000), on="GET cdn", times=-1)
    ran = large("sync", "--retries=8")
    assert ran.exit_code == 0, ran.err
    assert fault.left < 0
    assert_right(large)


def test_a_line_that_always_breaks_early_gets_there_too(hub: StandInHub, large: Tool) -> None:
    """Every connection breaks after 200 kB, less than one piece of reading: what came is kept all the same."""
    hub.fail(Short(200_000), on="GET cdn", times=-1)
    ran = large("sync", "--timeout=0.5", "--retries=1", "--jobs=8")
    assert ran.exit_code == 0, ran.err


def test_a_line_that_brings_next_to_nothing_is_given_up(hub: StandInHub, small: Tool) -> None:
    """Tries that bring a few bytes each are tries that brought nothing: exit 3, not a run of days."""
    hub.fail(Short(50), on="GET cdn", times=-1)
    with small.process("sync", "--timeout=0.5", "--retries=1") as process:
        try:
            assert process.wait(timeout=5) == 3
        finally:
            process.kill()


def test_a_silent_hub_is_given_up_as_soon_for_a_large_file(hub: StandInHub, large: Tool) -> None:
    """Silence at the redirect of a large file ends after (retries+1) timeouts, not after that many a segment."""
    hub.fail(Silent(), on=rf"GET hub /.*/resolve/.*/{WEIGHTS}", times=-1)
    hub.forget()
    ran = large("sync", *HASTY, "--jobs=8")
    assert ran.exit_code == 3
    asked = [request for request in hub.requests if request.host == "hub" and request.file == WEIGHTS]
    assert len(asked) == 2  # the first try and --retries=1, however many segments wait


def test_a_server_without_ranges_sends_the_file_once(hub: StandInHub, large: Tool) -> None:
    """Segments that are answered with the whole file end at once; then it comes in one stream, not once a segment."""
    hub.fail(IgnoreRange(), on="GET cdn", times=-1)
    hub.forget()
    ran = large("sync", *HASTY, "--jobs=4")
    assert ran.exit_code == 0, ran.err
    assert_right(large)
    asked = [request.range for request in hub.requests if request.host == "cdn"]
    assert len(asked) <= 5 + 1  # at most each segment, and the one stream
    assert asked[-1] in (None, f"bytes=0-{4 * SEGMENT + 300_000 - 1}")


def test_an_aged_address_is_asked_for_anew(hub: StandInHub, large: Tool) -> None:
    """A signed address that is refused once is asked for again at the Hub, once."""
    hub.fail(Nth(Status(403), 3, 1), on="GET cdn", times=-1)
    assert large("sync", *HASTY, "--jobs=2").exit_code == 0
    at_hub = [request for request in hub.requests if request.host == "hub" and request.file == WEIGHTS]
    assert len(at_hub) == 2
    assert_right(large)


def test_a_content_network_that_always_refuses_ends_with_3(hub: StandInHub, large: Tool) -> None:
    """403 for ever, also at a new address: exit 3, the status, nothing published."""
    hub.fail(Status(403), on="GET cdn", times=-1)
    ran = large("sync", *HASTY)
    assert ran.exit_code == 3
    assert re.search(r"\b403\b", ran.err)
    assert_clean_after_failure(large, hub)


def test_a_file_that_vanished_since_the_lock_is_told(hub: StandInHub, large: Tool) -> None:
    """404 at `sync` for a pinned file: exit 3 at once, the file, and to lock again."""
    hub.fail(Status(404, {"X-Error-Code": "EntryNotFound"}), on=rf"GET hub /.*/resolve/.*/{WEIGHTS}", times=-1)
    ran = large("sync", *HASTY)
    assert ran.exit_code == 3
    assert WEIGHTS in ran.err
    assert re.search("^hint: .*`cache-models lock --upgrade`", ran.err, re.MULTILINE)
    assert "retry" not in ran.err
    assert_clean_after_failure(large, hub)


# a small file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["lock", "sync"])
@pytest.mark.parametrize("what", [name for name in ONCE if name not in ("403", "404", "416")])
def test_a_fault_at_a_small_file_is_survived(hub: StandInHub, small: Tool, what: str, command: str) -> None:
    """Whatever happens once while a small file is read for the lock, or fetched after it: it ends right."""
    fault = Stall(100) if what == "stall" else Short(100) if what == "short" else ONCE[what]
    if command == "sync":
        assert small("lock").exit_code == 0
        for path in (small.folder / "cached_embedding_models").rglob("*"):
            path.unlink() if path.is_file() else None  # what `lock` kept would be taken
    hub.fail(fault, on=rf"GET hub /.*/{SMALL}")
    ran = small(command, *HASTY)
    assert ran.exit_code == 0, ran.err
    assert small("sync").exit_code == 0
    assert_right(small)


def test_a_flipped_byte_in_a_small_file_is_read_again(hub: StandInHub, small: Tool) -> None:
    """What does not fit its git blob id at `lock` is fetched once more."""
    hub.fail(Flip(5), on=rf"GET hub /.*/{SMALL}")
    assert small("sync", *HASTY).exit_code == 0
    assert len([request for request in hub.requests if request.file == SMALL]) == 2
    assert_right(small)


@pytest.mark.parametrize("command", ["lock", "sync"])
def test_a_small_file_that_is_always_wrong_is_refused(hub: StandInHub, small: Tool, command: str) -> None:
    """Exit 1 with file, expected and found; no lock is written, nothing is published."""
    hub.fail(Flip(5), on=rf"GET hub /.*/{SMALL}", times=-1)
    ran = small(command, *HASTY)
    assert ran.exit_code == 1
    assert SMALL in ran.err
    assert re.search(r"expected [0-9a-f]{40}\n +found +[0-9a-f]{40}", ran.err)
    assert not (small.folder / "models.lock").exists()
    assert_clean_after_failure(small, hub)


@pytest.mark.parametrize("size", [0, 1, 100, 10_000_000])
@pytest.mark.parametrize("command", ["lock", "sync"])
def test_a_small_file_with_a_wrong_size_in_the_listing(hub: StandInHub, small: Tool, command: str, size: int) -> None:
    """The Hub contradicts itself: exit 1 at `lock` already, with both sizes; no lock, nothing published."""
    hub.lie(EMBEDDING, SMALL, size=size)
    ran = small(command, *HASTY)
    true_size = len(directory_of(small)[SMALL])
    assert ran.exit_code == 1, ran.err
    assert re.search(rf"{SMALL} .*\b{size} bytes.*\b{true_size}\b", ran.err)
    assert not (small.folder / "models.lock").exists()
    hub._site.repositories[EMBEDDING].lies.clear()
    assert_clean_after_failure(small, hub)


def test_a_small_file_with_a_wrong_blob_id_in_the_listing(hub: StandInHub, small: Tool) -> None:
    """Exit 1 at `lock`: what the Hub lists is not what it sends."""
    hub.lie(EMBEDDING, SMALL, oid="f" * 40)
    ran = small("lock", *HASTY)
    assert ran.exit_code == 1
    assert "f" * 40 in ran.err
    assert not (small.folder / "models.lock").exists()


# weights that the listing lies about ----------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1, -2 * SEGMENT, 2 * SEGMENT, -(4 * SEGMENT + 300_000)])
def test_weights_with_a_wrong_size_in_the_listing(hub: StandInHub, large: Tool, change: int) -> None:
    """`lock` ends with 1, both sizes and the file, at once; the lock that is there stays."""
    true_size, lock = 4 * SEGMENT + 300_000, (large.folder / "models.lock").read_bytes()
    hub.lie(EMBEDDING, WEIGHTS, size=true_size + change)
    ran = large("lock", "--upgrade", "--retries=2")
    assert (ran.exit_code, "retry" in ran.err) == (1, False), ran.err
    assert re.search(rf"{WEIGHTS} .*\b{true_size + change} bytes.*\b{true_size}\b", ran.err)
    assert (large.folder / "models.lock").read_bytes() == lock


@pytest.mark.parametrize("change", [-1, 1, -2 * SEGMENT, 2 * SEGMENT, -(4 * SEGMENT + 300_000)])
def test_weights_with_a_wrong_size_in_the_lock(hub: StandInHub, large: Tool, change: int) -> None:
    """`sync` ends with 1, both sizes and the file, soon, and publishes nothing."""
    true_size, lock = 4 * SEGMENT + 300_000, large.folder / "models.lock"
    (model,) = read_lock(lock) or ()
    files = [replace(file, size=file.size + change) if file.path == WEIGHTS else file for file in model.files]
    lock.write_text(format_lock([replace(model, files=tuple(files))]))
    began = time.monotonic()
    ran = large("sync", "--retries=2")
    took = time.monotonic() - began
    assert (ran.exit_code, "retry" in ran.err) == (1, False), ran.err
    assert re.search(rf"{WEIGHTS} .*\b{true_size + change} bytes.*\b{true_size}\b", ran.err)
    assert not large.home(EMBEDDING).exists()
    assert large("lock", "--upgrade").exit_code == 0
    assert_clean_after_failure(large, hub)
    assert took < SOON


def test_weights_with_a_wrong_hash_in_the_listing(hub: StandInHub, large: Tool) -> None:
    """Exit 1 with the file, the hash listed and the hash found; never published."""
    hub.lie(EMBEDDING, WEIGHTS, sha256="f" * 64)
    assert large("lock", "--upgrade").exit_code == 0
    ran = large("sync", *HASTY)
    assert ran.exit_code == 1
    assert WEIGHTS in ran.err
    assert f"sha256 {'f' * 64}" in ran.err
    hub._site.repositories[EMBEDDING].lies.clear()
    assert not large.home(EMBEDDING).exists()
    assert large("lock", "--upgrade").exit_code == 0
    assert_clean_after_failure(large, hub)


@pytest.mark.parametrize("sha256", ["x", "../../../outside", "F" * 64])
@pytest.mark.parametrize("command", ["lock", "sync"])
def test_weights_with_a_hash_that_is_none_are_refused(hub: StandInHub, small: Tool, sha256: str, command: str) -> None:
    """A SHA-256 from the listing becomes a file name in staging, so it must be one: exit 3, nothing outside."""
    hub.lie(EMBEDDING, WEIGHTS, sha256=sha256)
    ran = small(command, *HASTY)
    assert [path.name for path in small.folder.parent.rglob("outside*")] == []
    assert ran.exit_code == 3
    assert not (small.folder / "models.lock").exists()


def test_a_hash_that_is_an_absolute_path_touches_nothing(hub: StandInHub, small: Tool, tmp_path: Path) -> None:
    """A mirror that lists a path for a hash cannot make us write to it."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"years of work")
    hub.lie(EMBEDDING, WEIGHTS, sha256=str(precious))
    small("sync", *HASTY)
    assert precious.read_bytes() == b"years of work"


def test_a_lock_with_a_hash_that_is_none_is_refused(hub: StandInHub, small: Tool) -> None:
    """The same in models.lock, by hand or by merge: exit 2, before any file is opened."""
    assert small("lock").exit_code == 0
    lock = small.folder / "models.lock"
    lock.write_text(re.sub(r"[0-9a-f]{64}", "../../../outside", lock.read_text()))
    assert small("sync", *HASTY).exit_code == 2
    assert [path.name for path in small.folder.parent.rglob("outside*")] == []


# beside it ------------------------------------------------------------------------------------------------------


SMALL_SEGMENTS = """
import sys
from cache_models import main
from tests.support.policy_defaults import set_limits
set_limits(segment=1 << 20, first_connections=2)
sys.exit(main(sys.argv[1:]))
"""


def test_a_failure_ends_the_run_while_segments_wait_their_turn(hub: StandInHub, large: Tool) -> None:
    """When one file is given up while pieces of another are queued, the run ends, and does not wait for ever."""
    hub.fail(Silent(), on=r"GET hub /.*/resolve/[0-9a-f]+/config\.json", times=-1)
    hub.fail(Slow(500_000), on="GET cdn", times=-1)
    words = [sys.executable, "-c", SMALL_SEGMENTS, "sync", "--jobs=2", "--timeout=0.5", "--retries=0"]
    with subprocess.Popen(
        words, cwd=large.folder, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, told = process.communicate(timeout=SOON)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("it hangs")
    assert process.returncode == 3, told
    assert "config.json" in told


def test_one_models_wrong_bytes_do_not_stop_the_others(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """The sound model is published, the other one is not, exit 1 names it."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"))
    hub.add(RERANKER, tiny.tiny_reranker(tmp_path / "reranker"))
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    hub.fail(Flip(50_000), on=f"GET cdn {EMBEDDING}/", times=-1)
    ran = tool("sync", *HASTY)
    assert ran.exit_code == 1
    assert f"{EMBEDDING}: {WEIGHTS}" in ran.err
    assert not tool.home(EMBEDDING).exists()
    assert tool.home(RERANKER, "reranker").is_dir()


def test_a_failed_replacement_leaves_the_old_version(hub: StandInHub, large: Tool) -> None:
    """Wrong bytes of a newer commit never cost the version that is there: it stays whole and is served."""
    assert large("sync", *HASTY).exit_code == 0
    before = files_below(large.home(EMBEDDING))
    weights = large.folder.parent / "embedding" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100] + os.urandom(100))
    hub.add(EMBEDDING, weights.parent)
    assert large("lock", "--upgrade").exit_code == 0
    hub.fail(Flip(99), on="GET cdn", times=-1)
    assert large("sync", *HASTY).exit_code == 1
    assert files_below(large.home(EMBEDDING)) == before
    hub._log._armed.clear()
    assert large("sync", *HASTY).exit_code == 0
    assert_right(large)
