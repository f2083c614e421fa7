"""A registry and a line that fail: which requests are sent again, how often, and what is told in the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from modelcache.core.errors import AccessDeniedError, HubError, HubUnreachableError
from modelcache.sources.registry_api import BrokenCopyError, RegistryRepository
from modelcache.transfer.retry import TransientError
from tests.support.hub.faults import Chunked, CutHead, Interim
from tests.support.oci_images import MANIFEST
from tests.support.registry import (
    Ending,
    Fault,
    Reset,
    Short,
    Silent,
    Stall,
    StandInRegistry,
    Status,
    refusal,
)
from tests.support.registry.client import BYTES, DIGEST, JSON, JSON_DIGEST, Listener, connect_to
from tests.support.registry.site import Kind

MORE = hashlib.shake_256(b"another layer").digest(200_000)
MORE_DIGEST = f"sha256:{hashlib.sha256(MORE).hexdigest()}"
RESET = Reset(None)
SILENCE = 0.3


@dataclass(frozen=True)
class Call:
    """A call, the request that a fault is to meet, and what the call returns."""

    ask: Callable[[RegistryRepository], object]
    kind: Kind
    method: str
    returns: object
    has_body: bool = False

    def __str__(self) -> str:
        """For the name of a test."""
        return f"{self.method} {self.kind}"


def send(repository: RegistryRepository) -> None:
    """Send a blob in two pieces."""
    repository.send_blob(MORE_DIGEST, len(MORE), lambda: [MORE[:1000], memoryview(MORE)[1000:]])


CALLS = [
    Call(lambda repository: repository.manifest("v1").content, "manifest", "GET", JSON, has_body=True),
    Call(lambda repository: repository.manifest(JSON_DIGEST).content, "manifest", "GET", JSON, has_body=True),
    Call(lambda repository: repository.has_manifest("v1", JSON_DIGEST), "manifest", "HEAD", True),
    Call(lambda repository: repository.put_manifest("v2", MANIFEST, JSON), "manifest", "PUT", None),
    Call(lambda repository: repository.small_blob(DIGEST, len(BYTES)), "blob", "GET", BYTES, has_body=True),
    Call(lambda repository: repository.has_blob(DIGEST, len(BYTES)), "blob", "HEAD", True),
    Call(lambda repository: repository.mount_blob(MORE_DIGEST, "other"), "upload start", "POST", True),
    Call(send, "upload start", "POST", None),
    Call(send, "upload body", "PUT", None),
]
SAID = [call for call in CALLS if call.returns is not True]
"""Those whose refusal is told; where a blob or a manifest is looked for or mounted, it is an answer."""
WITH_BODY = [call for call in CALLS if call.has_body]
BEFORE_THE_ANSWER = [
    Status(429, {"Retry-After": "0"}),
    Status(408),
    Status(500),
    Status(502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"),
    Status(503),
    Status(504),
]
IN_THE_ANSWER = [RESET, CutHead(0), CutHead(40, Ending.RESET)]
IN_THE_BODY = [Short(0), Short(7), Reset(0), Reset(7)]


@pytest.fixture
def filled(registry: StandInRegistry) -> StandInRegistry:
    """A registry with a manifest under the tag v1, a blob, and another one in another repository."""
    registry.storage.put_blob("a/b", BYTES)
    registry.storage.put_blob("other", MORE)
    registry.storage.put_manifest("a/b", "v1", JSON, MANIFEST)
    return registry


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("fault", [*BEFORE_THE_ANSWER, *IN_THE_ANSWER], ids=str)
def test_a_request_that_fails_once_is_sent_once_more(filled: StandInRegistry, call: Call, fault: Fault) -> None:
    """Whatever it asks for; one retry is told. What a lost answer has brought is looked for, and not sent twice."""
    filled.fail(fault, call.kind, method=call.method)
    reporter = Listener()
    assert call.ask(connect_to(filled.url, retries=1, reporter=reporter)) == call.returns
    lost = fault in IN_THE_ANSWER and call.method == "PUT"
    assert filled.count(kind=call.kind, method=call.method) == (1 if lost else 2)
    assert len(reporter.retries) == 1
    if call.ask is send:
        assert filled.blobs("a/b")[MORE_DIGEST].read_bytes() == MORE
    assert call.method != "PUT" or call.kind != "manifest" or filled.tags("a/b")["v2"] == JSON_DIGEST


@pytest.mark.parametrize("call", WITH_BODY, ids=str)
@pytest.mark.parametrize("fault", IN_THE_BODY, ids=str)
def test_a_body_that_ends_early_is_asked_for_again(filled: StandInRegistry, call: Call, fault: Fault) -> None:
    """With a reset or without."""
    filled.fail(fault, call.kind, method=call.method)
    assert call.ask(connect_to(filled.url, retries=1)) == call.returns
    assert filled.count(kind=call.kind, method=call.method) == 2


@pytest.mark.parametrize("call", [call for call in CALLS if str(call) != "PUT upload body"], ids=str)
@pytest.mark.parametrize("fault", [Silent(), CutHead(12, Ending.HOLD)], ids=str)
def test_a_silent_registry_is_asked_again(filled: StandInRegistry, call: Call, fault: Fault) -> None:
    """After one timeout."""
    filled.fail(fault, call.kind, method=call.method)
    began = time.monotonic()
    assert call.ask(connect_to(filled.url, retries=1, timeout=SILENCE)) == call.returns
    assert SILENCE <= time.monotonic() - began < 20 * SILENCE


@pytest.mark.parametrize("call", WITH_BODY, ids=str)
def test_a_body_that_stalls_is_asked_for_again(filled: StandInRegistry, call: Call) -> None:
    """After one timeout without a byte."""
    filled.fail(Stall(5), call.kind, method=call.method)
    assert call.ask(connect_to(filled.url, retries=1, timeout=SILENCE)) == call.returns


@pytest.mark.parametrize("call", WITH_BODY, ids=str)
@pytest.mark.parametrize("fault", [Chunked(1000), Interim((100, 103))], ids=str)
def test_an_odd_way_to_answer_is_no_fault(filled: StandInRegistry, call: Call, fault: Fault) -> None:
    """Chunks and interim answers are HTTP."""
    filled.fail(fault, call.kind, method=call.method)
    assert call.ask(connect_to(filled.url)) == call.returns
    assert filled.count() == 1


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_registry_that_goes_on_failing_is_given_up(filled: StandInRegistry, call: Call) -> None:
    """After as many tries as were allowed; the message has the number, the repository and the reason."""
    filled.fail(Status(503), call.kind, method=call.method, times=-1)
    with pytest.raises(HubUnreachableError, match=r"status 503 \(tried 3 times\)") as error:
        call.ask(connect_to(filled.url, retries=2))
    assert filled.count(kind=call.kind, method=call.method) == 3
    assert error.value.message.startswith(f"{filled.address}/a/b: ")
    assert (error.value.exit_code, error.value.retryable) == (3, True)


def test_a_pause_that_is_asked_for_is_kept(filled: StandInRegistry) -> None:
    """To the second."""
    filled.fail(Status(429, {"Retry-After": "1"}), "manifest")
    began = time.monotonic()
    assert connect_to(filled.url, retries=1).manifest("v1").content == JSON
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_pause_that_is_too_long_is_told(filled: StandInRegistry, call: Call) -> None:
    """The run ends at once."""
    filled.fail(Status(429, {"Retry-After": "7200"}), call.kind, method=call.method)
    with pytest.raises(HubUnreachableError, match="asks to wait 7200 s"):
        call.ask(connect_to(filled.url, retries=3))


@pytest.mark.parametrize("call", SAID, ids=str)
def test_a_registry_that_does_not_let_us_is_asked_once(filled: StandInRegistry, call: Call) -> None:
    """With the words of the registry, and those that say what we wanted."""
    filled.fail(refusal(403, "DENIED"), call.kind, method=call.method, times=-1)
    with pytest.raises(AccessDeniedError, match="the stand-in was told to refuse") as error:
        call.ask(connect_to(filled.url, retries=3))
    doing = "read" if call.method == "GET" else "write"
    assert f"{filled.address} does not let this run {doing} {filled.address}/a/b" in error.value.message
    assert "docker login" in error.value.hint
    assert (error.value.exit_code, error.value.retryable) == (3, False)
    assert filled.count(kind=call.kind, method=call.method) == 1


@pytest.mark.parametrize("status", [400, 405, 409, 501])
@pytest.mark.parametrize("call", SAID, ids=str)
def test_a_request_that_is_not_taken_is_sent_once(filled: StandInRegistry, call: Call, status: int) -> None:
    """Trying again would not help."""
    filled.fail(refusal(status, "UNSUPPORTED"), call.kind, method=call.method, times=-1)
    with pytest.raises(HubError, match=rf"{filled.address}/a/b: the registry does not .*\(status {status}") as error:
        call.ask(connect_to(filled.url, retries=3))
    assert not error.value.retryable
    assert filled.count(kind=call.kind, method=call.method) == 1


@pytest.mark.parametrize("call", SAID, ids=str)
@pytest.mark.parametrize("status", [202, 302])
def test_a_status_that_no_registry_sends_is_tried_again(filled: StandInRegistry, call: Call, status: int) -> None:
    """It comes from something on the way, as does a redirect without a location."""
    filled.fail(Status(status), call.kind, method=call.method)
    assert call.ask(connect_to(filled.url, retries=1)) == call.returns
    assert filled.count(kind=call.kind, method=call.method) == 2


@pytest.mark.parametrize("wanted", ["v1", JSON_DIGEST])
def test_a_manifest_whose_head_is_cut_is_asked_for_again(filled: StandInRegistry, wanted: str) -> None:
    """To http.client the end of the connection is the end of the head: a status, no header, and an empty body."""
    filled.fail(CutHead(12), "manifest")
    assert connect_to(filled.url, retries=1).manifest(wanted).content == JSON
    assert filled.count() == 2


@pytest.mark.parametrize("fault", IN_THE_ANSWER, ids=str)
def test_a_tag_that_was_written_is_not_written_twice(filled: StandInRegistry, fault: Fault) -> None:
    """The answer was lost, and the registry lets no tag be written again."""
    filled.fail(fault, "manifest", method="PUT")
    filled.fail(refusal(409, "TAG_IMMUTABLE"), "manifest", method="PUT", times=-1)
    connect_to(filled.url, retries=2).put_manifest("v2", MANIFEST, JSON)
    assert filled.tags("a/b")["v2"] == JSON_DIGEST


def test_a_blob_that_is_sent_on_and_breaks_is_told_apart(filled: StandInRegistry) -> None:
    """The registry that it comes from failed, not the one that receives it."""
    filled.fail(Short(1000), "blob", method="GET")
    with pytest.raises(BrokenCopyError, match="cut short"):
        b"".join(connect_to(filled.url).blob_pieces(DIGEST, len(BYTES)))
    assert b"".join(connect_to(filled.url).blob_pieces(DIGEST, len(BYTES))) == BYTES
    assert issubclass(BrokenCopyError, TransientError)
