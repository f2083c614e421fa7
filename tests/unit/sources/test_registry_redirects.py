"""Redirects of a registry: to its content network, in a circle, or to an address that no request may go to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelcache.core.errors import HubError, HubUnreachableError, NotOnHubError
from modelcache.transfer.retry import TransientError
from tests.support.oci_images import MANIFEST
from tests.support.proxy import make_certificate
from tests.support.registry import Short, StandInRegistry, Status
from tests.support.registry.client import BYTES, DIGEST, JSON, connect_to, names_of_this_machine, read_range
from tests.support.registry.site import Kind


@pytest.fixture
def filled(registry: StandInRegistry) -> StandInRegistry:
    """A registry with a blob and a manifest."""
    registry.storage.put_blob("a/b", BYTES)
    registry.storage.put_manifest("a/b", "v1", JSON, MANIFEST)
    return registry


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[StandInRegistry, Path]]:
    """A registry that speaks TLS, with that blob, and its certificate."""
    certificate = make_certificate(tmp_path / "certificate.pem")
    with StandInRegistry(tmp_path / "secured", tls=certificate) as registry:
        registry.storage.put_blob("a/b", BYTES)
        yield registry, certificate


@pytest.mark.parametrize(("start", "end"), [(0, len(BYTES)), (5, 2000)])
def test_a_blob_comes_from_the_content_network(filled: StandInRegistry, start: int, end: int) -> None:
    """The range goes on to it."""
    filled.site.redirects = True
    assert read_range(connect_to(filled.url), start, end) == BYTES[start:end]
    first, second = filled.requests
    assert (first.host, second.host) == ("registry", "content")
    assert first.range == second.range == (None if end == len(BYTES) else "bytes=5-1999")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("form", ["relative", "query", "absolute", "without a scheme"])
def test_every_form_of_a_redirect_is_followed(filled: StandInRegistry, status: int, form: str) -> None:
    """Relative to the address that was asked for."""
    path = f"/v2/a/b/blobs/{DIGEST}"
    location = {
        "relative": path,
        "query": "?signature=x%2Fy",
        "absolute": f"{filled.url}{path}",
        "without a scheme": f"//{filled.address}{path}",
    }[form]
    filled.fail(Status(status, {"Location": location}), "blob")
    assert read_range(connect_to(filled.url)) == BYTES
    assert [request.path for request in filled.requests] == [path, f"{path}{location if form == 'query' else ''}"]


def test_a_manifest_may_be_elsewhere_too(filled: StandInRegistry) -> None:
    """As behind a proxy that was moved."""
    filled.fail(Status(307, {"Location": "/v2/a/b/manifests/v1?moved=1"}), "manifest")
    assert connect_to(filled.url).manifest("v1").content == JSON


@pytest.mark.parametrize("kind", ["blob", "manifest"])
def test_a_circle_ends(filled: StandInRegistry, kind: Kind) -> None:
    """After five redirects; another try would not help."""
    filled.fail(Status(307, {"Location": "?again=1"}), kind, times=-1)
    repository = connect_to(filled.url, retries=3)
    with pytest.raises(HubError, match=r"127\.0\.0\.1 redirects without end") as error:
        repository.manifest("v1") if kind == "manifest" else read_range(repository)
    assert (error.value.retryable, filled.count()) == (False, 6)


@pytest.mark.parametrize("location", ["ftp://host/x", "http://[", "file:///etc/passwd", "http://u:secret@host/x?s=1"])
def test_a_redirect_to_no_address_is_refused(filled: StandInRegistry, location: str) -> None:
    """It is not shown: it may hold a signature or a password."""
    filled.fail(Status(307, {"Location": location}), "blob")
    with pytest.raises(HubError, match="leads to no http address") as error:
        read_range(connect_to(filled.url))
    assert location not in f"{error.value} {error.value.hint}"


def test_a_redirect_from_https_to_plain_http_is_refused(secured: tuple[StandInRegistry, Path]) -> None:
    """Whoever listens on the line could change where it leads."""
    registry, certificate = secured
    assert read_range(connect_to(registry.url, ca_bundle=certificate)) == BYTES
    plain = registry.content_url.replace("https:", "http:")
    registry.fail(Status(307, {"Location": f"{plain}/x?signature=abc"}), "blob")
    registry.forget()
    with pytest.raises(HubError, match=r"127\.0\.0\.1 leads to plain http") as error:
        read_range(connect_to(registry.url, ca_bundle=certificate))
    assert "signature" not in str(error.value)
    assert registry.count() == 1


def test_an_upload_from_https_to_plain_http_is_refused(secured: tuple[StandInRegistry, Path]) -> None:
    """No byte is sent there."""
    registry, certificate = secured
    plain = registry.content_url.replace("https:", "http:")
    registry.fail(Status(202, {"Location": f"{plain}/x"}), "upload start")
    with pytest.raises(HubError, match="leads to plain http"):
        connect_to(registry.url, ca_bundle=certificate).send_blob(DIGEST, len(BYTES), lambda: [BYTES])
    assert registry.count() == 1


def test_blobs_come_over_tls_from_two_hosts(secured: tuple[StandInRegistry, Path]) -> None:
    """As from Docker Hub."""
    registry, certificate = secured
    registry.site.redirects = True
    assert read_range(connect_to(registry.url, ca_bundle=certificate)) == BYTES
    assert registry.count(host="content") == 1
    with pytest.raises(HubError, match="the connection is not secure"):
        read_range(connect_to(registry.url))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_what_the_content_network_refuses_may_be_there_the_next_time(filled: StandInRegistry, status: int) -> None:
    """A signature is no longer good, or a copy is not yet there: the registry is asked for a new address."""
    filled.site.redirects = True
    filled.fail(Status(status), host="content")
    with pytest.raises(TransientError, match=f"status {status}, cannot read the blob"):
        read_range(connect_to(filled.url))
    filled.fail(Status(status), host="content")
    filled.forget()
    assert connect_to(filled.url, retries=1).small_blob(DIGEST, len(BYTES)) == BYTES
    assert [request.host for request in filled.requests] == ["registry", "content", "registry", "content"]


def test_a_content_network_that_goes_on_refusing_is_given_up(filled: StandInRegistry) -> None:
    """It is named."""
    filled.site.redirects = True
    filled.fail(Status(404), host="content", times=-1)
    with names_of_this_machine():
        moved = filled.content_url.replace("127.0.0.1", "content.example")
        filled.site.content_url = moved
        with pytest.raises(HubUnreachableError, match=r"content\.example: status 404.* \(tried 3 times\)"):
            connect_to(filled.url, retries=2).small_blob(DIGEST, len(BYTES))


def test_a_blob_that_the_registry_lacks_is_lacking_whatever_came_before(filled: StandInRegistry) -> None:
    """A redirect within the registry is no content network."""
    absent = f"sha256:{'b' * 64}"
    filled.fail(Status(307, {"Location": "?moved=1"}), "blob")
    with pytest.raises(NotOnHubError, match=f"lacks the blob {absent}"):
        connect_to(filled.url).small_blob(absent, 5)


def test_a_body_that_breaks_at_the_content_network_is_asked_for_again(filled: StandInRegistry) -> None:
    """From the registry on."""
    filled.site.redirects = True
    filled.fail(Short(1000), host="content")
    assert connect_to(filled.url, retries=1).small_blob(DIGEST, len(BYTES)) == BYTES
    assert filled.count() == 4


@pytest.mark.parametrize("method", ["HEAD", "PUT", "POST"])
def test_only_what_is_read_is_redirected(filled: StandInRegistry, method: str) -> None:
    """No blob, no manifest and no upload is sent to another place than the one that the registry named for it."""
    filled.fail(Status(307, {"Location": f"{filled.content_url}/elsewhere"}), method=method, times=-1)
    repository = connect_to(filled.url, retries=1)
    if method == "HEAD":
        assert repository.has_blob(f"sha256:{'c' * 64}", 9)
        assert not repository.has_manifest("v1", DIGEST)
    elif method == "PUT":
        with pytest.raises(HubUnreachableError, match="status 307"):
            repository.put_manifest("v2", MANIFEST, JSON)
    else:
        assert not repository.mount_blob(DIGEST, "other")
    assert filled.count(host="content") == 0
    assert {urlsplit(request.path).path.split("/")[1] for request in filled.requests} == {"v2"}
