"""`push` to a registry that is not there, or refuses, or is none: exit codes, words, and the tag as it was."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tool
from tests.support.proxy import make_certificate
from tests.support.pushed import SMALL, A, blobs_sent, make_root, write_logins
from tests.support.registry import (
    ExpireToken,
    ForgetUpload,
    Html,
    Login,
    OtherBytes,
    Reset,
    StandInRegistry,
    Status,
    StopUpload,
    refusal,
)

TEAM = "team/models"
LOGIN = "user:password-of-the-registry"


@pytest.fixture
def root(tool: Tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tool:
    """The tool in a root with one model of one layer; no login is known."""
    make_root(tool.folder, {A: SMALL})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write_logins(tmp_path / "auth.json", {})))
    return tool


def test_no_such_registry(root: Tool) -> None:
    """Exit 3, and the proxy is thought of."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        ran = root("push", f"{address}/{TEAM}:v1", "--retries=0")
    assert (ran.exit_code, ran.out) == (3, "")
    assert "127.0.0.1: connection refused" in ran.err
    assert "A registry may need a proxy in HTTP_PROXY" in ran.err


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_login_is_asked_for(root: Tool, registry: StandInRegistry, kind: str) -> None:
    """Exit 3 with the way to log in; with a wrong login, the file that it is in; with the right one all is well."""
    registry.site.login = Login(kind)  # type: ignore[arg-type]  # one of two words
    ref = f"{registry.address}/{TEAM}:v1"
    ran = root("push", ref)
    assert (ran.exit_code, ran.out) == (3, "")
    assert f"docker login {registry.address}" in ran.err
    auth = root.folder.parent / "auth.json"
    write_logins(auth, {registry.address: "user:wrong-password"})
    ran = root("push", ref)
    assert (ran.exit_code, ran.out) == (3, "")
    assert f"{registry.address} does not take the login from {auth}" in ran.err
    assert "wrong-password" not in ran.err
    assert registry.tags(TEAM) == {}
    write_logins(auth, {registry.address: LOGIN})
    ran = root("push", ref)
    assert ran.exit_code == 0, ran.err
    assert registry.tags(TEAM) == {"v1": ran.out.strip()}


def test_an_identity_token_is_exchanged(root: Tool, registry: StandInRegistry) -> None:
    """As `docker login` keeps one for registries that give them."""
    registry.site.login = Login("bearer", identity_token="refresh-token-of-the-registry")
    table = f'{{"auths": {{"{registry.address}": {{"identitytoken": "refresh-token-of-the-registry"}}}}}}'
    (root.folder.parent / "auth.json").write_text(table)
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert ran.exit_code == 0, ran.err
    assert {request.method for request in registry.asked(kind="token")} == {"POST"}


def test_reading_is_not_writing(root: Tool, registry: StandInRegistry) -> None:
    """Exit 3: a registry that lets anyone pull need not let anyone push."""
    registry.site.login = Login("bearer", anonymous_pull=True)
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert (ran.exit_code, ran.out) == (3, "")
    assert TEAM in ran.err
    assert "docker login" in ran.err
    assert blobs_sent(registry) == []


def test_tokens_expire_during_a_push(root: Tool, registry: StandInRegistry) -> None:
    """Another one is asked for; one that is good for a single request is used once."""
    registry.site.login = Login("bearer", uses=1)
    write_logins(root.folder.parent / "auth.json", {registry.address: LOGIN})
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert ran.exit_code == 0, ran.err
    registry.site.login = Login("bearer")
    for kind in ("blob", "upload start", "upload body", "manifest"):
        registry.fail(ExpireToken(), kind)
    ran = root("push", f"{registry.address}/other/models:v1")
    assert ran.exit_code == 0, ran.err


REFUSALS: dict[str, tuple[Callable[[StandInRegistry], None], str]] = {
    "denied": (lambda one: one.fail(refusal(403, "DENIED"), "upload start", times=-1), "does not let this run write"),
    "no such repository": (
        lambda one: one.fail(refusal(404, "NAME_UNKNOWN"), "upload start", times=-1),
        "the stand-in was told to refuse",
    ),
    "too large": (lambda one: one.fail(Status(413), "upload body", times=-1), "limits the size of a request"),
    "the manifest": (
        lambda one: one.fail(refusal(400, "MANIFEST_INVALID"), "manifest", method="PUT", times=-1),
        "the stand-in was told to refuse",
    ),
    "HTML": (lambda one: one.fail(Html(), times=-1), "Check the name of the registry"),
    "HTML for an upload": (lambda one: one.fail(Html(), "upload start", times=-1), "Check the name of the registry"),
    "HTML for a token": (lambda one: one.fail(Html(), "token", times=-1), "sent no token"),
    "nonsense for a token": (lambda one: one.fail(OtherBytes(b"{}"), "token", times=-1), "sent no token"),
    "an error": (lambda one: one.fail(Status(500), times=-1), "status 500"),
    "resets": (lambda one: one.fail(Reset(None), times=-1), "127.0.0.1"),
    "resets in an upload": (lambda one: one.fail(StopUpload(10_000), "upload body", times=-1), "127.0.0.1"),
    "another login": (
        lambda one: one.fail(Status(401, {"WWW-Authenticate": 'Negotiate realm="x"'}), times=-1),
        "asks for a login of an unknown kind",
    ),
    "a realm of plain http": (
        lambda one: one.fail(Status(401, {"WWW-Authenticate": 'Bearer realm="http://example.com/t"'}), times=-1),
        "over plain http, example.com",
    ),
    "a realm that is none": (
        lambda one: one.fail(Status(401, {"WWW-Authenticate": 'Bearer realm="x:y"'}), times=-1),
        "that is no http address",
    ),
}


@pytest.mark.parametrize(("arm", "told"), REFUSALS.values(), ids=REFUSALS)
def test_a_registry_refuses(
    root: Tool, registry: StandInRegistry, arm: Callable[[StandInRegistry], None], told: str
) -> None:
    """Exit 3 that names the registry and the request; the tag is as it was, and the next push goes through."""
    if "token" in told or "plain http" in told:
        registry.site.login = Login("bearer")
        write_logins(root.folder.parent / "auth.json", {registry.address: LOGIN})
    arm(registry)
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--timeout=2")
    assert (ran.exit_code, ran.out) == (3, ""), ran.err
    assert told in ran.err
    assert "hint: " in ran.err
    assert registry.tags(TEAM) == {}
    registry.mend()
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert (ran.exit_code, registry.tags(TEAM)) == (0, {"v1": ran.out.strip()}), ran.err


PASSING: dict[str, Callable[[StandInRegistry], None]] = {
    "busy": lambda one: one.fail(Status(429, {"Retry-After": "0"}), times=2),
    "an error": lambda one: one.fail(Status(503), "upload start"),
    "a reset in an upload": lambda one: one.fail(StopUpload(10_000), "upload body"),
    "the answer is lost": lambda one: one.fail(Reset(None), "upload body"),
    "the upload is lost": lambda one: one.fail(ForgetUpload(), "upload body"),
    "a manifest is lost": lambda one: one.fail(Reset(None), "manifest", method="PUT"),
    "no HEAD of a blob": lambda one: one.fail(Status(405), "blob", method="HEAD", times=-1),
    "no HEAD of a manifest": lambda one: one.fail(Status(405), "manifest", method="HEAD", times=-1),
}


@pytest.mark.parametrize("arm", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("location", ["relative", "absolute", "query", "elsewhere"])
def test_a_trouble_that_passes(
    root: Tool, registry: StandInRegistry, arm: Callable[[StandInRegistry], None], location: str
) -> None:
    """It is tried again, and costs the blob that was under way at most; wherever uploads go."""
    registry.site.upload_location = location  # type: ignore[assignment]  # one of four words
    arm(registry)
    ran = root("push", f"{registry.address}/{TEAM}:v1", "--retries=3", "--timeout=5")
    assert ran.exit_code == 0, ran.err
    assert registry.tags(TEAM) == {"v1": ran.out.strip()}


def test_a_lost_answer_costs_no_second_upload(root: Tool, registry: StandInRegistry) -> None:
    """The blob is there: a HEAD tells so."""
    registry.fail(Reset(None), "upload body")
    assert root("push", f"{registry.address}/{TEAM}:v1").exit_code == 0
    assert len([one for one in blobs_sent(registry) if one.received > 5000]) == 1


WRONG = {
    "no REF": ([], "the following arguments are required: REF"),
    "empty": ([""], "is no image: write REGISTRY/REPOSITORY:TAG"),
    "with a digest": ([f"127.0.0.1:1/x@sha256:{'a' * 64}"], "an image is pushed under a tag"),
    "with tag and digest": ([f"127.0.0.1:1/x:v1@sha256:{'a' * 64}"], "an image is pushed under a tag"),
    "a broken digest": (["127.0.0.1:1/x@sha256:12"], "is not `sha256:` and 64 hex digits"),
    "an address": (["https://ghcr.io/team/models"], "is an address, not the name of an image"),
    "capitals": (["ghcr.io/Team/Models"], "a repository is in lower case"),
    "a tag with a slash": (["ghcr.io/team:v1/models"], "is no image"),
    "a tag with a dash": (["ghcr.io/team/models:-v1"], "its tag"),
    "a layout": (["oci:image"], "is not in a registry"),
    "an end": (["ghcr.io/team/"], "ends with a slash"),
    "a port": (["ghcr.io:99999/team"], "port"),
    "a base with a password": (["127.0.0.1:1/x", "--base", "me:secret-word@127.0.0.1:1/y"], "no password in it"),
    "a wrong base": (["127.0.0.1:1/x", "--base", "https://ghcr.io/a/b"], "is an address"),
    "a prefix": (["127.0.0.1:1/x", "--prefix", "/x"], "is not a directory of an image"),
    "a platform": (["127.0.0.1:1/x", "--platform", "windows/amd64"], "is not a platform"),
    "an unknown model": (["127.0.0.1:1/x", "--only", "acme/x"], "not in models.lock or models.toml: acme/x"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_words(root: Tool, words: list[str], told: str) -> None:
    """Exit 2, in words, before anything is asked or hashed."""
    ran = root("push", *words)
    assert (ran.exit_code, ran.out) == (2, "")
    assert told in ran.err
    assert "hint: " in ran.err
    assert "secret-word" not in ran.err
    assert not (root.folder / ".cache-models.layers").exists()


def test_a_login_file_that_is_damaged(root: Tool, registry: StandInRegistry) -> None:
    """Exit 2 that names it."""
    (root.folder.parent / "auth.json").write_text("{")
    ran = root("push", f"{registry.address}/{TEAM}:v1")
    assert (ran.exit_code, "auth.json" in ran.err) == (2, True)
    assert registry.requests == []


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the name registry.test lead to this machine, without looking like it."""
    look_up = socket.getaddrinfo

    def patched(host: str, *more: Any, **others: Any) -> Any:
        return look_up("127.0.0.1" if host == "registry.test" else host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", patched)


def test_plain_http_is_for_those_who_ask_for_it(
    root: Tool, registry: StandInRegistry, named: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on this machine: --insecure, or the variable; and no password goes that way."""
    port = registry.address.rpartition(":")[2]
    registry.site.url = f"http://registry.test:{port}"
    registry.site.realm = f"{registry.site.url}/token"
    ref = f"registry.test:{port}/{TEAM}:v1"
    ran = root("push", ref)
    assert (ran.exit_code, "--insecure (CACHE_MODELS_INSECURE)" in ran.err) == (3, True), ran.err
    assert root("push", ref, "--insecure").exit_code == 0
    monkeypatch.setenv("CACHE_MODELS_INSECURE", "1")
    assert root("push", ref).exit_code == 0
    assert root("sync", "--from", f"docker://{ref}", "--root", "pulled").exit_code == 0
    write_logins(root.folder.parent / "auth.json", {f"registry.test:{port}": LOGIN})
    for kind in ("basic", "bearer"):
        registry.site.login = Login(kind)
        ran = root("push", ref)
        assert (ran.exit_code, "Over plain http no password is sent" in ran.err) == (3, True), ran.err
    assert {request.authorization for request in registry.requests} == {None}
    registry.site.login = Login("bearer", anonymous_pull=True)
    assert root("sync", "--from", f"docker://{ref}", "--root", "again").exit_code == 0


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_login_goes_over_https(
    root: Tool, tmp_path: Path, named: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With a certificate that is trusted; without trust, or with --insecure, it is exit 3 and nothing is heard."""
    certificate = make_certificate(tmp_path / "tls.pem", "DNS:registry.test,IP:127.0.0.1")
    with StandInRegistry(tmp_path / "secure", login=Login(kind), tls=certificate) as registry:  # type: ignore[arg-type]
        port = registry.address.rpartition(":")[2]
        registry.site.url = f"https://registry.test:{port}"
        registry.site.realm = f"{registry.site.url}/token"
        registry.site.redirects = True
        name = f"registry.test:{port}"
        write_logins(tmp_path / "auth.json", {name: LOGIN})
        for words in ([], ["--insecure"]):
            ran = root("push", f"{name}/{TEAM}:v1", *words)
            assert ran.exit_code == 3, ran.err
            assert not words or "leave --insecure out" in ran.err
        assert registry.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for words in (["push", f"{name}/{TEAM}:v1"], ["sync", "--from", f"docker://{name}/{TEAM}:v1", "--root", "new"]):
            ran = root(*words)
            assert ran.exit_code == 0, ran.err
        registry.site.content_url = "http://registry.test:1"
        ran = root("sync", "--from", f"docker://{name}/{TEAM}:v1", "--root", "third")
        assert (ran.exit_code, "leads to plain http" in ran.err) == (3, True), ran.err
