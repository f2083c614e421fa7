"""Hosts that are not what they should be: names nobody knows, closed ports, bad certificates, login pages elsewhere."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDING
from tests.faults.conftest import Tally
from tests.support.faults.network import HASTY, TIMEOUT, TOKEN, Ground, always, error_of, hint_of, lasting, once
from tests.support.hub import Headers, Status
from tests.support.proxy import Foreign, TlsFront, Trouble, crawls, hang_up, make_certificate, reset, says, silent

pytestmark = pytest.mark.slow

LOGIN = b"<!doctype html><title>Sign in</title>"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
HOSTS = {"hub": "lock", "cdn": "sync"}
"""Which command is the first to ask which host."""


def gives_up(ground: Ground, command: str, told: str, *, retries: int = 1, timeout: float = TIMEOUT) -> None:
    """Check that a command ends with 3 within its bound, in words, and that nothing is published."""
    ran, _ = ground.run(command, retries=retries, timeout=timeout)
    assert ran.exit_code == 3, ran.err
    assert re.search(told, error_of(ran)), ran.err
    assert hint_of(ran), ran.err
    ground.assert_nothing_published()


# other hosts ----------------------------------------------------------------------------------------------------


@contextmanager
def elsewhere(answer: bytes = PAGE % (len(LOGIN), LOGIN)) -> Iterator[tuple[Foreign, str]]:
    """Give a host that is none of ours; in the end check that nobody has told it a secret."""
    with Foreign(answer) as foreign:
        yield foreign, f"http://localhost:{foreign.port}/login?next=x"
    assert foreign.heard
    for heard in foreign.heard:
        assert heard.startswith(b"GET ")
        assert b"authorization" not in heard.lower()
        assert TOKEN.encode() not in heard


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_login_page(ground: Ground, tally: Tally, status: int) -> None:
    """At every request: the page is taken for nothing else, its host is named, and the token stays at home."""
    told = "localhost answered with text/html instead of"
    with elsewhere() as (_, address):
        away = Status(status, {"Location": address})
        case = always("redirected to a login page", away, told, fatal=("json",))
        tally("redirects that lead nowhere", *once(ground, case))
        tally("redirects that lead nowhere", lasting(ground, case))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 401 Who are you\r\nContent-Length: 0\r\n\r\n", b"hello\r\n"])
def test_a_redirect_to_whoever_wants_a_password(ground: Ground, tally: Tally, answer: bytes) -> None:
    """A host elsewhere that refuses, hangs up or speaks another language learns nothing either."""
    with elsewhere(answer) as (_, address):
        case = always("redirected to a host that refuses", Status(302, {"Location": address}), "localhost: ")
        tally("redirects that lead nowhere", *once(ground, case))
        tally("redirects that lead nowhere", lasting(ground, case))


def test_a_page_of_the_listing_elsewhere(ground: Ground, tally: Tally) -> None:
    """A next page at another host is not asked for, with or without the token."""
    with Foreign(b"") as foreign:
        link = (("Link", f'<http://localhost:{foreign.port}/x>; rel="next"'),)
        ground.hub.fail(Headers(link), on=f"^GET hub /api/models/{EMBEDDING}/tree/", times=-1)
        gives_up(ground, "lock", "goes on at another host, localhost")
        assert foreign.heard == []
    ground.assert_goes_on()
    tally("redirects that lead nowhere")


# names and addresses --------------------------------------------------------------------------------------------


@pytest.fixture
def names(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | int]:
    """What the resolver says of hub.test and cdn.test: addresses, or the number of its error."""
    known: dict[str, list[str] | int] = {"hub.test": ["127.0.0.1"], "cdn.test": ["127.0.0.1"]}
    true = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> list[tuple[Any, ...]]:
        found = known.get(host, [host])
        if isinstance(found, int):
            raise socket.gaierror(found, "the resolver says no")
        return [row for address in found for row in true(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("HF_TOKEN")  # it does not travel over plain http, and these hosts are not loopback by name
    site = ground.hub._site
    site.url = site.url.replace("127.0.0.1", "hub.test")
    site.cdn_url = site.cdn_url.replace("127.0.0.1", "cdn.test")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    return known


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("error", ["EAI_NONAME", "EAI_AGAIN", "EAI_FAIL"])
def test_a_name_that_is_not_known(
    ground: Ground, names: dict[str, list[str] | int], tally: Tally, host: str, error: str
) -> None:
    """The Hub's, or the content network's as behind a corporate resolver: the name is told; later it goes on."""
    name = f"{host}.test"
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
    names[name] = getattr(socket, error)
    gives_up(ground, HOSTS[host], f"^{name}: its name cannot be looked up")
    names[name] = ["127.0.0.1"]
    ground.assert_goes_on()
    tally("names, ports, and certificates")


@pytest.mark.parametrize("host", HOSTS)
def test_addresses_that_do_not_answer(
    ground: Ground, names: dict[str, list[str] | int], tally: Tally, host: str
) -> None:
    """Each address of a host is tried; the dead ones cost --timeout each, and all of them end with 3."""
    port = int((ground.hub.url if host == "hub" else ground.hub.cdn_url).rpartition(":")[2])
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
    dead = ["127.0.0.2", "127.0.0.3"]
    with deaf(dead, port):
        names[f"{host}.test"] = dead
        gives_up(ground, HOSTS[host], f"{host}.test: no answer in time", retries=0, timeout=HASTY)
        names[f"{host}.test"] = [*dead, "127.0.0.1"]
        ran, _ = ground.run("sync", timeout=HASTY)
        assert ran.exit_code == 0, ran.err
    ground.assert_right()
    tally("names, ports, and certificates", 2)


@contextmanager
def deaf(addresses: list[str], port: int) -> Iterator[None]:
    """Listen and take nobody: the queue is full, so that connecting itself hangs."""
    sockets = []
    for address in addresses:
        listening = socket.socket()
        listening.bind((address, port))
        listening.listen(0)
        sockets.append(listening)
        for _ in range(2):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
            sockets.append(waiting)
    try:
        yield
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("host", HOSTS)
def test_a_port_that_refuses(ground: Ground, tally: Tally, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Nobody listens at the Hub's port, or at that of the content network."""
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
    site, url, cdn_url = ground.hub._site, ground.hub.url, ground.hub.cdn_url
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", closed if host == "hub" else url)
    site.cdn_url = closed if host == "cdn" else cdn_url
    gives_up(ground, HOSTS[host], "^127.0.0.1: connection refused")
    monkeypatch.setenv("HF_ENDPOINT", url)
    site.cdn_url = cdn_url
    ground.assert_goes_on()
    tally("names, ports, and certificates")


# certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good certificate, an expired one and one for another host, all trusted; and one that nobody trusts."""
    folder = tmp_path_factory.mktemp("tls")
    trusted = [
        make_certificate(folder / "good.pem"),
        make_certificate(folder / "expired.pem", expired=True),
        make_certificate(folder / "other.pem", "DNS:hub.example"),
    ]
    (folder / "bundle.pem").write_text("".join(path.read_text() for path in trusted))
    make_certificate(folder / "unknown.pem")
    return folder


@pytest.fixture
def fronts(ground: Ground, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, TlsFront]]:
    """The Hub and the content network behind TLS."""
    for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "bundle.pem"))
    good = certificates / "good.pem"
    with TlsFront(ground.hub.url, good) as hub, TlsFront(ground.hub.cdn_url, good) as cdn:
        ground.hub._site.url, ground.hub._site.cdn_url = hub.url, cdn.url
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield {"hub": hub, "cdn": cdn}


CERTIFICATES = {
    "expired": "not secure: certificate has expired",
    "other": "not secure: .*(not valid for|mismatch)",
    "unknown": "not secure: .*self.signed",
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("which", CERTIFICATES)
def test_a_bad_certificate(
    ground: Ground, fronts: dict[str, TlsFront], certificates: Path, tally: Tally, host: str, which: str
) -> None:
    """Expired, for another host, self-signed: told at once and not tried again; a good one later is gone on with."""
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
    fronts[host].show(certificates / f"{which}.pem")
    before = len(ground.hub.requests)
    gives_up(ground, HOSTS[host], f"127.0.0.1: the connection is {CERTIFICATES[which]}", retries=3)
    assert not [request for request in ground.hub.requests[before:] if request.host == host]
    fronts[host].show(certificates / "good.pem")
    ground.assert_goes_on()
    tally("names, ports, and certificates")


LATE = "no answer in time"
HANDSHAKES: dict[str, tuple[Trouble, str]] = {
    "silent": (silent, LATE),
    "closed": (hang_up, "."),
    "reset": (reset, "connection reset"),
    "plain http": (says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), "TLS failed: "),
    "garbage": (says(bytes(range(100))), "TLS failed: "),
    "a trickle": (crawls(b"\x16\x03\x03\x40\x00", b"\x02", 0.05), LATE),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("what", HANDSHAKES)
def test_a_handshake_that_fails(
    ground: Ground, fronts: dict[str, TlsFront], tally: Tally, host: str, what: str
) -> None:
    """Once it costs a try; always it ends with 3, soon, also where the server keeps talking."""
    trouble, told = HANDSHAKES[what]
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
        ground.forget()
    timeout = HASTY if told == LATE else TIMEOUT
    fronts[host].arm(trouble)
    gives_up(ground, HOSTS[host], f"127.0.0.1: ({told})", timeout=timeout)
    fronts[host].arm(trouble, 1)
    ran, took = ground.run(HOSTS[host], retries=2, timeout=timeout)
    assert ran.exit_code == 0, ran.err
    assert fronts[host].times == 0
    ground.assert_goes_on()
    tally("names, ports, and certificates", 2, took)


@pytest.mark.parametrize("host", HOSTS)
def test_plain_http_after_https(ground: Ground, fronts: dict[str, TlsFront], tally: Tally, host: str) -> None:
    """A redirect from https to http is not followed, wherever it leads, and the token has not gone there."""
    assert fronts
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
    with Foreign(b"") as foreign:
        where = "/api/models/.*/revision" if host == "hub" else "/.*/resolve/.*/model.safetensors"
        away = Status(302, {"Location": f"http://127.0.0.1:{foreign.port}/x"})
        ground.hub.fail(away, on=f"GET hub {where}", times=-1)
        gives_up(ground, HOSTS[host], f"127.0.0.1 leads {EMBEDDING}, .* to plain http")
        assert foreign.heard == []
    ground.assert_goes_on()
    tally("redirects that lead nowhere")
