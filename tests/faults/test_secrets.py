"""A secret is planted, whatever goes right or wrong is let happen, and then its bytes are looked for everywhere."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from modelcache.core import redact
from tests.conftest import EMBEDDING, PROJECT, RERANKER, Ran, Tool
from tests.faults.conftest import Tally
from tests.support.faults.recording_relay import RecordingRelay
from tests.support.faults.scenarios import first_version, reranker
from tests.support.hub import Fault, Flip, Headers, Html, Raw, Reset, Short, StandInHub, Status
from tests.support.proxy import Foreign, Proxy, TlsFront, Trouble, make_certificate, reset, says

pytestmark = pytest.mark.slow

TOKEN = "hf_Pl4nted+Token/For=TheHub"
PASSWORD = "Pr0xy's p@ss/wörd %"
LOGIN = f"someone:{PASSWORD}"
SIGNATURE = "SignedForOneReaderOnly0123456789"
HASTY = ("--timeout=2", "--retries=1")
COMMANDS = (
    "lock",
    "sync",
    "sync --dry-run",
    "lock --upgrade",
    f"add {EMBEDDING} --manifest=other.toml",
    "status --json",
    "verify",
    "report",
    "report --format json",
    "report --format cyclonedx",
    "prune",
    "export image.tar",
    f"path {EMBEDDING}",
)


def forms(secret: str) -> Iterator[bytes]:
    """Every way in which a secret may be written down, in lower case."""
    raw = secret.encode()
    texts = [secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]]
    texts += [json.dumps(secret)[1:-1], raw.hex(), secret[:16], secret[-16:]]
    for before in range(3):  # base64 differs by where it begins; what depends on the neighbours is cut off
        padded = b"\0" * before + raw
        for coded in (base64.b64encode(padded), base64.urlsafe_b64encode(padded)):
            texts.append(coded[4 * (before > 0) :].decode()[: len(raw) * 4 // 3 - 8])
    for text in texts:
        if len(text) >= 6:
            yield text.lower().encode()


def assert_free_of(secrets: Sequence[str], content: bytes, where: str) -> None:
    """Fail where any form of a secret is."""
    lower = content.lower()
    for secret in secrets:
        for form in forms(secret):
            assert form not in lower, f"{where} holds {form!r}"


@dataclass
class Watch:
    """The tool among everything that it could tell a secret to."""

    tool: Tool
    folder: Path
    relay: RecordingRelay
    """What stands before the content network and hears every byte that it is sent."""
    planted: set[Path] = field(default_factory=set)
    said: str = ""
    codes: set[int] = field(default_factory=set)

    def run(self, words: str, *more: str) -> Ran:
        """Run a command in this process, without long waits for a Hub."""
        hasty = HASTY if words.split(maxsplit=1)[0] in ("add", "lock", "sync") else ()
        return self.note(self.tool(*words.split(), *more, *hasty))

    def note(self, ran: Ran) -> Ran:
        """Remember what was said."""
        self.said += ran.out + ran.err
        self.codes.add(ran.exit_code)
        return ran

    def assert_kept(self, *secrets: str, signature: str = SIGNATURE) -> None:
        """Look everywhere; a signature is no secret to the content network."""
        untold = (*secrets, signature)
        assert self.said
        assert_free_of(untold, self.said.encode(errors="surrogateescape"), "what was said")
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.planted:
                assert_free_of(untold, path.read_bytes(), str(path))
            assert_free_of(untold, path.name.encode(), "a name")
        assert_free_of(secrets, bytes(self.relay.heard), "the content network")
        assert b"authorization" not in self.relay.heard.lower()


@pytest.fixture
def termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Kubernetes finds the last words."""
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr("modelcache.cli.main._TERMINATION_LOG", path)
    return path


@pytest.fixture
def watch(
    hub: StandInHub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, termination_log: Path
) -> Iterator[Watch]:
    """Two models to fetch, one of them with a file of the content network."""
    assert termination_log.exists()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(redact, "_forms", set())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub.add(EMBEDDING, first_version())
    hub.add(RERANKER, reranker())
    tool.want(EMBEDDING, rerankers=(RERANKER,))
    with RecordingRelay(hub.cdn_url) as relay:
        hub._site.cdn_url = relay.url
        yield Watch(tool, tmp_path, relay)
    assert {request.authorization for request in hub.requests if request.host == "cdn"} <= {None}


# the ways in which a token comes ---------------------------------------------------------------------------------


def _file(path: Path, token: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{token}\n")
    return path


def plant(way: str, watch: Watch, token: str) -> Mapping[str, str]:
    """Give a process a token; return the environment of that."""
    if way in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        return {way: token}
    home = watch.folder / "elsewhere"
    places = {
        "HF_TOKEN_PATH": home / "build-secret",
        "HF_HOME": home / "token",
        "XDG_CACHE_HOME": home / "huggingface" / "token",
        "HOME": home / ".cache" / "huggingface" / "token",
    }
    watch.planted.add(_file(places[way], token))
    value = places[way] if way == "HF_TOKEN_PATH" else home
    return {"HF_HOME": "", way: str(value)}


WAYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HOME")


def in_process_of_its_own(watch: Watch, env: Mapping[str, str], *words: str) -> Ran:
    """Run the tool with an environment; a variable that is empty there is not set at all."""
    unset = {name for name, value in env.items() if not value and name == "HF_HOME"}
    told = {name: value for name, value in env.items() if name not in unset}
    with pytest.MonkeyPatch.context() as patch:
        for name in unset:
            patch.delenv(name, raising=False)
        return watch.note(watch.tool.run(*words, env=told))


@pytest.mark.parametrize("way", WAYS)
def test_a_token_is_used_however_it_comes_and_told_nobody(
    watch: Watch, hub: StandInHub, tally: Tally, way: str
) -> None:
    """It opens the Hub's doors, from each place where tokens lie, and is in nothing that is left."""
    hub.token = TOKEN
    hub.add(RERANKER, reranker(), private=True)
    env = plant(way, watch, TOKEN)
    for words in ("lock --log-format=json", "sync", "sync", "verify", "status"):
        ran = in_process_of_its_own(watch, env, *words.split())
        assert ran.exit_code == 0, ran.err
    hub.fail(Status(401, {"X-Error-Message": f"no such token: {TOKEN}"}), on="GET hub", times=-1)
    for log_format in ("text", "json"):
        ran = in_process_of_its_own(watch, env, "lock", "--upgrade", f"--log-format={log_format}", *HASTY)
        assert ran.exit_code == 3, ran.err
    assert {request.authorization for request in hub.requests if request.host == "hub"} == {f"Bearer {TOKEN}"}
    watch.assert_kept(TOKEN)
    tally("secrets: a token by each way", 7)


@pytest.mark.parametrize("empty", ["", " \n"], ids=["nothing", "blanks"])
@pytest.mark.parametrize("way", WAYS)
def test_an_empty_token_is_none(watch: Watch, hub: StandInHub, tally: Tally, way: str, empty: str) -> None:
    """What compose and CI make of a secret that is not set: no header at all, and nothing fails."""
    ran = in_process_of_its_own(watch, plant(way, watch, empty), "sync")
    assert ran.exit_code == 0, ran.err
    assert {request.authorization for request in hub.requests} == {None}
    tally("secrets: an empty token")


@pytest.mark.parametrize("way", WAYS)
def test_no_token_goes_over_plain_http(watch: Watch, tally: Tally, way: str) -> None:
    """Wherever it comes from, it is refused at once where anybody on the way could read it."""
    env = {**plant(way, watch, TOKEN), "HF_ENDPOINT": "http://hub.invalid"}
    ran = in_process_of_its_own(watch, env, "lock")
    assert ran.exit_code == 2
    assert re.search("^hint: .*https.*HF_ENDPOINT.*token from ", ran.err, re.MULTILINE)
    watch.assert_kept(TOKEN)
    tally("secrets: a token over plain http")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00h", b"hf_\xc3"], ids=["UTF-16", "cut short"])
def test_a_token_file_that_is_no_text_is_told(watch: Watch, content: bytes) -> None:
    """Exit 2 and a hint, instead of a traceback."""
    path = watch.folder / "elsewhere" / "token"
    path.parent.mkdir()
    path.write_bytes(content)
    ran = in_process_of_its_own(watch, {"HF_TOKEN_PATH": str(path)}, "lock")
    assert ran.exit_code == 2, ran.err
    assert "HF_TOKEN_PATH" in ran.err


def test_a_login_without_a_token_that_cannot_be_is_told(watch: Watch) -> None:
    """HF_OIDC_RESOURCE outside of the CI that it is for: exit 2 and what to do, instead of a traceback."""
    ran = in_process_of_its_own(watch, {"HF_OIDC_RESOURCE": "a/b"}, "lock")
    assert ran.exit_code == 2, ran.err
    assert "HF_OIDC_RESOURCE" in ran.err


# what goes wrong with a token at hand ----------------------------------------------------------------------------


def echo(status: int, name: str, value: str) -> Fault:
    """An answer that tells back what it was shown."""
    return Status(status, {name: value}, b"{}")


TROUBLE: Mapping[str, tuple[Fault, str]] = {
    "nothing": (Status(404), "GET never"),
    "401": (Status(401), "GET hub"),
    "403": (Status(403), "GET hub"),
    "404": (Status(404), "GET hub"),
    "gated": (Status(403, {"X-Error-Code": "GatedRepo"}), "GET hub"),
    "429": (Status(429, {"Retry-After": "4000"}), "GET hub"),
    "500": (Status(500), "GET hub"),
    "503 of the content network": (Status(503), "GET cdn"),
    "403 of the content network": (Status(403), "GET cdn"),
    "404 of the content network": (Status(404), "GET cdn"),
    "a web page": (Html(), "GET hub"),
    "a web page of the content network": (Html(), "GET cdn"),
    "reset": (Reset(None), "GET hub"),
    "reset of the content network": (Reset(10), "GET cdn"),
    "cut short": (Short(3), "GET cdn"),
    "wrong bytes": (Flip(40), "GET cdn"),
    "a message that tells the token": (echo(403, "X-Error-Message", f"Bearer {TOKEN} may not"), "GET hub"),
    "a message in base64": (
        echo(400, "X-Error-Message", base64.b64encode(TOKEN.encode()).decode()),
        "GET hub",
    ),
    "a message in percents": (echo(400, "X-Error-Message", f"?x&{quote(TOKEN, safe='')}"), "GET hub"),
    "a type that tells it": (Headers((("Content-Type", f"text/{TOKEN}"), ("Content-Length", "3"))), "GET hub /api"),
    "a coding that tells it": (Headers((("Content-Encoding", TOKEN),)), "GET hub /.*resolve"),
    "a range that tells it": (Headers((("Content-Range", f"bytes {TOKEN}"),)), "GET (hub /.*resolve|cdn )"),
    "a commit that tells it": (Headers((("X-Repo-Commit", TOKEN),)), "GET hub /.*resolve"),
    "a pause that tells it": (Status(503, {"Retry-After": TOKEN}), "GET hub"),
    "a status line that tells it": (Raw(f"HTTP/1.1 Bearer {TOKEN}\r\n\r\n".encode()), "GET hub"),
    "no HTTP, but the token": (Raw(f"{TOKEN}\r\n\r\n".encode()), "GET hub"),
    "a length that tells it": (Headers((("Content-Length", TOKEN),)), "GET hub"),
    "a chunk that tells it": (
        Raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n".encode()),
        "GET hub",
    ),
}


HARMLESS = ("nothing", "a length that tells it")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("name", TROUBLE)
def test_no_trouble_tells_the_token(
    watch: Watch, hub: StandInHub, tally: Tally, monkeypatch: pytest.MonkeyPatch, name: str, log_format: str
) -> None:
    """Not what is said, not what is written, not to the content network; also where the Hub itself tells it."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fault, on = TROUBLE[name]
    watch.run("lock")
    hub.fail(fault, on=on, times=-1)
    for words in COMMANDS:
        ran = watch.run(words, f"--log-format={log_format}")
        assert ran.exit_code != 70, ran.err
    assert (watch.codes == {0}) == (name in HARMLESS)
    assert {one.authorization for one in hub.requests if one.host == "hub"} == {f"Bearer {TOKEN}"}
    watch.assert_kept(TOKEN, signature="Signature=")
    tally("secrets: trouble with a token at hand", len(COMMANDS))


def test_a_tls_error_tells_no_token(
    watch: Watch, hub: StandInHub, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shows a certificate that nobody vouches for hears nothing at all."""
    certificate = make_certificate(tmp_path / "tls.pem")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with TlsFront(hub.url, certificate) as front:
        monkeypatch.setenv("HF_ENDPOINT", front.url)
        for log_format in ("text", "json"):
            assert watch.run("lock", f"--log-format={log_format}").exit_code == 3
    assert hub.requests == []
    watch.assert_kept(TOKEN)
    tally("secrets: a TLS error")


# redirects with signatures ---------------------------------------------------------------------------------------

LEADS = {
    "to another host that refuses": "http://localhost:{foreign}/x?Signature={signature}&Expires=1",
    "to nobody": "http://127.0.0.1:1/x?X-Amz-Signature={signature}",
    "to no name": "http://nowhere.invalid/x?Signature={signature}",
    "to no http address": "ftp://localhost/x?Signature={signature}",
    "to half an address": "http://[::1/x?Signature={signature}",
    "to an address with a password": "http://someone:{signature}@localhost:{foreign}/x",
    "in a circle": "{hub}/tinyorg/embedding/resolve/main/x?Signature={signature}",
    "to a port that is none": "http://localhost:{signature}/x",
    "to blanks": "http://localhost:{foreign}/a b?Signature={signature}",
}


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("lead", LEADS)
def test_no_signature_is_told(
    watch: Watch, hub: StandInHub, tally: Tally, monkeypatch: pytest.MonkeyPatch, lead: str, log_format: str
) -> None:
    """A signed address opens a private file to whoever reads the log: it is never in it. No token goes along."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    watch.run("lock")
    with Foreign(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as foreign:
        where = LEADS[lead].format(foreign=foreign.port, hub=hub.url, signature=SIGNATURE)
        hub.fail(Status(302, {"Location": where}), on="GET hub", times=-1)
        for words in ("sync", "lock --upgrade"):
            ran = watch.run(words, f"--log-format={log_format}")
            assert ran.exit_code == 3, ran.err
        for heard in foreign.heard:
            assert_free_of([TOKEN], heard, "another host")
            assert b"authorization" not in heard.lower()
    watch.assert_kept(TOKEN)
    tally("secrets: a signed redirect", 2)


# bugs --------------------------------------------------------------------------------------------------------------

CULPRITS = (
    "urllib3.PoolManager.request",
    "modelcache.transfer.http_client.HttpResponse.__init__",
    "modelcache.sources.hub_api.Hub._follow",
)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("culprit", CULPRITS)
def test_no_traceback_tells_a_secret(
    watch: Watch, termination_log: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch, culprit: str, log_format: str
) -> None:
    """A bug ends with 70 and its traceback, whose last line may be somebody else's and hold all that it was given."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    watch.run("lock")

    def fails(*given: object, **more: object) -> None:
        inner = ValueError(f"url: http://h/x?Signature={SIGNATURE} or /x?Signature={SIGNATURE}&a=b, {TOKEN!r}")
        raise RuntimeError(f"given {given} {more} {vars(given[0]) if given else ''}") from inner

    monkeypatch.setattr(culprit, fails)
    ran = watch.run("sync", f"--log-format={log_format}")
    assert ran.exit_code == 70
    assert "Traceback" in ran.err
    assert "hint: Report these lines" in ran.err
    assert "RuntimeError" in termination_log.read_text()
    watch.assert_kept(TOKEN)
    tally("secrets: a traceback")


FROM_A_PROGRAM = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import cache_models
cache_models.cache_cross_encoders(["tinyorg/reranker"], pathlib.Path("out"))
"""


def test_a_program_that_lets_an_error_go_tells_no_token(watch: Watch, hub: StandInHub, tally: Tally) -> None:
    """The functions are called in a build script, and its traceback is printed by Python itself."""
    hub.fail(echo(403, "X-Error-Message", f"Bearer {TOKEN} may not"), on="GET hub", times=-1)
    ran = subprocess.run(
        [sys.executable, "-c", FROM_A_PROGRAM, str(PROJECT)],
        cwd=watch.tool.folder,
        env={**os.environ, "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "may not" in ran.stderr
    watch.note(Ran(1, ran.stdout, ran.stderr))
    watch.assert_kept(TOKEN)
    tally("secrets: a traceback")


# the password of a proxy -----------------------------------------------------------------------------------------

PROXIED: Mapping[str, Trouble | None] = {
    "well": None,
    "resets": reset,
    "no HTTP": says(b"220 ready\r\n"),
    "407": says(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
    "403": says(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"),
    "502": says(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n"),
    "tells it": says(f"HTTP/1.1 {LOGIN}\r\n\r\n".encode()),
    "tells its header": says(b"HTTP/1.1 418 Basic " + base64.b64encode(LOGIN.encode()) + b"\r\n\r\n"),
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", PROXIED)
def test_the_password_of_a_proxy_is_told_nobody_else(
    watch: Watch,
    hub: StandInHub,
    certificate: Path,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    scheme: str,
    log_format: str,
) -> None:
    """In the address of a proxy, percent-encoded; neither the Hub nor the content network nor a log hears it."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    site, trouble = hub._site, PROXIED[name]
    with (
        Proxy(LOGIN) as proxy,
        RecordingRelay(hub.url) as ear,
        TlsFront(ear.url, certificate) as front,
        TlsFront(watch.relay.url, certificate) as content,
    ):
        if scheme == "https":
            site.url, site.cdn_url = front.url, content.url
            monkeypatch.setenv("HF_TOKEN", TOKEN)
        else:
            site.url = ear.url
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.with_login(f"someone:{quote(PASSWORD, safe='')}"))
        if trouble:
            proxy.arm(trouble)
        for words in ("lock", "sync"):
            ran = watch.run(words, f"--log-format={log_format}")
            assert ran.exit_code == (2 if trouble and words == "never" else 3 if trouble else 0), ran.err
        assert proxy.asked
        assert proxy.refused == 0
        assert_free_of([PASSWORD, LOGIN], bytes(ear.heard), "the Hub")
        assert bool(ear.heard) == (trouble is None)
    watch.assert_kept(TOKEN, PASSWORD, LOGIN)
    tally("secrets: the password of a proxy", 2)


@pytest.mark.parametrize(
    "address",
    [
        f"http://someone:{PASSWORD}@127.0.0.1:1",
        f"someone:{PASSWORD}@127.0.0.1:1",
        f"socks5://someone:{quote(PASSWORD, safe='')}@127.0.0.1:1",
        f"http://someone:{quote(PASSWORD, safe='')}@127.0.0.1:port",
        f"http://someone:{quote(PASSWORD, safe='')}@",
        f"http://someone:12/{SIGNATURE}@127.0.0.1:1",
        f"http://someone:{quote(PASSWORD, safe='')}@nowhere.invalid",
    ],
)
def test_an_address_of_a_proxy_that_is_wrong_is_not_shown(
    watch: Watch, tally: Tally, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """A password with a slash that nobody encoded, a port in words: it is refused without being told."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", address)
    for log_format in ("text", "json"):
        ran = watch.run("lock", f"--log-format={log_format}")
        assert ran.exit_code in (2, 3), ran.err
        assert "proxy" in ran.err.lower()
    watch.assert_kept(PASSWORD)
    tally("secrets: a wrong address of a proxy")


def test_a_password_of_a_proxy_that_is_no_text_is_sent_as_it_is(
    watch: Watch, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that is no UTF-8 comes from the environment as it is; it is no reason for a traceback."""
    password = b"latin-\xff-password"
    monkeypatch.delenv("NO_PROXY")
    with Foreign(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as foreign:
        monkeypatch.setenv("HTTP_PROXY", os.fsdecode(b"http://someone:" + password + b"@127.0.0.1:%d" % foreign.port))
        ran = watch.run("lock")
        assert ran.exit_code == 3, ran.err
        assert base64.b64encode(b"someone:" + password) in foreign.heard[0]
    watch.assert_kept("latin-", "-password")
    tally("secrets: the password of a proxy")


def test_an_endpoint_with_a_password_is_not_shown(watch: Watch, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused: the password would be sent to whoever a redirect names, and told in every message."""
    monkeypatch.setenv("HF_ENDPOINT", f"https://someone:{SIGNATURE}@hub.invalid")
    for log_format in ("text", "json"):
        assert watch.run("lock", f"--log-format={log_format}").exit_code == 2
    watch.assert_kept()
    tally("secrets: an endpoint with a password")
