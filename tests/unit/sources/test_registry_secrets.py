"""Promise 8: where passwords and tokens of a registry go, and where they are never seen."""

from __future__ import annotations

import base64
import hashlib
import json
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from modelcache.core.errors import AccessDeniedError, CacheModelsError, HubError, TokenRefusedError
from modelcache.image.reference import Reference
from modelcache.sources.registry import connect
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.registry_login import Login
from modelcache.transfer.retry import RetryPolicy
from tests.support import registry as stand_in
from tests.support.oci_images import MANIFEST
from tests.support.proxy import make_certificate
from tests.support.registry import Request, StandInRegistry, Status
from tests.support.registry.client import BYTES, DIGEST, JSON, Listener, connect_to, names_of_this_machine

USER, PASSWORD, IDENTITY = "the-user", "password-of-the-registry", "identity-token-of-the-user"
CODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
MINE = Login(USER, PASSWORD, source="the file")
BY_TOKEN = Login("", "", IDENTITY, "the file")
KINDS = {"basic": MINE, "bearer": MINE, "identity token": BY_TOKEN}
NAMES = ",".join(f"DNS:{name}.example" for name in ("registry", "token", "content"))


@pytest.fixture
def names() -> Iterator[None]:
    """Three names of this machine that do not count as loopback."""
    with names_of_this_machine():
        yield


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For these names."""
    return make_certificate(tmp_path / "certificate.pem", NAMES)


def started(tmp_path: Path, kind: str, stack: ExitStack, tls: Path | None = None) -> StandInRegistry:
    """A registry that wants a login and redirects its blobs; each of its hosts has a name of its own."""
    login = stand_in.Login("basic" if kind == "basic" else "bearer", USER, PASSWORD, IDENTITY)
    registry = stack.enter_context(StandInRegistry(tmp_path / "registry", login=login, tls=tls))
    registry.storage.put_blob("a/b", BYTES)
    registry.storage.put_blob("base", b"base")
    registry.storage.put_manifest("a/b", "v1", JSON, MANIFEST)
    site, urls = registry.site, (registry.url, registry.token_url, registry.content_url)
    site.url, realm, site.content_url = (
        url.replace("127.0.0.1", f"{name}.example")
        for name, url in zip(("registry", "token", "content"), urls, strict=True)
    )
    site.realm = f"{realm}/token"
    site.redirects = True
    return registry


def use(repository: RegistryRepository) -> None:
    """Read and write all that there is."""
    assert repository.manifest("v1").content == JSON
    assert repository.small_blob(DIGEST, len(BYTES)) == BYTES
    assert repository.has_blob(DIGEST, len(BYTES))
    assert repository.mount_blob(f"sha256:{hashlib.sha256(b'base').hexdigest()}", "base")
    repository.send_blob(f"sha256:{hashlib.sha256(b'new').hexdigest()}", 3, lambda: [b"new"])
    repository.put_manifest("v2", MANIFEST, JSON)


def text_of(request: Request) -> str:
    """All of a request but its body."""
    return f"{request.path} {json.dumps(dict(request.headers))}"


@pytest.mark.parametrize(("kind", "elsewhere"), [*product(KINDS, [False, True])])
def test_secrets_go_to_the_registry_and_its_realm_alone(
    tmp_path: Path, names: None, certificate: Path, kind: str, elsewhere: bool
) -> None:
    """Over https: the password to the realm, or to the registry that asks for it; a token to the registry alone."""
    with ExitStack() as stack:
        registry = started(tmp_path, kind, stack, certificate)
        registry.site.upload_location = "elsewhere" if elsewhere else "query"
        use(connect_to(registry.site.url, login=KINDS[kind], ca_bundle=certificate))
        assert registry.site.login
        tokens = registry.site.login.tokens
        assert bool(tokens) is (kind != "basic")
        for request in registry.requests:
            text = text_of(request)
            assert PASSWORD not in text
            assert IDENTITY not in text
            if CODED in text:
                assert request.host == ("registry" if kind == "basic" else "token")
            if any(token in text for token in tokens):
                assert request.host == "registry"
            if request.host == "content":
                assert request.authorization is None
        assert registry.count(host="content") == 1 + elsewhere
        assert (registry.count(host="token") > 0) is (kind != "basic")
        assert {request.authorization for request in registry.asked(host="registry")} != {None}


@pytest.mark.parametrize("kind", KINDS)
def test_over_plain_http_no_login_is_sent(tmp_path: Path, names: None, kind: str) -> None:
    """Also where plain http is wanted (`--insecure`); the hint says so."""
    with ExitStack() as stack:
        registry = started(tmp_path, kind, stack)
        with pytest.raises(AccessDeniedError, match=r"registry\.example:\d+ asks for a login") as error:
            use(connect_to(registry.site.url, login=KINDS[kind], retries=2))
        assert error.value.hint == "Over plain http no password is sent; use https, that is, leave --insecure out."
        assert registry.requests
        assert {request.authorization for request in registry.requests} == {None}
        assert {request.method for request in registry.requests} == {"GET"}
        assert not [text for text in map(text_of, registry.requests) for one in (CODED, IDENTITY) if one in text]


def test_over_plain_http_a_public_image_is_read(tmp_path: Path, names: None) -> None:
    """With a token that anybody gets."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        assert registry.site.login
        registry.site.login.anonymous_pull = True
        repository = connect_to(registry.site.url, login=MINE)
        assert repository.small_blob(DIGEST, len(BYTES)) == BYTES
        assert CODED not in " ".join(map(text_of, registry.requests))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_http_on_this_machine_is_secure(tmp_path: Path, kind: str) -> None:
    """A registry for trying things out; its realm is on this machine, too."""
    with ExitStack() as stack:
        registry = started(tmp_path, kind, stack)
        registry.site.url, registry.site.content_url = registry.url, registry.content_url
        registry.site.realm = f"{registry.token_url}/token"
        use(connect_to(registry.url, login=KINDS[kind]))


@pytest.mark.parametrize("place", ["token.example", "127.0.0.1"])
@pytest.mark.parametrize("login", [MINE, BY_TOKEN, None], ids=["password", "identity token", "none"])
def test_a_realm_over_plain_http_is_refused(
    tmp_path: Path, names: None, certificate: Path, place: str, login: Login | None
) -> None:
    """A registry over https that names one is wrong, or is not the registry; also where no login would go there."""
    with ExitStack() as stack, StandInRegistry(tmp_path / "other") as other:
        registry = started(tmp_path, "bearer", stack, certificate)
        registry.site.realm = f"{other.url.replace('127.0.0.1', place)}/token"
        with pytest.raises(HubError, match=f"names a token realm over plain http, {place}") as error:
            use(connect_to(registry.site.url, login=login, ca_bundle=certificate, retries=3))
        assert "https" in error.value.hint
        assert not error.value.retryable
        assert not other.requests


def test_a_realm_elsewhere_over_plain_http_gets_no_login_of_this_machine(tmp_path: Path, names: None) -> None:
    """A registry of this machine may not send the password away unencrypted."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        with pytest.raises(HubError, match=r"names a token realm over plain http, token\.example"):
            use(connect_to(registry.url, login=MINE))
        assert registry.count(host="token") == 0


@pytest.mark.parametrize(
    "realm", ["", "token", "/token", "ftp://host/token", "file:///etc/passwd", "http://[", "http://u:p@host/token"]
)
def test_a_realm_that_is_no_address_is_refused(tmp_path: Path, realm: str) -> None:
    """Nothing is sent to it."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        registry.site.realm = realm
        with pytest.raises(HubError, match="names a token realm that is no http address") as error:
            use(connect_to(registry.url, login=MINE, retries=3))
        assert "Ask who runs that registry" in error.value.hint
        assert registry.count() == 1


@pytest.mark.parametrize(
    ("challenge", "told"),
    [
        ("", "asks for a login of an unknown kind"),
        ("Negotiate", "asks for a login of an unknown kind"),
        ("Bearerx realm=x", "asks for a login of an unknown kind"),
        ("Bearer", "no http address"),
        ("Bearer service=x", "no http address"),
        ('Bearer realm="' + "x" * 10_000, "no http address"),
    ],
)
def test_an_odd_challenge_gets_no_login(tmp_path: Path, challenge: str, told: str) -> None:
    """It is told, and not tried again."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        registry.fail(Status(401, {"WWW-Authenticate": challenge} if challenge else {}), times=-1)
        with pytest.raises(HubError, match=told):
            use(connect_to(registry.url, login=MINE))
        assert {request.authorization for request in registry.requests} == {None}


@pytest.mark.parametrize(
    "form",
    [
        'bearer REALM="{realm}" , service="s,t" ,scope="a b"',
        "Bearer realm={realm},service=s",
        'Bearer service="s",realm="{realm}",error="invalid_token"',
        'Bearer realm="{realm}",service="s", Basic realm="Registry Realm"',
        'Basic realm="Registry, Bearer", Bearer realm="{realm}",service="s"',
        'Negotiate YIIabc==, Bearer realm="{realm}",service="s"',
        'Negotiate, Bearer service="s", realm="{realm}"',
    ],
)
def test_a_challenge_is_read_as_rfc_9110_has_it(tmp_path: Path, form: str) -> None:
    """Small letters, blanks, values without quotes, commas in them, a second scheme."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        challenge = form.format(realm=f"{registry.token_url}/token")
        registry.fail(Status(401, {"WWW-Authenticate": challenge}), "manifest")
        assert connect_to(registry.url, login=MINE).manifest("v1").content == JSON
        (asked,) = registry.asked(kind="token")
        assert asked.host == "token"
        assert f"service={'s%2Ct' if 's,t' in form else 's'}&" in asked.path


def test_plain_http_is_spoken_where_it_is_wanted(tmp_path: Path, names: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then without the login that a file has; elsewhere TLS, whose failure is told with the option."""
    with ExitStack() as stack:
        registry = started(tmp_path, "basic", stack)
        image = Reference.parse(f"{registry.address.replace('127.0.0.1', 'registry.example')}/a/b:v1")
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {image.registry: {"auth": CODED}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        policy = RetryPolicy(timeout=5, retries=0)
        with pytest.raises(AccessDeniedError) as refused:
            connect(image, policy, Listener(), 2, insecure=True).manifest("v1")
        assert "leave --insecure out" in refused.value.hint
        assert [request.authorization for request in registry.requests] == [None]
        with pytest.raises(HubError) as untrusted:
            connect(image, policy, Listener(), 2).manifest("v1")
        assert "If that port speaks no TLS, give --insecure (CACHE_MODELS_INSECURE)." in untrusted.value.hint


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("redis", "https://registry-1.docker.io/v2/library/redis"),
        ("ghcr.io/team/models", "https://ghcr.io/v2/team/models"),
        ("registry.example:5000/models", "https://registry.example:5000/v2/models"),
        ("localhost:5000/models", "http://localhost:5000/v2/models"),
        ("127.0.0.1/models", "http://127.0.0.1/v2/models"),
        ("[::1]:5000/models", "http://[::1]:5000/v2/models"),
    ],
)
def test_a_name_leads_to_its_registry(name: str, address: str) -> None:
    """Over https, but for this machine; that of Docker Hub has another host than its name."""
    assert connect(Reference.parse(name), RetryPolicy(), Listener(), 1)._base == address


# what is printed ------------------------------------------------------------------------------------------------


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StandInRegistry, Listener, Path]]:
    """A registry on this machine, and a file with the login for it."""
    with ExitStack() as stack:
        registry = started(tmp_path, "bearer", stack)
        registry.site.realm = f"{registry.token_url}/token"
        registry.site.redirects = False
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {registry.address: {"auth": CODED}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
        yield registry, Listener(), file


def connected(registry: StandInRegistry, reporter: Listener) -> RegistryRepository:
    """As the command line connects."""
    image = Reference.parse(f"{registry.address}/a/b:v1")
    return connect(image, RetryPolicy(timeout=5, retries=1), reporter, 2)


def test_a_registry_of_this_machine_gets_the_login_of_a_file(
    logged_in: tuple[StandInRegistry, Listener, Path],
) -> None:
    """Over plain http, which is what it speaks."""
    registry, reporter, _ = logged_in
    assert connected(registry, reporter).manifest("v1").content == JSON
    assert [request.authorization for request in registry.asked(kind="token")] == [f"Basic {CODED}"]


@pytest.mark.parametrize("spoken", ["password", "token", "both in base64"])
def test_a_registry_that_shows_secrets_does_not_show_them_to_others(
    logged_in: tuple[StandInRegistry, Listener, Path], spoken: str
) -> None:
    """It has seen them, and its words are printed."""
    registry, reporter, _ = logged_in
    repository = connected(registry, reporter)
    repository.has_blob(DIGEST, len(BYTES))  # so that there is a token
    assert registry.site.login
    token = next(iter(registry.site.login.tokens))
    words = {"password": PASSWORD, "token": token, "both in base64": f"{CODED} {base64.b64encode(token.encode())!r}"}
    body = json.dumps({"errors": [{"code": "X", "message": f"you are {words[spoken]}"}]}).encode()
    for status in (400, 403):
        registry.fail(Status(status, {}, body), "manifest", method="PUT")
        with pytest.raises(CacheModelsError, match="you are") as error:
            repository.put_manifest("v2", MANIFEST, JSON)
        shown = "".join(traceback.format_exception(error.value)) + repr(error.value) + error.value.hint
        assert not [one for one in (PASSWORD, CODED, token, *words[spoken].split()[2:]) if one in shown]


def test_no_repr_shows_a_secret(logged_in: tuple[StandInRegistry, Listener, Path]) -> None:
    """A traceback with the values of variables would print them."""
    registry, reporter, _ = logged_in
    repository = connected(registry, reporter)
    use_quietly = repository.manifest("v1")
    assert registry.site.login
    token = next(iter(registry.site.login.tokens))
    auth = repository._requests._auth
    shown = f"{repository!r} {auth!r} {auth._login!r} {auth._tokens!r} {use_quietly!r}"
    assert "_Token" in shown
    assert not [one for one in (PASSWORD, CODED, token) if one in shown]


def test_a_login_that_is_not_taken_is_told_with_its_file_and_no_more(
    logged_in: tuple[StandInRegistry, Listener, Path],
) -> None:
    """Neither the name of the user nor the password."""
    registry, reporter, file = logged_in
    assert registry.site.login
    registry.site.login.password = "another"
    with pytest.raises(TokenRefusedError, match=f"does not take the login from {file}") as error:
        connected(registry, reporter).manifest("v1")
    shown = "".join(traceback.format_exception(error.value)) + error.value.hint + str(reporter.told)
    assert not [one for one in (USER, PASSWORD, CODED) if one in shown]
