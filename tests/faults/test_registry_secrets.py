"""The login for a registry is sent to that registry and its token realm alone, whatever goes wrong."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from modelcache.core import redact
from tests.conftest import Ran, Tool
from tests.faults.conftest import Tally
from tests.faults.test_secrets import assert_free_of
from tests.support.base_images import Base
from tests.support.faults.recording_relay import RecordingRelay
from tests.support.faults.scenarios import ALL
from tests.support.hub.answers import as_json
from tests.support.hub.wire import Delivery
from tests.support.proxy import Proxy, TlsFront, make_certificate
from tests.support.pushed import CONTENTS, A, lock, make_root, models_in, put
from tests.support.registry import Fault, FlipFirst, Html, Login, OtherBytes, Reset, Short, StandInRegistry, Status
from tests.support.registry.faults import Change
from tests.support.registry.site import Ask, Site

pytestmark = pytest.mark.slow

TEAM = "team/models"
USER = "someone"
PASSWORD = "R3gistry's p@ss/wörd %"
IDENTITY = "Identity+Token/For=TheRealm-0123456789"
OTHER = "AnotherPasswordOfTheBase-9876"
KINDS = ("basic", "bearer", "identity")
HASTY = ("--timeout=2", "--retries=1")


@dataclass
class Echo(Change):
    """Refuse with a message that tells back what came in Authorization, in plain and in base64, and in headers."""

    status: int
    secret: str = PASSWORD
    """The rights that the registry knows, too."""
    before_it: int = 0
    """Characters of the message before it: a message that is cut short may be cut within a secret."""
    _heard: dict[int, str] = field(default_factory=dict)

    def before(self, site: Site, ask: Ask) -> None:
        """Hear it."""
        self._heard[threading.get_ident()] = str(ask.headers.get("Authorization") or "nothing")

    def bend(self, delivery: Delivery) -> Delivery:
        """Tell it."""
        heard = self._heard[threading.get_ident()]
        token = heard.partition(" ")[2]
        texts = [heard, token, self.secret, *(b64encode(text.encode()).decode() for text in (token, self.secret))]
        message = "x" * self.before_it + " ".join(texts[::-1] if self.before_it else texts)
        error = {"code": "DENIED", "message": message, "detail": texts}
        headers = {"X-Error-Message": heard, "Retry-After": heard, "Warning": heard}
        answer = as_json({"errors": [error]}, status=self.status, headers=headers)
        return replace(delivery, answer=answer, range=None)


@dataclass
class Watch:
    """The tool, a registry with a login, and everything else that hears or keeps something."""

    tool: Tool
    folder: Path
    registry: StandInRegistry
    elsewhere: StandInRegistry
    relay: RecordingRelay
    """What stands before the host that blobs are redirected to."""
    planted: set[Path]
    said: str = ""
    codes: set[int] = field(default_factory=set)

    @property
    def ref(self) -> str:
        """The image."""
        return f"{self.registry.address}/{TEAM}:v1"

    def plant(self, kind: str, password: str = PASSWORD) -> None:
        """Let the registry want a login of a kind, and write it as docker does."""
        self.registry.site.login = Login(
            "basic" if kind == "basic" else "bearer",
            USER,
            PASSWORD,
            identity_token=IDENTITY if kind == "identity" else None,
        )
        entry = {"auth": b64encode(f"{USER}:{password}".encode()).decode()}
        if kind == "identity":
            entry = {"auth": b64encode(f"{USER}:".encode()).decode(), "identitytoken": IDENTITY}
        other = {"auth": b64encode(f"reader:{OTHER}".encode()).decode()}
        path = self.folder / "auth.json"
        path.write_text(json.dumps({"auths": {self.registry.address: entry, self.elsewhere.address: other}}))
        self.planted.add(path)

    def run(self, *words: str) -> Ran:
        """Run a command without long waits."""
        ran = self.tool(*words, *HASTY)
        self.said += ran.out + ran.err
        self.codes.add(ran.exit_code)
        return ran

    def run_all(self, log_format: str) -> None:
        """Push, push again, push with the base of another registry, and pull."""
        base = f"{self.elsewhere.address}/team/base:1"
        root = str(self.folder / f"pulled-{log_format}")
        for words in (
            ["push", self.ref],
            ["push", self.ref],
            ["push", self.ref.replace(":v1", ":v2"), "--base", base],
            ["push", self.ref.replace(TEAM, "other/models")],
            ["sync", "--from", f"docker://{self.ref}", "--root", root],
            ["sync", "--dry-run", "--from", f"docker://{self.ref}"],
        ):
            ran = self.run(*words, f"--log-format={log_format}")
            assert ran.exit_code != 70, ran.err

    def assert_kept(self) -> None:
        """Look everywhere: what was said, what was written, the other hosts, and both repositories."""
        bearer = list(self.registry.site.login.tokens) if self.registry.site.login else []
        secrets = [PASSWORD, IDENTITY, OTHER, f"{USER}:{PASSWORD}", f"reader:{OTHER}", *bearer]
        assert self.said
        assert_free_of(secrets, self.said.encode(errors="surrogateescape"), "what was said")
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.planted and path.stat().st_size < 1 << 20:
                assert_free_of(secrets, path.read_bytes(), str(path))
        assert_free_of(secrets, bytes(self.relay.heard), "the host of the blobs")
        assert b"authorization" not in self.relay.heard.lower()
        ours, others = [PASSWORD, IDENTITY, f"{USER}:{PASSWORD}", *bearer], [OTHER, f"reader:{OTHER}"]
        for registry, foreign in ((self.elsewhere, ours), (self.registry, others)):
            told = [f"{one.path} {sorted(one.headers.items())}" for one in registry.requests]
            assert_free_of(foreign, "\n".join(told).encode(), f"the registry {registry.address}")


@pytest.fixture
def watch(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A root to push, a registry, and another one with a base and a login of its own."""
    for name in ("temporary", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(redact, "_forms", set())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr("modelcache.cli.main._TERMINATION_LOG", log)
    make_root(tool.folder)
    with (
        StandInRegistry(tmp_path / "registry") as registry,
        StandInRegistry(tmp_path / "elsewhere") as elsewhere,
        RecordingRelay(registry.content_url) as relay,
    ):
        registry.site.content_url, registry.site.redirects = relay.url, True
        base = Base(tmp_path / "base")
        base.into(elsewhere, base.image())
        elsewhere.site.login = Login("basic", "reader", OTHER)
        yield Watch(tool, tmp_path, registry, elsewhere, relay, set())


@pytest.mark.parametrize("realm", ["the registry", "another host"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_login_is_used_and_told_nobody(watch: Watch, tally: Tally, kind: str, realm: str) -> None:
    """All goes well with it; and tokens are shown to the registry alone, the login to the realm that it names."""
    watch.plant(kind)
    if realm == "another host":
        watch.registry.site.realm = f"{watch.registry.token_url}/token"
    for upload in ("absolute", "elsewhere"):
        watch.registry.site.upload_location = upload
        watch.run_all("json" if upload == "absolute" else "text")
        lock([put(watch.tool.folder, A, {**CONTENTS[A], "config.json": upload.encode()})], watch.tool.folder)
    assert watch.codes == {0}, watch.said
    assert watch.relay.heard
    assert models_in(watch.folder / "pulled-json")
    tokens = watch.registry.asked(host="token")
    assert bool(tokens) == (realm == "another host" and kind != "basic")
    assert not any((one.authorization or "").startswith("Bearer") for one in tokens)
    watch.assert_kept()
    tally("secrets: the login of a registry", 12)


TROUBLES: Mapping[str, tuple[Fault, Mapping[str, str]]] = {
    "a refusal that tells it": (Echo(403), {}),
    "a refusal of an upload that tells it": (Echo(403), {"kind": "upload start"}),
    "a bad request that tells it": (Echo(400), {"kind": "upload body"}),
    "a long refusal that tells it at its end": (Echo(400, before_it=170), {"kind": "upload body"}),
    "a long refusal that tells half of it": (Echo(403, before_it=110), {"kind": "upload start"}),
    "an error that tells it": (Echo(500), {"kind": "blob"}),
    "a busy registry that tells it": (Echo(429), {"kind": "manifest"}),
    "a missing image that tells it": (Echo(404), {"kind": "manifest"}),
    "a realm that tells it": (Echo(401), {"kind": "token"}),
    "a realm that fails and tells it": (Echo(503), {"kind": "token"}),
    "a realm that answers with nonsense": (OtherBytes(f'{{"token": "{PASSWORD} x"}}'.encode()), {"kind": "token"}),
    "a login that is refused": (Echo(401), {}),
    "a redirect of a blob that fails": (Status(403), {"host": "content"}),
    "a redirect of a blob to a page": (Html(), {"host": "content"}),
    "reset": (Reset(None), {"kind": "blob"}),
    "cut short": (Short(5), {"host": "content"}),
    "other bytes": (FlipFirst(), {"host": "content"}),
    "a page": (Html(), {}),
}


EACH = [
    (kind, log_format)
    for kind in KINDS
    for log_format in ("text", "json")
    if ALL or (kind == "bearer") == (log_format == "json")
]


@pytest.mark.parametrize("name", TROUBLES)
@pytest.mark.parametrize(("kind", "log_format"), EACH)
def test_no_trouble_tells_the_login(watch: Watch, tally: Tally, kind: str, name: str, log_format: str) -> None:
    """Not what is said, not what is written, not to another host; also where the registry itself tells it."""
    watch.plant(kind)
    assert watch.run("push", watch.ref).exit_code == 0
    fault, on = TROUBLES[name]
    if isinstance(fault, Echo):
        fault.secret = IDENTITY if kind == "identity" else PASSWORD
    watch.registry.fail(fault, times=-1, **on)  # type: ignore[arg-type]  # its own words
    watch.run_all(log_format)
    watch.assert_kept()
    assert watch.codes != {0} or (kind == "basic" and "realm" in name)
    tally("secrets: trouble with the login of a registry", 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_login_that_is_wrong_is_not_told(watch: Watch, tally: Tally, kind: str) -> None:
    """The file is named, and nothing of what it holds."""
    watch.plant(kind, "An0ther-wrong-password")
    assert watch.registry.site.login
    watch.registry.site.login.identity_token = "of-somebody-else"
    for log_format in ("text", "json"):
        watch.run_all(log_format)
    assert watch.codes == {0, 3}  # 0: of the dry run, for which all is in place
    assert "auth.json" in watch.said
    assert_free_of(["An0ther-wrong-password"], watch.said.encode(), "what was said")
    watch.assert_kept()
    tally("secrets: a wrong login of a registry", 12)


@pytest.mark.parametrize("kind", KINDS)
def test_no_login_goes_over_plain_http(watch: Watch, tally: Tally, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --insecure to another machine none is sent, and none is asked for; the proxy before it hears none."""
    watch.plant(kind)
    name = "registry.invalid:5000"
    table = json.loads((watch.folder / "auth.json").read_text())
    table["auths"][name] = table["auths"][watch.registry.address]
    (watch.folder / "auth.json").write_text(json.dumps(table))
    monkeypatch.delenv("NO_PROXY")
    with RecordingRelay(watch.registry.url) as ear, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for words in (["push", f"{name}/{TEAM}:v1"], ["sync", "--from", f"docker://{name}/{TEAM}:v1", "--root", "new"]):
            ran = watch.run(*words, "--insecure")
            assert ran.exit_code == 3, ran.err
        assert_free_of([PASSWORD, IDENTITY], bytes(ear.heard), "the line")
        assert {one.authorization for one in proxy.asked} <= {None}
    watch.assert_kept()
    tally("secrets: a registry over plain http", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_hears_no_login(
    watch: Watch, tally: Tally, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over https it sees a tunnel; a server whose certificate is not trusted hears nothing."""
    watch.plant(kind)
    certificate = make_certificate(tmp_path / "tls.pem")
    watch.planted.add(certificate.with_suffix(".key"))
    site = watch.registry.site
    with Proxy() as proxy, TlsFront(watch.registry.url, certificate) as front:
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        # a name that is not loopback by its looks is spoken to over https
        port = front.url.rpartition(":")[2]
        site.url, site.realm, site.redirects = front.url, f"{front.url}/token", False
        ref = f"localhost.localdomain:{port}/{TEAM}:v1"
        ran = watch.run("push", ref)
        assert ran.exit_code == 3, ran.err
        assert watch.registry.requests == []
        assert {one.authorization for one in proxy.asked} == {None}
    watch.assert_kept()
    tally("secrets: a proxy before a registry")


def test_no_traceback_tells_a_secret(watch: Watch, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug ends with 70 and its traceback, whose last line may hold all that was sent."""
    watch.plant("bearer")
    assert watch.run("push", watch.ref).exit_code == 0
    from urllib3 import PoolManager

    def broken(self: object, method: str, url: str, **more: object) -> None:
        raise RuntimeError(f"{method} {url} {more}")

    monkeypatch.setattr(PoolManager, "request", broken)
    for log_format in ("text", "json"):
        ran = watch.run("push", watch.ref, f"--log-format={log_format}")
        assert ran.exit_code == 70, ran.err
    assert "Traceback" in watch.said
    watch.assert_kept()
    tally("secrets: a traceback", 2)


def test_a_program_that_keeps_the_login(watch: Watch, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is as secret as a file, also where it fails behind it."""
    watch.plant("bearer")
    bin_folder = watch.folder / "bin"
    bin_folder.mkdir()
    program = bin_folder / "docker-credential-test"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD, "ServerURL": watch.registry.address})
    (watch.folder / "auth.json").write_text(json.dumps({"credHelpers": {watch.registry.address: "test"}}))
    (watch.folder / "answer").write_text(answer)
    watch.planted |= {program, watch.folder / "answer"}
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    for end, code in (("exit 0", 0), ("cat >&2 answer; exit 1", 2), ("echo '{'", 2)):
        program.write_text(f"#!/bin/sh\ncd {watch.folder}\ncat answer\n{end}\n")
        program.chmod(0o755)
        for log_format in ("text", "json"):
            ran = watch.run("push", watch.ref, f"--log-format={log_format}")
            assert ran.exit_code == code, ran.err
    watch.assert_kept()
    tally("secrets: a program that keeps the login", 6)
