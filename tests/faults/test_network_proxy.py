"""Proxies between the tool and the Hub: they want passwords, lie, hang up, say nothing, and never see a token."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING
from tests.faults.conftest import Tally
from tests.support.faults.network import HASTY, TIMEOUT, TOKEN, Ground, error_of, hint_of
from tests.support.hub import Status
from tests.support.policy_defaults import patch_policy
from tests.support.proxy import (
    Foreign,
    Proxy,
    TlsFront,
    Trouble,
    crawls,
    hang_up,
    make_certificate,
    reset,
    says,
    silent,
)

pytestmark = pytest.mark.slow

LOGIN = "user:s3cret"
HTML = b"Content-Type: text/html\r\nContent-Length: 8\r\nConnection: close\r\n\r\n<html>ah"
LATE, BROKEN = "no answer in time", "TLS failed: "


@dataclass(frozen=True)
class Case:
    """What a proxy does, and what is told of it when it asks for plain http, and for a tunnel."""

    name: str
    trouble: Trouble
    plain: str
    tunnel: str
    fatal: tuple[str, ...] = ()
    timeout: float = TIMEOUT


def same(name: str, trouble: Trouble, told: str, *, fatal: bool = False, timeout: float = TIMEOUT) -> Case:
    """A fault that is told alike whatever is asked for."""
    return Case(name, trouble, told, told, ("http", "https") if fatal else (), timeout)


def status(code: int, rest: bytes = b"Content-Length: 0\r\n\r\n") -> Trouble:
    """Answer with a status."""
    return says(b"HTTP/1.1 %d Because\r\n" % code + rest)


CASES = [
    same("asks for a password", status(407), "the proxy .* asks for a password", fatal=True),
    same("resets", reset, "reset"),
    same("hangs up", hang_up, "closed with no answer|reset"),
    same("is silent", silent, LATE, timeout=HASTY),
    same("says half a word", says(b"HTTP/1."), "."),
    same("speaks no HTTP", says(b"220 ftp.example ready\r\n"), "."),
    same("status 502", status(502), "502"),
    same("status 503", status(503), "503"),
    Case("status 403", status(403), "403", "refuses to connect to 127.0.0.1: 403", ("https",)),
    Case("a web page with status 200", status(200, HTML), "answered with text/html", BROKEN, ("http",)),
    Case("redirects to its login page", status(302, b"Location: http://localhost:1/\r\n" + HTML), "localhost: ", "302"),
    Case("connects, then hangs up", status(200, b"\r\n"), ".", "."),
    Case("connects, then resets", says(b"HTTP/1.1 200 OK\r\n\r\n", reset), ".", "."),
    Case("connects, then is silent", says(b"HTTP/1.1 200 OK\r\n\r\n", silent), LATE, LATE, timeout=HASTY),
    Case("headers in a trickle", crawls(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.1), "too slow", "too slow", timeout=0.5),
]
WHERE = {"hub": "lock", "cdn": "sync"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, trusted."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """What the Hub and the content network speak."""
    found: str = request.param
    return found


@pytest.fixture
def proxy(ground: Ground, scheme: str, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The only way out; in the end check that it has seen no token."""
    for name in ("NO_PROXY", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    site = ground.hub._site
    with Proxy() as proxy, TlsFront(site.url, certificate) as hub, TlsFront(site.cdn_url, certificate) as cdn:
        if scheme == "https":
            site.url, site.cdn_url = hub.url, cdn.url
            monkeypatch.setenv("HF_ENDPOINT", site.url)
        else:
            monkeypatch.delenv("HF_TOKEN")  # in the clear it goes to loopback only, and past every proxy
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
        yield proxy
        assert proxy.asked
        assert {asked.method for asked in proxy.asked} == {"GET" if scheme == "http" else "CONNECT"}
        assert {asked.authorization for asked in proxy.asked} == {None}


@pytest.mark.parametrize("host", WHERE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_proxy_in_trouble(
    ground: Ground, proxy: Proxy, scheme: str, tally: Tally, monkeypatch: pytest.MonkeyPatch, case: Case, host: str
) -> None:
    """Before the Hub and before the content network: once it is survived, always it is told; later it goes on."""
    patch_policy(monkeypatch, stall_window=1.0 if case.timeout == 0.5 else 6.0)
    told = case.plain if scheme == "http" else case.tunnel
    command = WHERE[host]
    if host == "cdn":
        assert ground.run("lock")[0].exit_code == 0
        ground.forget()
    port = (ground.hub._site.url if host == "hub" else ground.hub._site.cdn_url).rpartition(":")[2]
    proxy.only = f":{port}"
    proxy.arm(case.trouble)
    ran, _ = ground.run(command, timeout=case.timeout)
    assert ran.exit_code == 3, ran.err
    assert re.search(told, error_of(ran)), ran.err
    assert re.search(rf"{EMBEDDING}|proxy|127\.0\.0\.1", error_of(ran)), ran.err
    assert hint_of(ran), ran.err
    ground.assert_nothing_published()
    tries, worst = 1, 0.0
    # What is refused for good by the one who speaks for the Hub cannot be told from the Hub's own refusal.
    if scheme not in case.fatal and not (scheme == "http" and host == "hub" and case.name == "status 403"):
        proxy.arm(case.trouble, 1)
        ran, worst = ground.run(command, retries=3, timeout=case.timeout)
        assert ran.exit_code == 0, ran.err
        assert proxy.times == 0
        tries += 1
    proxy.mend()
    ground.assert_goes_on()
    tally("proxies", tries, worst)


def test_a_password_that_is_wrong_from_now_on(ground: Ground, proxy: Proxy, scheme: str, tally: Tally) -> None:
    """Between `lock` and `sync` the proxy asks for a password: told at once, asked once, and no secret is told."""
    assert ground.run("lock")[0].exit_code == 0
    ground.forget()
    proxy.password = LOGIN
    before = len(proxy.asked)
    ran, _ = ground.run("sync", "--jobs=1", retries=5)
    assert ran.exit_code == 3
    assert error_of(ran) == f"the proxy 127.0.0.1:{proxy.port} asks for a password"
    assert f"{scheme.upper()}_PROXY" in hint_of(ran)
    assert len(proxy.asked) <= before + 2  # a file's thread may have begun the next one; nobody asks twice
    proxy.password = None
    ground.assert_goes_on()
    tally("proxies")


@pytest.mark.parametrize("elsewhere", ["through the proxy", "past the proxy"])
def test_the_proxys_password_is_for_the_proxy(
    ground: Ground, tally: Tally, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    """A host that a redirect leads to hears neither the token nor the password, asked directly or not."""
    page = b"HTTP/1.1 200 OK\r\n" + HTML
    with Proxy(LOGIN) as proxy, Foreign(page) as foreign:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1" if elsewhere == "through the proxy" else "127.0.0.1,localhost")
        monkeypatch.setenv("HTTP_PROXY", proxy.with_login(LOGIN))
        ground.hub.fail(Status(302, {"Location": f"http://localhost:{foreign.port}/"}), on="GET hub", times=-1)
        ran, _ = ground.run("lock")
        assert ran.exit_code == 3
        assert len(proxy.asked) == (1 if elsewhere == "through the proxy" else 0)
        assert proxy.refused == 0
        (heard,) = foreign.heard
    secret = base64.b64encode(LOGIN.encode())
    assert secret not in heard
    assert b"authorization" not in heard.lower()
    assert "s3cret" not in ran.err
    assert TOKEN.encode() not in heard
    ground.assert_goes_on()
    tally("proxies")
