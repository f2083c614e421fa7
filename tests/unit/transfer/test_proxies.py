"""Proxies: whom NO_PROXY excepts, what is told of an address that is none, and what two real ones do to the tool."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from modelcache.core.errors import UsageError
from modelcache.transfer.origins import Server
from modelcache.transfer.proxies import proxy_for
from tests.conftest import EMBEDDING, Tool
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.proxy import TlsFront, make_certificate
from tests.support.real_proxies import LOGIN, NAMES, real_proxy

HTTP, HTTPS = "http://127.0.0.1:1", "http://127.0.0.1:2"


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine says of proxies is nothing to these tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# which proxy ----------------------------------------------------------------------------------------------------

NAME, BELOW = ("https", "hub.example", 443), ("https", "a.hub.example", 443)
OTHER, PORT = ("https", "myhub.example", 443), ("http", "hub.example", 8080)
V4, V4_FAR, V6 = ("http", "10.1.2.3", 80), ("http", "11.1.2.3", 80), ("https", "[fd00::5]", 8443)
SERVERS = (NAME, BELOW, OTHER, PORT, V4, V4_FAR, V6)
FORMS: dict[str, set[Server]] = {
    "hub.example": {NAME, BELOW, PORT},
    "HUB.Example": {NAME, BELOW, PORT},
    ".hub.example": {NAME, BELOW, PORT},
    "*.hub.example": {NAME, BELOW, PORT},
    "hub.example.": {NAME, BELOW, PORT},
    "*hub.example": set(),
    "a.hub.example": {BELOW},
    "example": {NAME, BELOW, OTHER, PORT},
    ".svc,.cluster.local": set(),
    "hub.example:8080": {PORT},
    "hub.example:443": {NAME, BELOW},
    "hub.example:444": set(),
    "10.1.2.3": {V4},
    "10.1.2.3:80": {V4},
    "10.1.2.3:81": set(),
    "10.0.0.0/8": {V4},
    "10.1.2.99/24": {V4},
    "10.1.2.3/32": {V4},
    "0.0.0.0/0": {V4, V4_FAR},
    "10.0.0.0/8,.svc,.cluster.local,localhost": {V4},
    "  10.0.0.0/8 ,\thub.example ": {V4, NAME, BELOW, PORT},
    "fd00::5": {V6},
    "[fd00::5]": {V6},
    "[fd00::5]:8443": {V6},
    "[fd00::5]:443": set(),
    "fd00::/8": {V6},
    "::/0": {V6},
    "*": set(SERVERS),
    "localhost,*": set(SERVERS),
    "localhost 10.0.0.0/8": {V4},
    "FD00:0::5": {V6},
    "xn--bcher-kva.example,10.0.0.0/8": {V4},
    "https://hub.example": set(),
    ",": set(),
    "10.1": set(),
    "2.3": set(),
    ".,*.,..,?,://,:80,:443,*:none": set(),
    "10.0.0.0/33,fd00::/129,hub.example:none,hub.example:99999,[,%,a b,\udcff,xn--": set(),
}


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_no_proxy_excepts_whom_it_names(
    monkeypatch: pytest.MonkeyPatch, form: str, variable: str
) -> None:
    """Names and what is below them, addresses and networks of both families, ports, blanks; odd entries except none."""
    monkeypatch.setenv("HTTP_PROXY", HTTP)
    monkeypatch.setenv("HTTPS_PROXY", HTTPS)
    monkeypatch.setenv(variable, form)
    assert {server for server in SERVERS if proxy_for(server) is None} == FORMS[form]


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": HTTP}, (HTTP, "HTTP_PROXY"), None),
        ({"https_proxy": HTTPS}, None, (HTTPS, "https_proxy")),
        ({"HTTPS_PROXY": HTTP, "https_proxy": HTTPS}, None, (HTTPS, "https_proxy")),
        ({"ALL_PROXY": HTTP}, (HTTP, "ALL_PROXY"), (HTTP, "ALL_PROXY")),
        ({"ALL_PROXY": "socks5://127.0.0.1:1080", "HTTPS_PROXY": HTTPS}, "socks", (HTTPS, "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "proxy.example"}, None, ("http://proxy.example:80", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "https://proxy.example"}, None, ("https://proxy.example:443", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128/"}, None, ("http://[fd00::1]:3128", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "http://user:s3cret@proxy:3128"}, None, ("http://proxy:3128", "HTTPS_PROXY")),
    ],
)
def test_the_variable_that_names_a_proxy_is_known(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], http: object, https: object
) -> None:
    """Its own scheme's before ALL_PROXY, small letters before capitals; what is shown holds no password."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for wanted, server in ((http, PORT), (https, NAME)):
        if wanted == "socks":
            with pytest.raises(UsageError):
                proxy_for(server)
            continue
        found = proxy_for(server)
        assert (found and (found.url, found.variable)) == wanted
        assert "s3cret" not in repr(found)


@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4a", "SOCKS5", "socks"])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY"])
def test_a_socks_proxy_is_told_as_one(tool: Tool, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str) -> None:
    """Exit 2 with the variable, told once for all models, and no password; nothing is asked."""
    tool.want(*(f"many/{number}" for number in range(5)))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"https://{place}")
        monkeypatch.setenv(variable, f"{scheme}://user:s3cret@{place}")
        ran = tool("sync")
        nobody.setblocking(False)
        with pytest.raises(BlockingIOError):
            nobody.accept()
    assert ran.exit_code == 2
    assert re.match(rf"error: {variable} .*SOCKS.*{scheme.lower()}://.*\n  models: .*\nhint: ", ran.err)
    assert ran.err.count("SOCKS") == 1
    assert "s3cret" not in ran.err


# real ones ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.fixture(params=["http", "https"])
def scheme(
    request: pytest.FixtureRequest, hub: StandInHub, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """What Hub and content network speak: in the clear, so that a proxy reads it, or through a tunnel."""
    scheme: str = request.param
    with ExitStack() as opened:
        if scheme == "https":
            site = hub._site
            fronts = [opened.enter_context(TlsFront(url, certificate)) for url in (hub.url, hub.cdn_url)]
            site.url, site.cdn_url = (front.url for front in fronts)
            monkeypatch.setenv("HF_ENDPOINT", site.url)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield scheme


@pytest.fixture
def two(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, wanting two small models that the Hub has."""
    folder = tiny.tiny_embedding(tmp_path / "embedding")
    for model in (EMBEDDING, "tinyorg/other"):
        hub.add(model, folder)
    tool.want(EMBEDDING, "tinyorg/other")
    return tool


METHODS = {"http": "GET", "https": "CONNECT"}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["allows", "wants a password"])
@pytest.mark.parametrize("name", NAMES)
def test_a_real_proxy_carries_every_request(
    hub: StandInHub, two: Tool, monkeypatch: pytest.MonkeyPatch, name: str, rule: str, scheme: str
) -> None:
    """One that allows it, and one that knows the password."""
    with real_proxy(name, rule) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url(LOGIN if rule != "allows" else ""))
        ran = two("sync")
        assert ran.exit_code == 0, ran.err
        assert proxy.comes_to_be_asked(METHODS[scheme])
    assert not re.search("refuses|password|does not reach", ran.err)  # it may close a connection, which is made anew
    assert hub.requests


REFUSALS = {
    "refuses": "",
    "wants a password": "",
    "wants another password": "user:wr0ng",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_of_a_real_proxy_is_told_as_one(
    hub: StandInHub, two: Tool, monkeypatch: pytest.MonkeyPatch, name: str, what: str, scheme: str
) -> None:
    """Exit 3 at once, told once for both models: the proxy's place, what to do there, no word of HF_TOKEN."""
    with real_proxy(name, what.replace("another", "a")) as proxy:
        variable = f"{scheme.upper()}_PROXY"
        monkeypatch.setenv(variable, proxy.url(REFUSALS[what]))
        ran = two("sync", "--retries=3")
        assert ran.exit_code == 3, ran.err
        assert proxy.place in ran.err
        # What is read in the clear is an answer like others, and each model has its own.
        assert proxy.comes_to_be_asked(METHODS[scheme])
        assert proxy.asked() in ([METHODS[scheme]], ["GET", "GET"])
    assert variable in ran.err
    assert ("NO_PROXY=127.0.0.1" if what == "refuses" else "user:password@host:port") in ran.err
    assert [word for word in ("retry", "HF_TOKEN", "wr0ng", "not on") if word in ran.err] == []
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("form", ["127.0.0.0/8", "127.0.0.1:{hub},127.0.0.1:{cdn}", ".svc, 127.0.0.1 ,::1", "*"])
@pytest.mark.parametrize("name", NAMES)
def test_no_proxy_leads_past_a_real_proxy_that_refuses(
    hub: StandInHub, two: Tool, monkeypatch: pytest.MonkeyPatch, name: str, form: str, scheme: str
) -> None:
    """Hub and content network are asked directly, and the proxy hears nothing."""
    hub_port, cdn_port = (url.rpartition(":")[2] for url in (hub._site.url, hub._site.cdn_url))
    with real_proxy(name, "refuses") as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", form.format(hub=hub_port, cdn=cdn_port))
        ran = two("sync")
        assert ran.exit_code == 0, ran.err
        assert proxy.asked() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_proxy_that_refuses_the_content_network_only(
    hub: StandInHub, two: Tool, monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    """As where the Hub is allowed and its content network forgotten: told of the host that is refused."""
    hub._site.cdn_url = hub._site.cdn_url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with real_proxy(name, "refuses") as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url())
        ran = two("sync", "--retries=1")
        assert ran.exit_code == 3, ran.err
        assert proxy.place in ran.err
        assert proxy.asked()
    assert "NO_PROXY=localhost" in ran.err
    assert "HF_TOKEN" not in ran.err
