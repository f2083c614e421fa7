"""The stand-in registry as a raw HTTP client sees it: the protocol, the logins, the faults."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support.oci_images import MANIFEST, Entry, Layout
from tests.support.proxy import make_certificate
from tests.support.registry import (
    DropHeaders,
    Ending,
    ExpireToken,
    FlipFirst,
    ForgetUpload,
    IgnoreMount,
    IgnoreRange,
    Login,
    NoRanges,
    OtherBytes,
    Reset,
    Short,
    Silent,
    StandInRegistry,
    StopUpload,
    refusal,
)

ROOT = Path(__file__).parents[3]
BYTES = hashlib.shake_256(b"layer").digest(300_000)
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"
BLOB = f"/v2/a/b/blobs/{DIGEST}"
START = "/v2/a/b/blobs/uploads/"


@dataclass(frozen=True)
class Got:
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The spec's word for an error."""
        return str(json.loads(self.body)["errors"][0]["code"])


def ask(url: str, method: str, path: str, body: Any = None, *, context: Any = None, **headers: str) -> Got:
    """Ask on a connection of its own; a path may be a whole address."""
    parts = urlsplit(path if "://" in path else url + path)
    assert parts.netloc
    connection = (
        http.client.HTTPSConnection(parts.netloc, timeout=5, context=context)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc, timeout=5)
    )
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Got(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A small image with one layer, under an index."""
    made = Layout(tmp_path / "layout")
    made.add([Entry("models/file", BYTES)])
    return made.write()


def begin(registry: StandInRegistry, **headers: str) -> str:
    """Start an upload; return its location."""
    got = ask(registry.url, "POST", START, **headers)
    assert got.status == 202
    return got.headers["Location"]


def with_digest(location: str, digest: str = DIGEST) -> str:
    """The address that finishes an upload."""
    return f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"


def basic(login: Login) -> str:
    """A password as a header."""
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def token(challenge: str, method: str = "GET", body: str | None = None, **headers: str) -> Got:
    """Get a token where the challenge says."""
    told = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = f"?service={told['service']}&scope={quote(told.get('scope', ''))}" if method == "GET" else ""
    return ask("", method, told["realm"] + query, body, **headers)


class TestUploads:
    """From the first POST to a blob."""

    @pytest.mark.parametrize("form", ["relative", "absolute", "query", "elsewhere"])
    def test_pieces_become_a_blob(self, registry: StandInRegistry, form: Any) -> None:
        registry.site.upload_location = form
        location = begin(registry)
        for first in (0, 200_000):
            piece = BYTES[first : first + 200_000]
            told = f"{first}-{first + len(piece) - 1}"
            got = ask(registry.url, "PATCH", location, piece, Content_Range=told)
            assert got.status == 202
            location = got.headers["Location"]
        assert got.headers["Range"] == "0-299999"
        got = ask(registry.url, "PUT", with_digest(location))
        assert (got.status, got.headers["Docker-Content-Digest"]) == (201, DIGEST)
        assert registry.blobs("a/b")[DIGEST].read_bytes() == BYTES
        assert [one.received for one in registry.asked(kind="upload body", method="PATCH")] == [200_000, 100_000]
        host = "content" if form == "elsewhere" else "registry"
        assert registry.count(kind="upload body", host=host) == 3

    def test_one_body_becomes_a_blob_also_in_chunks(self, registry: StandInRegistry) -> None:
        for body in (BYTES, iter([BYTES[:1000], BYTES[1000:]])):
            assert ask(registry.url, "PUT", with_digest(begin(registry)), body).status == 201
        assert ask(registry.url, "HEAD", BLOB).headers["Content-Length"] == "300000"

    def test_wrong_bytes_are_refused(self, registry: StandInRegistry) -> None:
        got = ask(registry.url, "PUT", with_digest(begin(registry)), BYTES[1:])
        assert (got.status, got.code) == (400, "DIGEST_INVALID")
        assert registry.blobs("a/b") == {}

    def test_a_piece_from_elsewhere_is_refused_with_the_place(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        ask(registry.url, "PATCH", location, BYTES[:10])
        got = ask(registry.url, "PATCH", location, BYTES[20:], Content_Range="20-299999")
        assert (got.status, got.headers["Range"]) == (416, "0-9")
        assert ask(registry.url, "GET", location).headers["Range"] == "0-9"

    def test_an_old_location_is_refused(self, registry: StandInRegistry) -> None:
        registry.site.upload_location = "query"
        location = begin(registry)
        ask(registry.url, "PATCH", location, BYTES[:10])
        assert ask(registry.url, "PATCH", location, BYTES[10:]).code == "BLOB_UPLOAD_INVALID"

    def test_a_deleted_upload_is_unknown(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        assert ask(registry.url, "DELETE", location).status == 204
        assert ask(registry.url, "PATCH", location, BYTES).code == "BLOB_UPLOAD_UNKNOWN"

    def test_a_blob_of_another_repository_is_mounted(self, registry: StandInRegistry) -> None:
        registry.storage.put_blob("other", BYTES)
        mount = f"{START}?mount={DIGEST}&from=other"
        registry.fail(IgnoreMount(), "upload start")
        assert ask(registry.url, "POST", mount).status == 202
        assert ask(registry.url, "POST", mount).status == 201
        assert ask(registry.url, "POST", mount.replace("other", "nothing")).status == 202
        assert set(registry.blobs("a/b")) == {DIGEST}


class TestManifests:
    """By tag and by digest."""

    def test_an_image_that_was_added_is_read_by_tag_and_digest(self, registry: StandInRegistry, layout: Path) -> None:
        digest = registry.add("a/b", layout, "v1")
        assert registry.tags("a/b") == {"v1": digest}
        for reference in ("v1", digest):
            got = ask(registry.url, "GET", f"/v2/a/b/manifests/{reference}")
            assert got.headers["Docker-Content-Digest"] == digest
            assert got.headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
            assert f"sha256:{hashlib.sha256(got.body).hexdigest()}" == digest
        assert ask(registry.url, "HEAD", "/v2/a/b/manifests/v2").status == 404
        assert ask(registry.url, "GET", "/v2/a/b/manifests/v1", Accept=MANIFEST).code == "MANIFEST_UNKNOWN"

    def test_a_manifest_of_missing_blobs_is_refused(self, registry: StandInRegistry) -> None:
        text = json.dumps({"mediaType": MANIFEST, "layers": [{"digest": DIGEST}]}).encode()
        digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
        got = ask(registry.url, "PUT", "/v2/a/b/manifests/v1", text, Content_Type=MANIFEST)
        assert (got.status, got.code) == (400, "MANIFEST_BLOB_UNKNOWN")
        index = json.dumps({"manifests": [{"digest": digest}]}).encode()
        assert ask(registry.url, "PUT", "/v2/a/b/manifests/v1", index).code == "MANIFEST_BLOB_UNKNOWN"
        registry.storage.put_blob("a/b", BYTES)
        assert ask(registry.url, "PUT", f"/v2/a/b/manifests/{DIGEST}", text).code == "DIGEST_INVALID"
        assert ask(registry.url, "PUT", f"/v2/a/b/manifests/{digest}", text, Content_Type=MANIFEST).status == 201
        assert (registry.tags("a/b"), set(registry.manifests("a/b"))) == ({}, {digest})
        assert ask(registry.url, "PUT", "/v2/a/b/manifests/v1", index).status == 201
        assert ask(registry.url, "PUT", "/v2/a/b/manifests/v1", b"[]").code == "MANIFEST_INVALID"


class TestBlobs:
    """Whole, in parts, and from another host."""

    @pytest.fixture(autouse=True)
    def _blob(self, registry: StandInRegistry) -> None:
        registry.storage.put_blob("a/b", BYTES)

    def test_parts_are_sent(self, registry: StandInRegistry) -> None:
        got = ask(registry.url, "GET", BLOB, Range="bytes=10-19")
        assert (got.status, got.headers["Content-Range"], got.body) == (206, "bytes 10-19/300000", BYTES[10:20])
        assert ask(registry.url, "GET", BLOB, Range="bytes=300000-").status == 416
        assert [(one.range, one.sent) for one in registry.requests] == [("bytes=10-19", 10), ("bytes=300000-", 0)]

    def test_the_content_network_wants_its_signature_and_no_password(self, registry: StandInRegistry) -> None:
        registry.site.redirects = True
        got = ask(registry.url, "GET", BLOB)
        assert (got.status, ask(registry.url, "HEAD", BLOB).status) == (307, 200)
        there = got.headers["Location"]
        assert there.startswith(registry.content_url + "/")
        assert ask("", "GET", there, Range="bytes=299999-").body == BYTES[-1:]
        assert ask("", "GET", there.partition("?")[0]).status == 403
        assert ask("", "GET", there, Authorization="Bearer x").status == 400
        assert [one.authorization for one in registry.asked(host="content")] == [None, None, "Bearer x"]

    def test_whatever_else_is_unknown(self, registry: StandInRegistry) -> None:
        assert ask(registry.url, "GET", BLOB.replace("a/b", "a/c")).code == "BLOB_UNKNOWN"
        assert ask(registry.url, "GET", "/v2/a/../b/tags").code == "NAME_UNKNOWN"
        assert ask(registry.url, "DELETE", BLOB).status == 405


class TestLogins:
    """Passwords and tokens."""

    def test_a_password_opens(self, registry: StandInRegistry) -> None:
        login = registry.site.login = Login("basic")
        got = ask(registry.url, "GET", "/v2/")
        assert (got.status, got.headers["WWW-Authenticate"]) == (401, 'Basic realm="stand-in"')
        assert ask(registry.url, "GET", "/v2/", Authorization=basic(login)).status == 200
        assert ask(registry.url, "GET", "/v2/", Authorization="Basic !").status == 401

    def test_a_token_is_for_what_it_was_asked_for(self, registry: StandInRegistry) -> None:
        login = registry.site.login = Login("bearer")
        registry.site.realm = f"{registry.token_url}/token"
        challenge = ask(registry.url, "HEAD", BLOB).headers["WWW-Authenticate"]
        assert 'scope="repository:a/b:pull"' in challenge
        assert token(challenge).status == 401
        pull = "Bearer " + json.loads(token(challenge, Authorization=basic(login)).body)["token"]
        assert ask(registry.url, "HEAD", BLOB, Authorization=pull).status == 404
        refused = ask(registry.url, "POST", START, Authorization=pull)
        challenge = refused.headers["WWW-Authenticate"]
        assert 'scope="repository:a/b:pull,push",error="insufficient_scope"' in challenge
        push = "Bearer " + json.loads(token(challenge, Authorization=basic(login)).body)["access_token"]
        begin(registry, Authorization=push)
        assert ask(registry.url, "POST", START.replace("a/b", "c"), Authorization=push).status == 401
        mount = ask(registry.url, "POST", f"{START}?mount={DIGEST}&from=c", Authorization=push)
        assert 'scope="repository:a/b:pull,push repository:c:pull"' in mount.headers["WWW-Authenticate"]
        both = (
            "Bearer " + json.loads(token(mount.headers["WWW-Authenticate"], Authorization=basic(login)).body)["token"]
        )
        begin(registry, Authorization=both)
        assert {one.kind for one in registry.requests if (one.authorization or "").startswith("Basic")} == {"token"}
        assert {one.host for one in registry.asked(kind="token")} == {"token"}

    def test_everybody_may_pull_where_that_is_allowed(self, registry: StandInRegistry) -> None:
        registry.site.login = Login("bearer", anonymous_pull=True)
        challenge = ask(registry.url, "POST", START).headers["WWW-Authenticate"]
        given = "Bearer " + json.loads(token(challenge).body)["token"]
        assert ask(registry.url, "HEAD", BLOB, Authorization=given).status == 404
        assert ask(registry.url, "POST", START, Authorization=given).status == 401
        registry.site.login = Login("basic", anonymous_pull=True)
        assert ask(registry.url, "HEAD", BLOB).status == 404
        assert ask(registry.url, "POST", START).status == 401

    def test_an_identity_token_gets_tokens(self, registry: StandInRegistry) -> None:
        registry.site.login = Login("bearer", identity_token="identity", fields=("access_token",))
        challenge = ask(registry.url, "HEAD", BLOB).headers["WWW-Authenticate"]
        form = "grant_type=refresh_token&service=stand-in&scope=repository%3Aa%2Fb%3Apull&refresh_token="
        assert token(challenge, "POST", form + "wrong").status == 401
        given = "Bearer " + json.loads(token(challenge, "POST", form + "identity").body)["access_token"]
        assert ask(registry.url, "HEAD", BLOB, Authorization=given).status == 404

    @pytest.mark.parametrize("login", [Login("bearer", uses=1), Login("bearer", lasts=0), Login("bearer")])
    def test_a_token_ends(self, registry: StandInRegistry, login: Login) -> None:
        registry.site.login = login
        challenge = ask(registry.url, "HEAD", BLOB).headers["WWW-Authenticate"]
        given = "Bearer " + json.loads(token(challenge, Authorization=basic(login)).body)["token"]
        if login.lasts:
            assert ask(registry.url, "HEAD", BLOB, Authorization=given).status == 404
        if login.lasts and login.uses is None:  # the third login knows no other end
            registry.fail(ExpireToken())
        got = ask(registry.url, "HEAD", BLOB, Authorization=given)
        assert 'error="invalid_token"' in got.headers["WWW-Authenticate"]


class TestFaults:
    """Each trouble, as the client meets it."""

    @pytest.fixture(autouse=True)
    def _blob(self, registry: StandInRegistry) -> None:
        registry.storage.put_blob("a/b", BYTES)

    def test_the_nth_of_those_that_fit_is_broken(self, registry: StandInRegistry) -> None:
        fault = refusal(429, "TOOMANYREQUESTS", {"Retry-After": "7"})
        registry.fail(fault, "blob", method="HEAD", on="a/b", nth=3, times=2)
        assert ask(registry.url, "GET", BLOB).status == 200
        assert [ask(registry.url, "HEAD", BLOB).status for _ in range(5)] == [200, 200, 429, 429, 200]
        registry.fail(fault, "blob", host="content", times=-1)
        assert ask(registry.url, "GET", BLOB).status == 200
        registry.fail(fault, times=-1)
        got = ask(registry.url, "GET", "/v2/")
        assert (got.status, got.headers["Retry-After"], got.code) == (429, "7", "TOOMANYREQUESTS")
        registry.mend()
        assert ask(registry.url, "GET", "/v2/").status == 200

    def test_a_refused_upload_changes_nothing(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        registry.fail(refusal(503, "UNAVAILABLE"), "upload body")
        assert ask(registry.url, "PATCH", location, BYTES).status == 503
        assert ask(registry.url, "PUT", with_digest(location), BYTES).status == 201
        assert [one.received for one in registry.asked(kind="upload body")] == [300_000, 300_000]

    def test_a_refusal_may_come_while_the_body_is_sent(self, registry: StandInRegistry) -> None:
        registry.site.reads_refused_bodies = False
        registry.fail(refusal(401, "UNAUTHORIZED"), "upload body")
        connection = http.client.HTTPConnection(registry.address, timeout=5)
        connection.putrequest("PATCH", urlsplit(begin(registry)).path)
        connection.putheader("Content-Length", str(100 * len(BYTES)))
        connection.endheaders(BYTES)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (401, "close")
        connection.close()
        assert registry.asked(method="PATCH")[0].received < 100 * len(BYTES)

    def test_an_upload_that_stalls_is_read_no_further(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        registry.fail(StopUpload(10, Ending.HOLD), "upload body")
        connection = http.client.HTTPConnection(registry.address, timeout=0.2)
        with pytest.raises(TimeoutError):
            connection.request("PATCH", urlsplit(location).path, BYTES * 100)
        connection.close()
        assert registry.asked(method="PATCH")[0].received == 10

    def test_an_answer_that_is_lost_is_one_to_what_was_done(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        registry.fail(Reset(None), "upload body", method="PATCH")
        with pytest.raises(ConnectionResetError):
            ask(registry.url, "PATCH", location, BYTES)
        assert ask(registry.url, "GET", location).headers["Range"] == "0-299999"
        assert registry.asked(method="PATCH")[0].status == 0

    def test_an_upload_that_is_cut_keeps_what_was_read(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        registry.fail(StopUpload(1234), "upload body")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask(registry.url, "PATCH", location, BYTES * 20)
        assert ask(registry.url, "GET", location).headers["Range"] == "0-1233"
        assert registry.asked(method="PATCH")[0].received == 1234

    def test_an_upload_can_be_forgotten(self, registry: StandInRegistry) -> None:
        location = begin(registry)
        registry.fail(ForgetUpload(), "upload body")
        assert ask(registry.url, "PATCH", location, BYTES).code == "BLOB_UPLOAD_UNKNOWN"

    def test_downloads_break(self, registry: StandInRegistry) -> None:
        registry.fail(Reset(1000), "blob")
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            ask(registry.url, "GET", BLOB)
        registry.fail(Short(1000), "blob")
        with pytest.raises(http.client.IncompleteRead):
            ask(registry.url, "GET", BLOB)
        assert [one.sent for one in registry.requests] == [1000, 1000]
        registry.fail(FlipFirst(), "blob")
        assert ask(registry.url, "GET", BLOB).body[1:] == BYTES[1:]

    def test_parts_are_forgotten(self, registry: StandInRegistry) -> None:
        registry.fail(IgnoreRange(), "blob")
        registry.fail(NoRanges(), "blob")
        first, second = [ask(registry.url, "GET", BLOB, Range="bytes=5-6") for _ in range(2)]
        assert (first.status, second.status, first.body, second.body) == (200, 200, BYTES, BYTES)
        assert (first.headers["Accept-Ranges"], second.headers["Accept-Ranges"]) == ("bytes", None)

    def test_a_manifest_can_be_another_one(self, registry: StandInRegistry, layout: Path) -> None:
        digest = registry.add("a/b", layout)
        registry.fail(OtherBytes(b"{}"), "manifest")
        registry.fail(DropHeaders(("Docker-Content-Digest",)), "manifest")
        got = ask(registry.url, "GET", f"/v2/a/b/manifests/{digest}")
        assert (got.body, got.headers["Docker-Content-Digest"]) == (b"{}", digest)
        assert "Docker-Content-Digest" not in ask(registry.url, "GET", f"/v2/a/b/manifests/{digest}").headers

    def test_silence_lasts_to_the_end(self, tmp_path: Path) -> None:
        with StandInRegistry(tmp_path / "silent") as registry:
            registry.fail(Silent())
            connection = http.client.HTTPConnection(registry.address, timeout=0.2)
            connection.request("GET", "/v2/")
            with pytest.raises(TimeoutError):
                connection.getresponse()
        connection.close()


def test_tls_is_spoken_on_every_host(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "certificate.pem")
    context = ssl.create_default_context(cafile=str(certificate))
    with StandInRegistry(tmp_path / "registry", tls=certificate) as registry:
        registry.site.redirects = True
        registry.storage.put_blob("a/b", BYTES)
        there = ask(registry.url, "GET", BLOB, context=context).headers["Location"]
        assert there.startswith("https://")
        assert ask("", "GET", there, context=context).body == BYTES


def test_a_process_serves_a_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.support.registry", str(tmp_path / "registry")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert ask(f"http://{address}", "GET", "/v2/").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
