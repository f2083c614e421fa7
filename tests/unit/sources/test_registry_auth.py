"""The login to a registry: the answer to each challenge, how often it is sent, and the errors where it fails."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest

from modelcache.core.errors import AccessDeniedError, HubError, HubUnreachableError, TokenRefusedError
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.registry_login import Login
from tests.support import registry as stand_in
from tests.support.oci_images import MANIFEST
from tests.support.registry import ExpireToken, Fault, Html, Reset, Short, StandInRegistry, Status, refusal
from tests.support.registry.client import BYTES, DIGEST, JSON, Listener, connect_to

USER, PASSWORD, IDENTITY = "user", "password-of-the-registry", "identity-token-of-the-user"
MINE = Login(USER, PASSWORD, source="the file")
BY_TOKEN = Login("", "", IDENTITY, "the file")
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(params=["here", "elsewhere"])
def registry(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StandInRegistry]:
    """A registry that wants tokens, which it gives itself, or another host does; it has a blob and a manifest."""
    with StandInRegistry(tmp_path / "registry", login=stand_in.Login("bearer", identity_token=IDENTITY)) as registry:
        registry.storage.put_blob("a/b", BYTES)
        registry.storage.put_blob("base", BYTES)
        registry.storage.put_manifest("a/b", "v1", JSON, MANIFEST)
        if request.param == "elsewhere":
            registry.site.realm = f"{registry.token_url}/token"
        yield registry


def login_of(registry: StandInRegistry) -> stand_in.Login:
    """The rights that the registry knows."""
    assert registry.site.login
    return registry.site.login


def query_of(path: str) -> list[tuple[str, str]]:
    """The query of a request."""
    return parse_qsl(urlsplit(path).query)


def read(repository: RegistryRepository) -> bytes:
    """The blob."""
    return repository.small_blob(DIGEST, len(BYTES))


def send(repository: RegistryRepository, content: bytes = b"new") -> None:
    """Send a blob."""
    repository.send_blob(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), lambda: [content])


# kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", [None, MINE, BY_TOKEN], ids=["none", "password", "identity token"])
def test_a_registry_that_asks_for_no_login_gets_none(registry: StandInRegistry, login: Login | None) -> None:
    """Also where we have one."""
    registry.site.login = None
    repository = connect_to(registry.url, login=login)
    assert read(repository) == BYTES
    send(repository)
    assert [request.authorization for request in registry.requests] == [None] * 3


def test_a_password_is_sent_where_it_is_asked_for(registry: StandInRegistry) -> None:
    """The first request finds out; the others know."""
    registry.site.login = stand_in.Login("basic")
    repository = connect_to(registry.url, login=MINE)
    assert read(repository) == BYTES
    send(repository)
    assert [request.authorization for request in registry.requests] == [None, BASIC, BASIC, BASIC]


def test_a_password_gets_a_token(registry: StandInRegistry) -> None:
    """By GET, with service and scope; the token is good for the next requests of that scope."""
    repository = connect_to(registry.url, login=MINE)
    assert [read(repository), read(repository), repository.manifest("v1").content] == [BYTES, BYTES, JSON]
    (asked,) = registry.asked(kind="token")
    assert (asked.method, asked.authorization) == ("GET", BASIC)
    assert query_of(asked.path) == [("service", "stand-in"), ("scope", "repository:a/b:pull")]
    used = [request.authorization for request in registry.requests if request.kind != "token"]
    assert used[0] is None
    assert len(set(used[1:])) == 1
    assert str(used[1]).startswith("Bearer ")


def test_an_identity_token_gets_a_token(registry: StandInRegistry) -> None:
    """By POST, in the form of OAuth; no password is sent."""
    assert read(connect_to(registry.url, login=BY_TOKEN)) == BYTES
    (asked,) = registry.asked(kind="token")
    assert (asked.method, asked.authorization) == ("POST", None)
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert not query_of(asked.path)


def test_without_a_login_a_token_is_asked_for_all_the_same(registry: StandInRegistry) -> None:
    """As Docker Hub wants it for public images; what it does not permit is told with the way to log in."""
    login_of(registry).anonymous_pull = True
    repository = connect_to(registry.url, retries=3)
    assert read(repository) == BYTES
    (asked,) = registry.asked(kind="token")
    assert asked.authorization is None
    with pytest.raises(AccessDeniedError, match=f"does not let this run write {registry.address}/a/b") as error:
        send(repository)
    assert f"`docker login {registry.address}`" in error.value.hint
    assert not error.value.retryable


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_login_that_we_do_not_have_is_told(registry: StandInRegistry, kind: str) -> None:
    """Once, with the way to log in."""
    registry.site.login = stand_in.Login("basic" if kind == "basic" else "bearer")
    with pytest.raises(AccessDeniedError, match=f"{registry.address} asks for a login") as error:
        read(connect_to(registry.url, retries=3))
    assert f"`docker login {registry.address}`" in error.value.hint
    assert (error.value.exit_code, error.value.retryable) == (3, False)
    assert registry.count(kind="blob") == 1


@pytest.mark.parametrize("kind", ["basic", "bearer", "identity token"])
def test_a_login_that_is_not_taken_is_told_with_its_file(registry: StandInRegistry, kind: str) -> None:
    """And neither sent again nor shown."""
    registry.site.login = stand_in.Login("basic" if kind == "basic" else "bearer", identity_token=IDENTITY)
    wrong = (
        Login("", "", "wrong-secret", "the file") if "token" in kind else Login(USER, "wrong-secret", "", "the file")
    )
    with pytest.raises(TokenRefusedError, match=f"{registry.address} does not take the login from the file") as error:
        read(connect_to(registry.url, login=wrong, retries=3))
    assert f"`docker login {registry.address}`" in error.value.hint
    assert "wrong-secret" not in f"{error.value!r} {error.value.hint}"
    assert registry.count() == 2


@pytest.mark.parametrize("fields", [("token",), ("access_token",), ("token", "access_token")], ids=",".join)
def test_a_token_has_either_name(registry: StandInRegistry, fields: tuple[str, ...]) -> None:
    """The specification has both."""
    login_of(registry).fields = fields
    assert read(connect_to(registry.url, login=MINE)) == BYTES


# scopes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "scopes"),
    [
        (read, ["a/b:pull"]),
        (lambda repository: repository.manifest("v1"), ["a/b:pull"]),
        (lambda repository: repository.has_blob(DIGEST, len(BYTES)), ["a/b:pull,push"]),
        (lambda repository: repository.has_manifest("v1", DIGEST), ["a/b:pull,push"]),
        (send, ["a/b:pull,push"]),
        (lambda repository: repository.put_manifest("v2", MANIFEST, JSON), ["a/b:pull,push"]),
        (lambda repository: repository.mount_blob(DIGEST, "base"), ["a/b:pull,push", "base:pull"]),
    ],
)
@pytest.mark.parametrize("login", [MINE, BY_TOKEN], ids=["password", "identity token"])
def test_a_token_is_for_what_is_done(
    registry: StandInRegistry, call: Callable[[RegistryRepository], object], scopes: list[str], login: Login
) -> None:
    """No right more: a token that is stolen from a reader writes nothing. The stand-in refuses one with less."""
    repository = connect_to(registry.url, login=login)
    call(repository)
    (asked,) = registry.asked(kind="token")
    if login is MINE:
        told = [value.removeprefix("repository:") for name, value in query_of(asked.path) if name == "scope"]
        assert told == scopes
    rights = [token.rights for token in login_of(registry).tokens.values()]
    wanted = {
        (name, one) for name, _, actions in (scope.partition(":") for scope in scopes) for one in actions.split(",")
    }
    assert rights == [wanted]


def test_a_blob_is_mounted_with_the_rights_to_both(registry: StandInRegistry) -> None:
    """One token, one upload."""
    other = registry.storage.put_blob("base", b"another")
    assert connect_to(registry.url, login=MINE).mount_blob(other, "base")
    assert other in registry.blobs("a/b")


# how often ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", [MINE, BY_TOKEN], ids=["password", "identity token"])
def test_many_threads_ask_for_one_token(registry: StandInRegistry, login: Login) -> None:
    """Registries count the requests for tokens."""
    repository, together = connect_to(registry.url, login=login), threading.Barrier(8)

    def work(_: int) -> bytes:
        together.wait()
        return read(repository)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {BYTES}
    assert registry.count(kind="token") == 1


def test_a_token_that_has_expired_is_renewed_once(registry: StandInRegistry) -> None:
    """In the middle of a run, which does not notice."""
    reporter = Listener()
    repository = connect_to(registry.url, login=MINE, reporter=reporter)
    assert read(repository) == BYTES
    registry.fail(ExpireToken(), "blob")
    assert [read(repository), read(repository)] == [BYTES, BYTES]
    assert (registry.count(kind="token"), registry.count(kind="blob"), reporter.told) == (2, 5, [])


def test_a_blob_is_sent_again_after_its_token_has_expired(registry: StandInRegistry) -> None:
    """From its beginning: the registry has read none of it."""
    registry.fail(ExpireToken(), "upload body")
    reads = []
    content = b"content" * 100_000

    def pieces() -> list[bytes]:
        reads.append(1)
        return [content]

    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    connect_to(registry.url, login=MINE).send_blob(digest, len(content), pieces)
    assert registry.blobs("a/b")[digest].read_bytes() == content
    assert (len(reads), registry.count(kind="token")) == (2, 2)


def test_tokens_that_are_good_for_one_request_do(registry: StandInRegistry) -> None:
    """Each is used, refused the next time, and renewed."""
    login_of(registry).uses = 1
    repository = connect_to(registry.url, login=MINE)
    for _ in range(3):
        assert read(repository) == BYTES
    assert registry.count(kind="token") == 3


def test_a_registry_that_takes_no_token_is_not_asked_for_ever(registry: StandInRegistry) -> None:
    """Two tokens are tried."""
    login_of(registry).uses = 0
    with pytest.raises(AccessDeniedError, match=f"does not let this run read {registry.address}/a/b") as error:
        read(connect_to(registry.url, login=MINE, retries=3))
    assert "The login comes from the file" in error.value.hint
    assert (registry.count(kind="token"), registry.count(kind="blob")) == (2, 3)


@pytest.mark.parametrize(("lasts", "used"), [(1000, 800), (5, 48), (100_000, 2880)])
def test_a_token_is_not_used_to_its_end(
    registry: StandInRegistry, monkeypatch: pytest.MonkeyPatch, lasts: float, used: float
) -> None:
    """Four fifths of its life, as the specification has it at least a minute, and an hour at most."""
    login_of(registry).lasts = lasts
    began, clock = time.monotonic(), [0.0]
    monkeypatch.setattr("modelcache.sources.registry_auth.time", SimpleNamespace(monotonic=lambda: began + clock[0]))
    repository = connect_to(registry.url, login=MINE)
    for clock[0], tokens in ((0.0, 1), (used - 1, 1), (used + 1, 2)):
        for token in login_of(registry).tokens.values():
            token.until = float("inf")
        assert read(repository) == BYTES
        assert registry.count(kind="token") == tokens


# odd answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Status(503), Status(429, {"Retry-After": "0"}), Reset(None), Short(5), Status(404)], ids=str
)
def test_a_token_realm_that_fails_once_is_asked_once_more(registry: StandInRegistry, fault: Fault) -> None:
    """As any server."""
    registry.fail(fault, "token")
    assert read(connect_to(registry.url, login=MINE, retries=1)) == BYTES
    assert registry.count(kind="token") == 2


def test_a_token_realm_that_goes_on_failing_is_given_up(registry: StandInRegistry) -> None:
    """With its status."""
    registry.fail(Status(503), "token", times=-1)
    with pytest.raises(HubUnreachableError, match=r"status 503 \(tried 3 times\)"):
        read(connect_to(registry.url, login=MINE, retries=2))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_token_realm_that_refuses_is_asked_once(registry: StandInRegistry, status: int) -> None:
    """It does not take the login."""
    registry.fail(refusal(status, "DENIED"), "token", times=-1)
    with pytest.raises(TokenRefusedError):
        read(connect_to(registry.url, login=MINE, retries=3))
    assert registry.count(kind="token") == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'"token"',
        b'{"token": null}',
        b'{"token": 7}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Header: b"}',
        b'{"token": "two words"}',
        '{"token": "schlüssel"}'.encode(),
    ],
)
def test_an_answer_without_a_token_is_refused(registry: StandInRegistry, body: bytes) -> None:
    """No odd text becomes a header."""
    registry.fail(Status(200, {"Content-Type": "application/json"}, body), "token")
    with pytest.raises(HubError, match="sent no token") as error:
        read(connect_to(registry.url, login=MINE))
    assert f"Check that {registry.address} is a registry" in error.value.hint


@pytest.mark.parametrize("life", [b"true", b"null", b'"x"', b"-5", b"1e400", b"99999999999999999999"])
def test_an_odd_life_is_no_obstacle(registry: StandInRegistry, life: bytes) -> None:
    """The token counts."""
    registry.fail(Status(200, {}, b'{"token": "abcdef", "expires_in": ' + life + b"}"), "token")
    login_of(registry).tokens["abcdef"] = SimpleNamespace(  # type: ignore[assignment]  # as the stand-in keeps one
        rights=frozenset({("a/b", "pull")}), until=float("inf"), left=None
    )
    assert read(connect_to(registry.url, login=MINE)) == BYTES


@pytest.mark.parametrize("fault", [Html(), Status(200, {}, b"x" * (1 << 21))], ids=["html", "endless"])
def test_an_answer_of_another_kind_is_refused(registry: StandInRegistry, fault: Fault) -> None:
    """As of a login page; the hint is about the registry, and not about the Hub."""
    registry.fail(fault, "token", times=-1)
    with pytest.raises(HubError, match=r"sent no token|where a short answer belongs") as error:
        read(connect_to(registry.url, login=MINE))
    assert f"Check that {registry.address} is a registry" in error.value.hint
