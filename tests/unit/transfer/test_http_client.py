"""The way to the Hub: broken lines, busy servers, certificates, proxies."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.retry import RetryPolicy
from tests.conftest import EMBEDDING, SOON, Tool, files_below
from tests.support import tiny
from tests.support.hub import (
    DropHeaders,
    Fault,
    Html,
    Interim,
    Raw,
    Reset,
    Short,
    Silent,
    Slow,
    SlowHead,
    Stall,
    StandInHub,
    Status,
)
from tests.support.hub.wire import Delivery
from tests.support.policy_defaults import patch_policy
from tests.support.proxy import Proxy, TlsFront, make_certificate, make_folder

pytestmark = pytest.mark.slow

WHERE = {
    "revision": r"GET hub /api/models/.*/revision/",
    "tree": r"GET hub /api/models/.*/tree/",
    "small file": r"GET hub /.*/resolve/.*/vocab\.txt",
    "redirect": r"GET hub /.*/resolve/.*\.safetensors",
    "body": r"GET cdn ",
}
AT_ONCE = {"Retry-After": "0"}
FAULTS: dict[str, tuple[Fault, str]] = {
    "reset": (Reset(None), "connection reset|reset by peer|closed connection|Connection aborted"),
    "reset in the body": (Reset(1), "connection reset|reset by peer|cut short"),
    "silent": (Silent(), "no answer in time"),
    "stalled": (Stall(1), "no answer in time"),
    "short": (Short(1), "cut short"),
    "408": (Status(408, AT_ONCE), "408"),
    "429": (Status(429, AT_ONCE), "429"),
    "500": (Status(500, AT_ONCE), "500"),
    "503": (Status(503, AT_ONCE), "503"),
}
# A redirect has hardly a body, and nobody reads it.
CASES = [(what, where) for what in FAULTS for where in WHERE if where != "redirect" or " in " not in what]
CASES = [case for case in CASES if case not in (("stalled", "redirect"), ("short", "redirect"))]


@pytest.fixture
def one(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting one small model that the Hub has."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"), licence="mit")
    tool.want(EMBEDDING)
    return tool


def assert_nothing_half(tool: Tool) -> None:
    """Check that a failure published nothing, and that a run after it succeeds and leaves nothing behind."""
    assert not tool.home(EMBEDDING).exists()
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err
    assert [path.name for path in (tool.folder / "cached_embedding_models").iterdir()] == [tool.home(EMBEDDING).name]


@pytest.mark.parametrize(("what", "where"), CASES)
def test_one_fault_is_survived(hub: StandInHub, one: Tool, tmp_path: Path, what: str, where: str) -> None:
    """Whatever breaks once, at whichever request, costs one more try and is told; the bytes are right."""
    hub.fail(FAULTS[what][0], on=WHERE[where])
    # Where silence is not what is waited for, a busy machine may be silent for a while.
    timeout = 1.5 if what in ("silent", "stalled") else 5
    began = time.monotonic()
    ran = one("sync", f"--timeout={timeout}")
    assert ran.exit_code == 0, ran.err
    assert ran.err.count("retry") == 1
    assert time.monotonic() - began < SOON
    source = files_below(tmp_path / "embedding")
    assert all(source[path] == data for path, data in files_below(one.home(EMBEDDING)).items() if path in source)


@pytest.mark.parametrize(("what", "where"), CASES)
def test_a_fault_for_ever_ends_soon_and_names_the_reason(hub: StandInHub, one: Tool, what: str, where: str) -> None:
    """Exit 3 within the bounds of --timeout and --retries, with the model, the reason and a hint."""
    fault, reason = FAULTS[what]
    hub.fail(fault, on=WHERE[where], times=-1)
    began = time.monotonic()
    ran = one("sync", "--timeout=0.4", "--retries=0")
    took = time.monotonic() - began
    assert ran.exit_code == 3, ran.err
    assert took < SOON
    error = next(line for line in ran.err.splitlines() if line.startswith("error: "))
    # A host that says nothing at all is told as that: it is not the model's fault.
    assert (EMBEDDING if (what, where) not in (("reset", "revision"), ("reset", "body")) else "127.0.0.1: ") in error
    assert re.search(reason, error), error
    assert re.search(r"^hint: ", ran.err, re.MULTILINE)
    assert not one.home(EMBEDDING).exists()


@pytest.mark.parametrize("what", ["reset", "silent", "short", "429", "500"])
def test_the_host_that_failed_is_named(hub: StandInHub, one: Tool, request: pytest.FixtureRequest, what: str) -> None:
    """Hub, mirror or content network: the message says which of them failed."""
    hub.fail(FAULTS[what][0], on=WHERE["body"], times=-1)
    ran = one("sync", "--timeout=0.4", "--retries=0")
    assert ran.exit_code == 3
    assert "127.0.0.1" in ran.err.replace(str(one.folder), "")


@pytest.mark.usefixtures("real_pauses")
def test_the_number_of_tries_is_bounded(hub: StandInHub, one: Tool) -> None:
    """--retries 2 means three tries, with growing pauses, and no more."""
    hub.fail(Status(500), on=WHERE["revision"], times=-1)
    began = time.monotonic()
    ran = one("sync", "--retries=2")
    took = time.monotonic() - began
    assert (ran.exit_code, len(hub.requests)) == (3, 3)
    assert re.search(r"\b3 times\b", ran.err)
    assert took > 1.4


# busy servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "1"}, {"RateLimit": '"resolvers";r=0;t=1', "RateLimit-Policy": '"w";"resolvers";q=5000;w=300'}],
    ids=["Retry-After", "RateLimit"],
)
def test_a_pause_is_as_long_as_asked(hub: StandInHub, one: Tool, where: str, headers: dict[str, str]) -> None:
    """429 with Retry-After, or with the RateLimit header only, is waited for: no shorter, and hardly longer."""
    hub.fail(Status(429, headers), on=WHERE[where])
    ran = one("sync")
    assert ran.exit_code == 0, ran.err
    assert ran.err.count("retry") == 1
    first = next(index for index, request in enumerate(hub.requests) if request.status == 429)
    busy = hub.requests[first]
    same = [r.at for r in hub.requests[first + 1 :] if (r.host, r.file) == (busy.host, busy.file)]
    assert 1.0 <= same[0] - busy.at < 1.6


def test_a_host_that_asks_for_a_pause_gets_it_from_every_request(hub: StandInHub, one: Tool) -> None:
    """After a 429 no other request goes to that host before the time is over."""
    hub.fail(Status(429, {"Retry-After": "1"}), on=WHERE["small file"])
    one("sync")
    busy = next(request for request in hub.requests if request.status == 429)
    later = [request.at - busy.at for request in hub.requests if request.host == "hub" and request.at > busy.at + 0.15]
    assert min(later) >= 0.95


@pytest.mark.parametrize("where", WHERE)
def test_many_requests_wait_once_together(hub: StandInHub, one: Tool, where: str) -> None:
    """Eight 429 that each ask for one second, in a row of parallel requests, are not added up."""
    every = WHERE[where] if where != "small file" else r"GET hub /.*/resolve/"
    hub.fail(Status(429, {"Retry-After": "1"}), on=every, times=2)
    began = time.monotonic()
    assert one("sync", "--retries=3").exit_code == 0
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("where", WHERE)
def test_a_pause_longer_than_we_bear_ends_at_once(hub: StandInHub, one: Tool, where: str) -> None:
    """A server that asks for an hour is believed: exit 3 now, with the time it asks for."""
    hub.fail(Status(429, {"Retry-After": "3600"}), on=WHERE[where], times=-1)
    began = time.monotonic()
    ran = one("sync", "--retries=5")
    assert ran.exit_code == 3
    assert "3600 s" in ran.err
    assert time.monotonic() - began < SOON


def test_a_pause_longer_than_we_bear_ends_every_model(
    hub: StandInHub, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More models than are resolved at a time: those that come later do not wait for a pause we do not bear."""
    patch_policy(monkeypatch, longest_requested_pause=60.0)  # 300 s would keep the test; 60 s show the same
    tool.want(*(f"org/model{number}" for number in range(6)))
    hub.fail(Status(429, {"Retry-After": "3600"}), on=WHERE["revision"], times=-1)
    began = time.monotonic()
    ran = tool("lock")
    assert ran.exit_code == 3
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("after", ["", "soon", "-1", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_odd_retry_after_is_a_usual_pause(hub: StandInHub, one: Tool, after: str) -> None:
    """What is no number of seconds means our own back-off, never a crash."""
    hub.fail(Status(503, {"Retry-After": after, "RateLimit": "x", "RateLimit-Policy": "y"}), on=WHERE["revision"])
    began = time.monotonic()
    ran = one("lock")
    assert ran.exit_code == 0, ran.err
    assert time.monotonic() - began < SOON


def test_a_date_in_retry_after_is_a_pause(hub: StandInHub, one: Tool) -> None:
    """A date is as good as a number of seconds."""
    hub.fail(Status(503, {"Retry-After": formatdate(time.time() + 3, usegmt=True)}), on=WHERE["revision"])
    assert one("lock").exit_code == 0
    first, second = (request.at for request in hub.requests[:2])
    assert 1.0 <= second - first < SOON


@pytest.mark.parametrize("ahead", [-100_000, 100_000])
def test_a_date_in_retry_after_is_by_the_servers_clock(hub: StandInHub, one: Tool, ahead: int) -> None:
    """Clocks differ: what counts is how much later than the answer's own date it is."""
    now, then = (formatdate(time.time() + ahead + later, usegmt=True) for later in (0, 2))
    head = f"HTTP/1.1 429 Too Many\r\nDate: {now}\r\nRetry-After: {then}\r\nContent-Length: 0\r\n\r\n"
    hub.fail(Raw(head.encode()), on=WHERE["revision"])
    assert one("lock").exit_code == 0
    first, second = (request.at for request in hub.requests[:2])
    assert 2.0 <= second - first < SOON


@pytest.mark.parametrize("where", ["revision", "tree"])
def test_a_web_page_instead_of_json_is_said(hub: StandInHub, one: Tool, where: str) -> None:
    """A captive portal's 200 ends with 3: the host, what it sent, and where to look."""
    hub.fail(Html(), on=WHERE[where], times=-1)
    ran = one("sync")
    assert ran.exit_code == 3
    assert re.search(r"127\.0\.0\.1\b.*\btext/html\b", ran.err)
    assert re.search(r"^hint: .*HTTPS_PROXY", ran.err, re.MULTILINE)


@pytest.mark.parametrize("where", ["small file", "redirect", "body"])
def test_a_web_page_instead_of_a_file_is_never_published(hub: StandInHub, one: Tool, where: str) -> None:
    """It fails with 1 or 3, names the file, and the next run is clean."""
    hub.fail(Html(), on=WHERE[where], times=4)
    ran = one("sync", "--timeout=0.5")
    assert ran.exit_code in (1, 3)
    assert re.search(r"vocab\.txt|model\.safetensors", ran.err)
    for _ in range(4):  # what is left of the four
        if (done := one("sync")).exit_code == 0:
            break
    assert done.exit_code == 0
    assert [path.name for path in (one.folder / "cached_embedding_models").iterdir()] == [one.home(EMBEDDING).name]


@pytest.mark.parametrize("where", WHERE)
def test_an_answer_without_a_length_is_read_to_its_end(hub: StandInHub, one: Tool, where: str) -> None:
    """No Content-Length: the body ends with the connection, and the bytes are right."""
    hub.fail(DropHeaders(("Content-Length",)), on=WHERE[where], times=-1)
    ran = one("sync")
    assert ran.exit_code == 0, ran.err


def test_a_slow_body_is_no_silent_one(hub: StandInHub, one: Tool) -> None:
    """A line that is slow, but never silent for --timeout, is not given up."""
    size = (one.folder.parent / "embedding" / "model.safetensors").stat().st_size
    hub.fail(Slow(size), on=WHERE["body"])
    ran = one("sync", "--timeout=0.4", "--retries=0")
    assert ran.exit_code == 0, ran.err


def test_a_closed_port_is_unreachable(one: Tool, hub: StandInHub) -> None:
    """Nobody listens: exit 3, the host, the reason, after the tries asked for."""
    hub.close()
    ran = one("sync", "--retries=1")
    assert ran.exit_code == 3
    assert re.search(r"127\.0\.0\.1\b.*connection refused.*\b2 times\b", ran.err)


def test_a_server_that_takes_no_connection_is_given_up(one: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog, so that connecting itself hangs, is bounded by --timeout too."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{address[1]}")
            began = time.monotonic()
            ran = one("sync", "--timeout=0.5", "--retries=0")
            assert ran.exit_code == 3
            assert "127.0.0.1" in ran.err
            assert 0.5 <= time.monotonic() - began < SOON


# what stands in the way of an end ---------------------------------------------------------------------------------


class Late:
    """A fault that comes late: others have asked by then."""

    def __init__(self, fault: Fault, seconds: float) -> None:
        self.fault = fault
        self.seconds = seconds

    def bend(self, delivery: Delivery) -> Delivery:
        """Wait, then bend."""
        time.sleep(self.seconds)
        return self.fault.bend(delivery)


@pytest.mark.parametrize("command", ["lock", "sync"])
def test_a_failure_ends_the_run_while_others_wait_out_a_pause(hub: StandInHub, one: Tool, command: str) -> None:
    """A host has asked for a minute, and then says that a file is gone: nobody waits for the minute to be over."""
    if command == "sync":
        assert one("lock").exit_code == 0
    hub.fail(Late(Status(429, {"Retry-After": "60"}), 0.5), on=WHERE["small file"])
    hub.fail(Late(Slow(10**9), 0.7), on=WHERE["redirect"])  # it comes to the same host when that wants to be left alone
    gone = Status(404, {"X-Error-Code": "EntryNotFound"})
    hub.fail(Late(gone, 1.0), on=r"GET hub /.*/resolve/.*/tokenizer\.json")
    began = time.monotonic()
    ran = one(command, "--retries=3", "--jobs=16")
    assert ran.exit_code == 3, ran.err
    assert "tokenizer.json" in ran.err
    assert time.monotonic() - began < SOON


def test_a_hub_that_is_gone_is_not_asked_about_every_model(hub: StandInHub, tool: Tool) -> None:
    """Four models are resolved at a time; when the Hub counts as unreachable, the others are not begun."""
    tool.want(*(f"org/model{number}" for number in range(20)))
    hub.fail(Silent(), on="GET hub", times=-1)
    ran = tool("lock", "--timeout=0.3", "--retries=0")
    assert ran.exit_code == 3
    assert len(hub.requests) <= 8


def test_broken_json_is_asked_for_again(hub: StandInHub, one: Tool) -> None:
    """An answer that is JSON by its name and cut short by whoever passed it on costs one more try."""
    hub.fail(Status(200, {"Content-Type": "application/json"}, b'{"sha": "abc'), on=WHERE["revision"])
    ran = one("sync")
    assert ran.exit_code == 0, ran.err
    assert re.findall("^  retry .*127.*JSON", ran.err, re.MULTILINE)
    assert ran.err.count("  retry ") == 1


@pytest.mark.parametrize("where", ["small file", "redirect"])
def test_a_way_to_a_login_page_is_asked_for_anew(hub: StandInHub, one: Tool, where: str) -> None:
    """Who is once led to a web page asks the Hub again, and not the page's host for ever."""
    with StandInHub() as portal:
        portal.fail(Html(), on="GET", times=-1)
        hub.fail(Status(302, {"Location": f"{portal.url}/login"}), on=WHERE[where])
        ran = one("sync")
        assert ran.exit_code == 0, ran.err
        assert re.search("^  retry .*text/html", ran.err, re.MULTILINE)
        assert len(portal.requests) == 1


@pytest.mark.parametrize("statuses", [(100,), (102, 103), (103, 100, 199)])
@pytest.mark.parametrize("where", WHERE)
def test_interim_answers_are_passed_over(hub: StandInHub, one: Tool, where: str, statuses: tuple[int, ...]) -> None:
    """What comes before the answer is not taken for it, and costs no try (RFC 9110, 15.2)."""
    hub.fail(Interim(statuses), on=WHERE[where], times=-1)
    ran = one("sync", "--retries=0")
    assert ran.exit_code == 0, ran.err


# how slowly an answer may come ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Slow(20_000), SlowHead(20), Raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)],
    ids=["body", "headers", "interim answers"],
)
def test_a_trickle_is_given_up(hub: StandInHub, one: Tool, fault: Fault) -> None:
    """It never pauses for --timeout, and gets nowhere: exit 3 after (retries + 1) x 6 x timeout, and it is told."""
    hub.fail(fault, on=WHERE["body"], times=-1)
    began = time.monotonic()
    ran = one("sync", "--timeout=0.3", "--retries=1")
    assert ran.exit_code == 3, ran.err
    assert re.search(r"127\.0\.0\.1\b.*\b64 KiB\b.*\b2 s\b.*\b2 times\b", ran.err)
    assert time.monotonic() - began < SOON
    hub.forget()
    hub._log._armed.clear()
    assert_nothing_half(one)
    if isinstance(fault, Slow):  # what came is kept
        assert sum(request.sent for request in hub.requests if request.host == "cdn") < 90_000


def test_a_slow_reader_is_not_the_servers_fault(hub: StandInHub) -> None:
    """A disk that takes longer for 64 KiB than the server has for them does not make the server slow."""
    commit = hub.add("a/b", {"model.safetensors": b"x" * 3_000_000})
    client = HttpClient(RetryPolicy(timeout=0.2, retries=0), QuietReporter())
    with client.get(f"{hub.url}/a/b/resolve/{commit}/model.safetensors", {}) as redirect:
        address = redirect.headers["Location"]
    length = 0
    with client.get(address, {}) as answer:
        for number, pieces in enumerate(answer.chunks(1 << 15, 3_000_000)):
            length += sum(map(len, pieces))
            time.sleep(0.7 if number < 3 else 0)
    assert length == 3_000_000


@pytest.mark.parametrize("limit", [0, 1, 99_999, 100_000, 250_000, 2_999_999, 3_000_000, 4_000_000])
def test_a_body_is_read_up_to_a_limit(hub: StandInHub, limit: int) -> None:
    """Chunks of one size, the last one shorter."""
    content = bytes(range(250)) * 12_000
    commit = hub.add("a/b", {"model.safetensors": content})
    client = HttpClient(RetryPolicy(timeout=5, retries=0), QuietReporter())
    with client.get(f"{hub.url}/a/b/resolve/{commit}/model.safetensors", {}) as redirect:
        address = redirect.headers["Location"]
    came, lengths = b"", list[int]()
    with client.get(address, {}) as answer:
        for pieces in answer.chunks(100_000, limit):
            came += b"".join(pieces)
            lengths.append(sum(map(len, pieces)))
    assert came == content[:limit]
    assert set(lengths[:-1]) <= {100_000}


# certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.fixture
def secure(
    hub: StandInHub, one: Tool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[TlsFront, TlsFront]]:
    """Hub and content network, both behind TLS; whatever certificates this machine names are none of ours."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with TlsFront(hub.url, certificate) as front, TlsFront(hub.cdn_url, certificate) as cdn:
        hub._site.url, hub._site.cdn_url = front.url, cdn.url  # what redirects and links name
        monkeypatch.setenv("HF_ENDPOINT", front.url)
        yield front, cdn


@pytest.mark.usefixtures("secure")
def test_a_self_signed_certificate_is_refused(hub: StandInHub, one: Tool) -> None:
    """Exit 3 at once, no retry, with the variables that help; nothing is asked."""
    ran = one.run("sync", "--timeout=1", "--retries=3")
    assert ran.exit_code == 3
    assert re.search(r"127\.0\.0\.1\b.*self.signed", ran.err)
    assert re.search(r"^hint: .*SSL_CERT_FILE.*REQUESTS_CA_BUNDLE", ran.err, re.MULTILINE)
    assert "retry" not in ran.err
    assert hub.requests == []


@pytest.mark.usefixtures("secure")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_private_certificate_is_accepted_where_it_is_named(
    hub: StandInHub, one: Tool, certificate: Path, variable: str
) -> None:
    """Each of the variables people know makes Hub and content network trusted; the token travels over https."""
    hub.token = "hf_secret"
    ran = one.run("sync", "--timeout=1", env={variable: str(certificate), "HF_TOKEN": "hf_secret"})
    assert ran.exit_code == 0, ran.err
    assert {(request.host, request.authorization) for request in hub.requests} == {
        ("hub", "Bearer hf_secret"),
        ("cdn", None),
    }


@pytest.mark.usefixtures("secure")
@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_a_directory_of_certificates_is_accepted(one: Tool, certificate: Path, tmp_path: Path, variable: str) -> None:
    """A directory as `openssl rehash` makes it is as good as a file."""
    ran = one.run("sync", "--timeout=1", env={variable: str(make_folder(tmp_path / "certificates", certificate))})
    assert ran.exit_code == 0, ran.err


@pytest.mark.usefixtures("secure")
@pytest.mark.parametrize("content", [None, b"", b"no certificate\n"])
def test_a_bundle_that_cannot_be_read_is_named(one: Tool, tmp_path: Path, content: bytes | None) -> None:
    """REQUESTS_CA_BUNDLE that is missing, empty or no certificate: exit 2 or 3, its path and the variable."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    ran = one.run("sync", "--timeout=1", env={"REQUESTS_CA_BUNDLE": str(bundle)})
    assert ran.exit_code in (2, 3)
    assert str(bundle) in ran.err
    assert "REQUESTS_CA_BUNDLE" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("index", [0, 1], ids=["hub", "cdn"])
def test_a_handshake_that_breaks_off_is_tried_again(
    one: Tool,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: int,
) -> None:
    """A connection closed in the middle of the handshake is a broken line like any other, not a bad certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure[index].hangups = 1
    ran = one("sync", "--timeout=1")
    assert ran.exit_code == 0, ran.err


@pytest.mark.parametrize("fault", [Reset(1), Short(1), Stall(1), Silent()])
@pytest.mark.parametrize("where", ["revision", "body"])
@pytest.mark.usefixtures("secure")
def test_a_line_that_breaks_under_tls_is_tried_again(
    hub: StandInHub, one: Tool, certificate: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, where: str
) -> None:
    """Under TLS, too, a body cut short, with no farewell, costs one more try."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    hub.fail(fault, on=WHERE[where])
    ran = one("sync", "--timeout=0.5")
    assert ran.exit_code == 0, ran.err
    assert ran.err.count("retry") == 1


def test_plain_http_where_https_is_expected_ends_with_3(
    hub: StandInHub, one: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that speaks no TLS ends with words, not with a traceback."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", "https://"))
    ran = one("sync", "--timeout=0.5", "--retries=0")
    assert ran.exit_code == 3
    assert "127.0.0.1" in ran.err


def test_certificates_are_read_where_tls_is_met(
    hub: StandInHub, one: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http needs none, and reading them takes 40 ms; the first https address and an https proxy need them."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert one("sync").exit_code == 0
    for variable, address in (("HF_ENDPOINT", "https://127.0.0.1:9"), ("HTTP_PROXY", "https://127.0.0.1:9")):
        with monkeypatch.context() as patch:
            patch.delenv("NO_PROXY")
            patch.setenv(variable, address)
            ran = one("lock", "--upgrade", "--retries=0")
            assert (ran.exit_code, "missing.pem" in ran.err) == (3, True), ran.err


# proxies --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that nobody is told of yet; NO_PROXY excepts nobody any more."""
    monkeypatch.delenv("NO_PROXY")
    with Proxy() as proxy:
        yield proxy


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_goes_through_the_proxy(
    hub: StandInHub, one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Every plain request goes to the proxy in absolute form, those to the content network too."""
    monkeypatch.setenv(variable, proxy.url)
    ran = one("sync")
    assert ran.exit_code == 0, ran.err
    assert len(proxy.asked) == len(hub.requests) > 0
    assert {asked.method for asked in proxy.asked} == {"GET"}
    assert {asked.target.rpartition(":")[0] for asked in proxy.asked if "?" not in asked.target} == {"http://127.0.0.1"}


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_https_goes_through_a_tunnel(
    hub: StandInHub,
    one: Tool,
    proxy: Proxy,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    variable: str,
) -> None:
    """Every https request goes through CONNECT, and the proxy sees no token; run as a process."""
    hub.token = "hf_secret"
    env = {variable: proxy.url, "SSL_CERT_FILE": str(certificate), "HF_TOKEN": "hf_secret"}
    ran = one.run("sync", "--timeout=1", env=env)
    assert ran.exit_code == 0, ran.err
    assert {asked.method for asked in proxy.asked} == {"CONNECT"}
    assert {asked.target for asked in proxy.asked} == {front.url.removeprefix("https://") for front in secure}
    assert {asked.authorization for asked in proxy.asked} == {None}


def test_each_scheme_has_its_own_proxy(
    hub: StandInHub, one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is not asked about plain http."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert one("sync").exit_code == 0
    assert proxy.asked == []
    assert hub.requests


@pytest.mark.parametrize("login", ["user:s3cret", "user:p%40ss%3Aw%2Frd", "user:"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_password_in_the_address_opens_the_proxy(
    hub: StandInHub,
    one: Tool,
    proxy: Proxy,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    login: str,
    scheme: str,
) -> None:
    """`http://user:password@proxy`, percent-encoded where need be, for both schemes."""
    if scheme == "http":
        hub._site.url, hub._site.cdn_url = hub.url, hub.cdn_url
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.with_login(login))
    proxy.password = login.replace("%40", "@").replace("%3A", ":").replace("%2F", "/")
    ran = one("sync")
    assert ran.exit_code == 0, ran.err
    assert proxy.refused == 0
    assert len(proxy.asked) > 0


@pytest.mark.parametrize("login", [None, "user:wr0ng"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_missing_or_wrong_password_is_said(
    hub: StandInHub,
    one: Tool,
    proxy: Proxy,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    login: str | None,
    scheme: str,
) -> None:
    """407 ends with 3 at once, says how a password is written, and does not repeat the one that was wrong."""
    if scheme == "http":
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    proxy.password = "user:s3cret"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.with_login(login) if login else proxy.url)
    ran = one("sync", "--retries=3")
    assert ran.exit_code == 3
    assert f"127.0.0.1:{proxy.port}" in ran.err
    assert re.search(rf"^hint: .*{scheme.upper()}_PROXY.*http://user:password@host:port", ran.err, re.MULTILINE)
    assert "wr0ng" not in ran.err
    assert proxy.refused == 1
    assert hub.requests == []


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "example.org, 127.0.0.1"])
def test_no_proxy_is_honoured(
    hub: StandInHub, one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    """Hosts that NO_PROXY names are asked directly."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert one("sync").exit_code == 0
    assert proxy.asked == []


def test_no_proxy_of_other_hosts_excepts_nobody(
    hub: StandInHub, one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY for somebody else leaves us with the proxy."""
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "example.org,27.0.0.1")
    assert one("sync").exit_code == 0
    assert len(proxy.asked) == len(hub.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_resets_is_tried_again(
    hub: StandInHub,
    one: Tool,
    proxy: Proxy,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    """One reset costs one try; for ever it ends with 3 and the proxy is what is named."""
    if scheme == "http":
        hub._site.url, hub._site.cdn_url = hub.url, hub.cdn_url
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
    proxy.resets = 1
    ran = one("lock")
    assert ran.exit_code == 0, ran.err
    assert ran.err.count("retry") == 1, ran.err
    proxy.resets = -1
    assert one("sync", "--retries=0").exit_code == 3
    proxy.resets = 0
    assert_nothing_half(one)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_with_trouble_of_its_own_is_tried_again(
    hub: StandInHub,
    one: Tool,
    proxy: Proxy,
    secure: tuple[TlsFront, TlsFront],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    status: int,
) -> None:
    """502 and 503 of the proxy end with 3 after the tries asked for, and are told."""
    if scheme == "http":
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
    proxy.status = status
    ran = one("sync")
    assert (ran.exit_code, len(proxy.asked)) == (3, 2)
    assert str(status) in ran.err


def test_a_proxy_that_is_not_there_is_named_as_the_proxy(
    one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port at the proxy's address: exit 3, and that it is the proxy; its password is not told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://user:s3cret@127.0.0.1:{port}")
    ran = one("sync", "--retries=0")
    assert ran.exit_code == 3
    assert re.search(rf"proxy 127\.0\.0\.1:{port}\b.*connection refused", ran.err)
    assert "HTTP_PROXY" in ran.err
    assert "s3cret" not in ran.err


@pytest.mark.parametrize("port", [4070, 14071, 24078])
def test_a_proxy_at_port_4070_that_is_not_there_asks_for_no_password(
    one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """What failed is told by the exception, not by digits in its words."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    ran = one("sync", "--retries=0")
    assert ran.exit_code == 3
    assert "password" not in ran.err


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/", "HTTP://127.0.0.1:{port}"])
def test_a_proxy_may_be_written_as_people_write_it(
    one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Without a scheme, with a slash at the end, in capitals."""
    monkeypatch.setenv("HTTP_PROXY", address.format(port=proxy.port))
    assert one("sync").exit_code == 0
    assert proxy.asked


@pytest.mark.parametrize(
    "address",
    [
        "socks5://127.0.0.1:1",
        pytest.param(
            "http://[::1]:1",
        ),
        pytest.param(
            "http://127.0.0.1:99999",
        ),
        pytest.param(
            "http://[::1",
        ),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told(
    one: Tool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """An address that is none, or a kind of proxy we do not speak, ends with words: exit 2 or 3, never 70."""
    monkeypatch.setenv("HTTP_PROXY", address)
    ran = one("sync", "--retries=0", "--timeout=0.5")
    assert ran.exit_code in (2, 3), ran.err
    assert "roxy" in ran.err
