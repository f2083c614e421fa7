"""A blob that is sent: where to, in which pieces, and what becomes of an upload that breaks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.core.errors import HubError, HubUnreachableError, IntegrityError
from modelcache.sources.registry_api import BrokenCopyError, RefusedBlobError
from tests.conftest import PROJECT
from tests.support.registry import (
    Ending,
    Fault,
    ForgetUpload,
    Reset,
    Silent,
    StandInRegistry,
    Status,
    StopUpload,
    refusal,
)
from tests.support.registry.client import BYTES, DIGEST, Listener, connect_to
from tests.support.registry.site import Form

LARGE = bytes(24 << 20)
"""More than the sockets on the way take in at once."""
LARGE_DIGEST = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"


class Pieces:
    """The pieces of a blob, and how often they were read from the beginning."""

    def __init__(self, content: bytes = BYTES, size: int = 70_000) -> None:
        self.content = content
        self.size = size
        self.reads = 0

    def __call__(self) -> Iterator[bytes | memoryview]:
        """Read them."""
        self.reads += 1
        for start in range(0, len(self.content), self.size):
            yield memoryview(self.content)[start : start + self.size]


@pytest.mark.parametrize("form", ["relative", "absolute", "query", "elsewhere"])
def test_a_blob_is_sent_to_the_place_that_the_registry_names(registry: StandInRegistry, form: Form) -> None:
    """With two requests, and a length: some object stores take no chunks."""
    registry.site.upload_location = form
    pieces = Pieces()
    connect_to(registry.url).send_blob(DIGEST, len(BYTES), pieces)
    assert registry.blobs("a/b")[DIGEST].read_bytes() == BYTES
    start, body = registry.requests
    assert (start.method, start.kind, start.received) == ("POST", "upload start", 0)
    assert (body.method, body.kind, body.received) == ("PUT", "upload body", len(BYTES))
    assert body.host == ("content" if form == "elsewhere" else "registry")
    assert body.headers["content-length"] == str(len(BYTES))
    assert "transfer-encoding" not in body.headers
    assert pieces.reads == 1


def test_an_empty_blob_is_sent(registry: StandInRegistry) -> None:
    """It has a digest as any other."""
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    connect_to(registry.url).send_blob(digest, 0, list)
    assert registry.blobs("a/b").keys() == {digest}


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("ftp://host/x", "leads to no http address"),
        ("http://[", "leads to no http address"),
        ("http://user:password@127.0.0.1/x", "leads to no http address"),
    ],
)
def test_a_place_that_is_no_address_is_refused(registry: StandInRegistry, location: str, told: str) -> None:
    """It is not shown: it may hold a signature."""
    registry.fail(Status(202, {"Location": location}), "upload start")
    with pytest.raises(HubError, match=told) as error:
        connect_to(registry.url, retries=3).send_blob(DIGEST, len(BYTES), Pieces())
    assert location not in str(error.value)
    assert registry.count() == 1


def test_a_place_that_is_not_named_may_be_named_the_next_time(registry: StandInRegistry) -> None:
    """Something on the way has dropped the header."""
    registry.fail(Status(202), "upload start")
    connect_to(registry.url, retries=1).send_blob(DIGEST, len(BYTES), Pieces())
    assert registry.count(kind="upload start") == 2


@pytest.mark.parametrize("fault", [Reset(None), Silent()], ids=str)
def test_a_blob_whose_answer_was_lost_is_not_sent_again(
    registry: StandInRegistry, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry has it, so it is asked first."""
    monkeypatch.setattr("modelcache.sources.registry_api._PATIENCE_WITH_A_BLOB", 1.0)
    registry.fail(fault, "upload body")
    pieces = Pieces()
    connect_to(registry.url, retries=1, timeout=0.3).send_blob(DIGEST, len(BYTES), pieces)
    assert [request.method for request in registry.requests] == ["POST", "PUT", "HEAD"]
    assert pieces.reads == 1


def test_a_registry_may_take_its_time_over_a_blob(registry: StandInRegistry) -> None:
    """It moves or hashes it before it answers: several timeouts of silence are no failure."""
    registry.fail(StopUpload(len(BYTES), Ending.HOLD), "upload body")
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match="no answer in time"):
        connect_to(registry.url, timeout=0.1).send_blob(DIGEST, len(BYTES), Pieces())
    assert 2.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("after", [1, 100_000])
def test_a_blob_that_breaks_is_sent_again_from_its_beginning(registry: StandInRegistry, after: int) -> None:
    """In an upload of its own."""
    registry.fail(StopUpload(after), "upload body")
    pieces, reporter = Pieces(), Listener()
    connect_to(registry.url, retries=1, reporter=reporter).send_blob(DIGEST, len(BYTES), pieces)
    assert registry.blobs("a/b")[DIGEST].read_bytes() == BYTES
    assert [request.method for request in registry.requests] == ["POST", "PUT", "HEAD", "POST", "PUT"]
    assert (pieces.reads, len(reporter.retries)) == (2, 1)


def test_a_body_that_is_not_read_on_is_sent_again(registry: StandInRegistry) -> None:
    """After one timeout in which no byte of it was taken."""
    registry.fail(StopUpload(100_000, Ending.HOLD), "upload body")
    began = time.monotonic()
    connect_to(registry.url, retries=1, timeout=0.5).send_blob(LARGE_DIGEST, len(LARGE), Pieces(LARGE, 1 << 20))
    assert time.monotonic() - began < 10
    assert registry.blobs("a/b").keys() == {LARGE_DIGEST}


@pytest.mark.parametrize("fault", [ForgetUpload(), Status(404), Status(416)], ids=["forgotten", "404", "416"])
def test_an_upload_that_is_no_longer_known_begins_anew(registry: StandInRegistry, fault: Fault) -> None:
    """The registry was restarted, or another of its machines answers; it ends after as many tries as any failure."""
    registry.fail(fault, "upload body")
    connect_to(registry.url, retries=1).send_blob(DIGEST, len(BYTES), Pieces())
    assert registry.blobs("a/b").keys() == {DIGEST}
    registry.fail(fault, "upload body", times=-1)
    with pytest.raises(HubUnreachableError, match=r"the upload is no longer known \(tried 3 times\)"):
        connect_to(registry.url, "c", retries=2).send_blob(DIGEST, len(BYTES), Pieces())


@pytest.mark.parametrize("code", ["DIGEST_INVALID", "SIZE_INVALID"])
def test_a_blob_that_arrives_with_other_bytes_is_refused(registry: StandInRegistry, code: str) -> None:
    """Exit 1, as for a file that is not as pinned; the next run may be right."""
    registry.fail(refusal(400, code), "upload body")
    with pytest.raises(
        RefusedBlobError, match=rf"{registry.address}/a/b received other bytes than .* {DIGEST}"
    ) as error:
        connect_to(registry.url, retries=3).send_blob(DIGEST, len(BYTES), Pieces())
    assert (error.value.exit_code, isinstance(error.value, IntegrityError)) == (1, True)
    assert registry.count(kind="upload body") == 1


def test_a_registry_that_hashes_finds_other_bytes(registry: StandInRegistry) -> None:
    """Nothing has the name of the blob."""
    with pytest.raises(RefusedBlobError):
        connect_to(registry.url).send_blob(DIGEST, len(BYTES), Pieces(BYTES[::-1]))
    assert not registry.blobs("a/b")


@pytest.mark.parametrize("reads", [True, False])
def test_a_blob_that_is_too_large_for_the_registry_is_told(registry: StandInRegistry, reads: bool) -> None:
    """Whether it reads the body first, as nginx does, or ends the connection, as servers in Go do."""
    registry.site.reads_refused_bodies = reads
    registry.fail(Status(413, {}, b"<html>413 Request Entity Too Large</html>"), "upload body", times=-1)
    with pytest.raises(HubError, match=r"does not take a blob of 25\.2 MB \(status 413\)") as error:
        connect_to(registry.url, retries=3).send_blob(LARGE_DIGEST, len(LARGE), Pieces(LARGE, 1 << 20))
    assert "limits the size of a request" in error.value.hint
    assert not error.value.retryable
    assert registry.count(kind="upload body") == 1


def test_a_size_that_is_refused_is_no_wrong_byte(registry: StandInRegistry) -> None:
    """413 says that the blob is too large, whatever code is beside it."""
    registry.fail(refusal(413, "SIZE_INVALID"), "upload body")
    with pytest.raises(HubError, match="status 413") as error:
        connect_to(registry.url, retries=3).send_blob(DIGEST, len(BYTES), Pieces())
    assert "limits the size of a request" in error.value.hint


def test_a_source_that_breaks_is_no_fault_of_the_registry(registry: StandInRegistry) -> None:
    """The pieces come from another registry; the next try reads them anew."""
    tries = []

    def pieces() -> Iterator[bytes]:
        tries.append(1)
        yield BYTES[:1000]
        if len(tries) == 1:
            raise BrokenCopyError("the other one: cut short")
        yield BYTES[1000:]

    reporter = Listener()
    connect_to(registry.url, retries=1, reporter=reporter).send_blob(DIGEST, len(BYTES), pieces)
    assert registry.blobs("a/b")[DIGEST].read_bytes() == BYTES
    assert len(tries) == 2
    assert "the other one: cut short" in reporter.retries[0]


def test_an_error_while_a_blob_is_read_is_not_retried(registry: StandInRegistry) -> None:
    """A disk that fails is no fault of the line, and the connection is not used again."""

    def pieces() -> Iterator[bytes]:
        yield BYTES[:1000]
        raise IntegrityError("a file has changed")

    repository = connect_to(registry.url, retries=3)
    with pytest.raises(IntegrityError, match="a file has changed"):
        repository.send_blob(DIGEST, len(BYTES), pieces)
    assert registry.count(kind="upload start") == 1
    repository.send_blob(DIGEST, len(BYTES), Pieces())
    assert registry.blobs("a/b")[DIGEST].read_bytes() == BYTES


MEGABYTES = 200
CHILD = f"""
import hashlib, resource, sys
from tests.support.registry.client import connect_to

piece = memoryview(bytes(1 << 20))


def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def through(count):
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    name = f"sha256:{{digest.hexdigest()}}"
    repository.send_blob(name, count << 20, lambda: (piece for _ in range(count)))
    with repository.open_blob(name, 0, count << 20, count << 20) as chunks:
        for pieces in chunks:
            pass


repository = connect_to(sys.argv[1])
through(2)
before = most()
through({MEGABYTES})
print(most() - before)
"""


@pytest.mark.slow
def test_memory_is_flat_while_a_blob_is_sent_and_read(registry: StandInRegistry, tmp_path: Path) -> None:
    """200 MB pass through a few MiB."""
    words = [sys.executable, "-c", CHILD, registry.url]
    ran = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 8
    assert {path.stat().st_size >> 20 for path in registry.blobs("a/b").values()} == {2, MEGABYTES}
