"""One repository of a registry: the requests that are sent, and the results of their answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from modelcache.core.errors import AccessDeniedError, HubError, IntegrityError, NotOnHubError
from modelcache.core.types import LARGEST_TEXT
from modelcache.image.descriptors import INDEX_TYPES, MANIFEST_TYPES
from modelcache.sources import registry_responses
from modelcache.transfer.retry import NoRangesError, TransientError
from tests.support.hub.faults import Gzip, WrongLength, WrongRange
from tests.support.oci_images import INDEX, MANIFEST, Entry, Layout
from tests.support.registry import (
    DropHeaders,
    Fault,
    FlipFirst,
    Headers,
    IgnoreMount,
    IgnoreRange,
    NoRanges,
    OtherBytes,
    Short,
    StandInRegistry,
    Status,
    refusal,
)
from tests.support.registry.client import BYTES, DIGEST, JSON, JSON_DIGEST, Listener, connect_to, read_range

ABSENT = f"sha256:{'a' * 64}"


@pytest.fixture
def image(registry: StandInRegistry, tmp_path: Path) -> str:
    """The digest of an image under the tag v1; the repository has the blob `BYTES`, too."""
    layout = Layout(tmp_path / "layout")
    layout.add([Entry("models/file", b"x")])
    registry.storage.put_blob("a/b", BYTES)
    return registry.add("a/b", layout.write(), "v1")


class TestManifests:
    """Read by a tag or a digest, looked for, and written."""

    def test_a_manifest_has_its_type_and_its_bytes(self, registry: StandInRegistry, image: str) -> None:
        """By tag and by digest; asked for in every type that is read."""
        repository = connect_to(registry.url)
        by_tag, by_digest = repository.manifest("v1"), repository.manifest(image)
        assert by_tag == by_digest
        assert (by_tag.descriptor.media_type, by_tag.descriptor.digest) == (INDEX, image)
        assert by_tag.content == registry.manifests("a/b")[image].read_bytes()
        accepted = {request.headers["accept"] for request in registry.asked(kind="manifest")}
        assert [set(text.split(", ")) for text in accepted] == [INDEX_TYPES | MANIFEST_TYPES]

    @pytest.mark.parametrize("wanted", ["v2", ABSENT])
    def test_an_absent_manifest_is_not_there(self, registry: StandInRegistry, image: str, wanted: str) -> None:
        """The message has its whole name, and it is asked for once."""
        with pytest.raises(NotOnHubError) as error:
            connect_to(registry.url, retries=3).manifest(wanted)
        assert error.value.message == f"there is no image {registry.address}/a/b{'@' * (':' in wanted) or ':'}{wanted}"
        assert (error.value.exit_code, error.value.retryable, registry.count()) == (3, False, 1)
        assert "Check the name and the tag" in error.value.hint

    def test_a_manifest_with_other_bytes_than_its_digest_is_refused(
        self, registry: StandInRegistry, image: str
    ) -> None:
        """A tag may stand for any bytes, a digest may not."""
        registry.fail(OtherBytes(JSON), "manifest", times=-1)
        assert connect_to(registry.url).manifest("v1").descriptor.digest == JSON_DIGEST
        with pytest.raises(IntegrityError, match=f"the registry sent another manifest, {JSON_DIGEST}"):
            connect_to(registry.url).manifest(image)

    def test_an_endless_manifest_is_not_read_to_its_end(self, registry: StandInRegistry, image: str) -> None:
        """Memory is flat."""
        registry.fail(OtherBytes(bytes(LARGEST_TEXT + 1)), "manifest")
        with pytest.raises(HubError, match="sent a manifest of more than"):
            connect_to(registry.url).manifest("v1")

    def test_a_compressed_manifest_is_not_taken_for_the_manifest(self, registry: StandInRegistry, image: str) -> None:
        """The digest of a tag would be that of the compressed bytes."""
        registry.fail(Gzip(), "manifest")
        reporter = Listener()
        assert connect_to(registry.url, retries=1, reporter=reporter).manifest("v1").descriptor.digest == image
        assert len(reporter.retries) == 1

    @pytest.mark.parametrize(
        ("wanted", "digest", "there"),
        [("v1", "", True), ("v1", ABSENT, False), ("v2", ABSENT, False), (ABSENT, ABSENT, False)],
    )
    def test_a_manifest_is_looked_for(
        self, registry: StandInRegistry, image: str, wanted: str, digest: str, there: bool
    ) -> None:
        """A tag that stands for another one does not count."""
        repository = connect_to(registry.url)
        assert repository.has_manifest(wanted, digest or image) is there
        assert repository.has_manifest(image, image)
        assert {request.method for request in registry.requests} == {"HEAD"}

    @pytest.mark.parametrize(
        "fault", [Status(403), Status(405), Status(501), Status(400), DropHeaders(("docker-content-digest",))], ids=str
    )
    def test_a_registry_that_does_not_say_counts_as_one_without(
        self, registry: StandInRegistry, image: str, fault: Fault
    ) -> None:
        """The manifest is written then."""
        registry.fail(fault, "manifest", method="HEAD")
        assert not connect_to(registry.url).has_manifest("v1", image)

    @pytest.mark.parametrize("wanted", ["v2", JSON_DIGEST])
    def test_a_manifest_is_written(self, registry: StandInRegistry, wanted: str) -> None:
        """Under a tag or its digest, with its type and its bytes."""
        connect_to(registry.url).put_manifest(wanted, MANIFEST, JSON)
        assert registry.manifests("a/b")[JSON_DIGEST].read_bytes() == JSON
        assert connect_to(registry.url).manifest(wanted).descriptor.media_type == MANIFEST
        assert registry.tags("a/b") == ({} if ":" in wanted else {"v2": JSON_DIGEST})

    def test_a_manifest_that_the_registry_does_not_take_is_told_with_its_reason(
        self, registry: StandInRegistry
    ) -> None:
        """A blob of it is lacking: no retry can help."""
        content = json.dumps({"layers": [{"digest": ABSENT}]}).encode()
        with pytest.raises(HubError, match=rf"not take the manifest v1 \(status 400: not there: {ABSENT}\)") as error:
            connect_to(registry.url, retries=3).put_manifest("v1", MANIFEST, content)
        assert (error.value.retryable, registry.count(method="PUT")) == (False, 1)

    def test_a_tag_that_may_not_be_written_twice_is_found_equal(self, registry: StandInRegistry, image: str) -> None:
        """Such a registry refuses to write it; there is no need to."""
        registry.fail(refusal(409, "TAG_IMMUTABLE"), "manifest", method="PUT", times=-1)
        repository = connect_to(registry.url)
        assert repository.has_manifest("v1", image)
        with pytest.raises(HubError, match="told to refuse"):
            repository.put_manifest("v1", MANIFEST, JSON)


class TestBlobs:
    """Read whole or in ranges, looked for, mounted."""

    @pytest.mark.parametrize(("start", "end"), [(0, len(BYTES)), (0, 5), (7, 8), (299_990, 300_000), (1, 299_999)])
    def test_a_range_is_asked_for_and_comes(self, registry: StandInRegistry, image: str, start: int, end: int) -> None:
        """The whole blob without a Range, which some caches do not keep."""
        assert read_range(connect_to(registry.url), start, end) == BYTES[start:end]
        (request,) = registry.requests
        assert request.range == (None if end - start == len(BYTES) else f"bytes={start}-{end - 1}")
        assert request.sent == end - start

    def test_an_absent_blob_is_not_there(self, registry: StandInRegistry) -> None:
        """In messages, too."""
        with pytest.raises(NotOnHubError, match=f"{registry.address}/a/b lacks the blob {DIGEST}"):
            read_range(connect_to(registry.url), 0, 5)

    @pytest.mark.parametrize("fault", [IgnoreRange(), NoRanges()], ids=str)
    def test_a_whole_blob_serves_where_its_beginning_was_asked_for(
        self, registry: StandInRegistry, image: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A little before it is read, too, as the tar header of a file; of more the registry sends too much."""
        registry.fail(fault, "blob", times=-1)
        assert read_range(connect_to(registry.url), 0, 5) == BYTES[:5]
        assert read_range(connect_to(registry.url), 5, 10) == BYTES[5:10]
        monkeypatch.setattr(registry_responses, "_MOST_SKIPPED", 4)
        with pytest.raises(NoRangesError, match="sends whole blobs only"):
            read_range(connect_to(registry.url), 5, 10)

    def test_a_length_of_thousands_of_digits_is_not_read(self, registry: StandInRegistry, image: str) -> None:
        """Python refuses to make a number of it."""
        registry.fail(Headers((("Content-Length", "9" * 5000),)), "blob")
        assert read_range(connect_to(registry.url), 0, len(BYTES)) == BYTES

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (WrongRange(), "asked for bytes 5-9 of a blob, and got others"),
            (DropHeaders(("content-range",)), "asked for bytes 5-9 of a blob, and got others"),
            (Headers((("Content-Range", "bytes 5-x/9"),)), "asked for bytes 5-9 of a blob, and got others"),
            (Gzip(), "compressed"),
            (Status(204), "status 204, cannot read the blob"),
            (Status(304), "status 304, cannot read the blob"),
            (Short(3), "cut short"),
        ],
        ids=str,
    )
    def test_a_wrong_answer_to_a_range_may_be_right_the_next_time(
        self, registry: StandInRegistry, image: str, fault: Fault, told: str
    ) -> None:
        """No byte of it is given on before that is seen."""
        registry.fail(fault, "blob")
        with pytest.raises(TransientError, match=told):
            read_range(connect_to(registry.url), 5, 10)
        assert read_range(connect_to(registry.url), 5, 10) == BYTES[5:10]

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_blob_of_another_size_is_refused(self, registry: StandInRegistry, image: str, whole: bool) -> None:
        """The image says which it has; the registry tells its own with a range or a length."""
        size = len(BYTES) + 1
        with pytest.raises(IntegrityError, match=rf"{DIGEST} has {len(BYTES)} bytes instead of {size}") as error:
            read_range(connect_to(registry.url), 0, size if whole else 5, size)
        assert error.value.exit_code == 1

    def test_a_length_that_is_wrong_is_refused(self, registry: StandInRegistry, image: str) -> None:
        """Before its bytes are read."""
        registry.fail(WrongLength(7), "blob")
        with pytest.raises(IntegrityError, match=f"has {len(BYTES) + 7} bytes instead of {len(BYTES)}"):
            read_range(connect_to(registry.url), 0, len(BYTES))

    def test_a_blob_of_unknown_length_is_read_to_its_size(self, registry: StandInRegistry, image: str) -> None:
        """Some registries behind proxies tell none."""
        registry.fail(DropHeaders(("content-length",)), "blob")
        assert read_range(connect_to(registry.url), 0, len(BYTES)) == BYTES

    def test_a_small_blob_is_checked(self, registry: StandInRegistry, image: str) -> None:
        """Its bytes by their digest; a large one is not even asked for."""
        assert connect_to(registry.url).small_blob(DIGEST, len(BYTES)) == BYTES
        registry.fail(FlipFirst(), "blob")
        with pytest.raises(IntegrityError, match="came with other bytes"):
            connect_to(registry.url).small_blob(DIGEST, len(BYTES))
        registry.forget()
        with pytest.raises(HubError, match=r"has 4\.2 MB"):
            connect_to(registry.url).small_blob(DIGEST, LARGEST_TEXT + 1)
        assert not registry.requests

    @pytest.mark.parametrize(
        ("fault", "there"),
        [(None, True), (Status(404), False), (Status(405), False), (Status(501), False)],
        ids=str,
    )
    def test_a_blob_is_looked_for(
        self, registry: StandInRegistry, image: str, fault: Fault | None, there: bool
    ) -> None:
        """A registry that knows no HEAD counts as one without the blob."""
        if fault:
            registry.fail(fault, "blob", method="HEAD")
        assert connect_to(registry.url).has_blob(DIGEST, len(BYTES)) is there
        assert not connect_to(registry.url).has_blob(ABSENT, len(BYTES))
        assert {request.method for request in registry.requests} == {"HEAD"}

    def test_a_blob_of_another_size_is_another_one(self, registry: StandInRegistry, image: str) -> None:
        """As where the digest was noted for another layer."""
        assert not connect_to(registry.url).has_blob(DIGEST, len(BYTES) + 1)

    def test_a_redirected_blob_is_there(self, registry: StandInRegistry, image: str) -> None:
        """Where HEAD is answered with the address of the content."""
        registry.fail(Status(307, {"Location": f"{registry.content_url}/x"}), "blob", method="HEAD")
        assert connect_to(registry.url).has_blob(DIGEST, len(BYTES))
        assert registry.count(host="content") == 0

    def test_a_blob_that_may_not_be_looked_for_is_refused(self, registry: StandInRegistry, image: str) -> None:
        """The registry's word for HEAD has no body."""
        registry.fail(Status(403), "blob", method="HEAD")
        with pytest.raises(AccessDeniedError, match=f"does not let this run read {registry.address}/a/b"):
            connect_to(registry.url).has_blob(DIGEST, len(BYTES))


class TestMounts:
    """A blob that another repository of the registry has."""

    def test_a_blob_is_mounted(self, registry: StandInRegistry) -> None:
        """With one request."""
        registry.storage.put_blob("base/image", BYTES)
        assert connect_to(registry.url).mount_blob(DIGEST, "base/image")
        assert registry.blobs("a/b").keys() == {DIGEST}
        (request,) = registry.requests
        assert (request.method, request.kind, request.received) == ("POST", "upload start", 0)

    @pytest.mark.parametrize("fault", [None, IgnoreMount()], ids=["absent", "ignored"])
    def test_an_upload_that_was_begun_instead_is_cancelled(
        self, registry: StandInRegistry, tmp_path: Path, fault: Fault | None
    ) -> None:
        """The other repository lacks the blob, or the registry mounts none."""
        if fault:
            registry.storage.put_blob("base/image", BYTES)
            registry.fail(fault, "upload start")
        assert not connect_to(registry.url).mount_blob(DIGEST, "base/image")
        assert [request.method for request in registry.requests] == ["POST", "DELETE"]
        assert not list((tmp_path / "registry").glob("a/b/_uploads/*"))

    @pytest.mark.parametrize("cancel", [Status(404), Status(500), Short(0)], ids=str)
    def test_an_upload_that_cannot_be_cancelled_is_no_failure(self, registry: StandInRegistry, cancel: Fault) -> None:
        """The registry ends it later."""
        registry.fail(cancel, "upload body", method="DELETE")
        assert not connect_to(registry.url).mount_blob(DIGEST, "base/image")

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
    def test_a_mount_that_is_refused_is_no_failure(self, registry: StandInRegistry, status: int) -> None:
        """The blob is sent then."""
        registry.storage.put_blob("base/image", BYTES)
        registry.fail(refusal(status, "DENIED"), "upload start")
        assert not connect_to(registry.url, retries=3).mount_blob(DIGEST, "base/image")
        assert registry.count() == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"errors": [{"code": "X", "message": "it is\\n\\u001b[31mred"}]}', r"status 400: it is \\x1b\[31mred"),
        (b'{"errors": [{"code": "QUOTA"}]}', "status 400: QUOTA"),
        (b'{"errors": []}', r"\(status 400\)"),
        (b'{"errors": [7]}', r"\(status 400\)"),
        (b'{"errors": {"code": 1}}', r"\(status 400\)"),
        (b"[" * 10_000, r"\(status 400\)"),
        (b'{"errors": [{"code": "' + b"x" * 100_000, r"\(status 400\)"),
        (b"<html>no</html>", r"\(status 400\)"),
        (gzip.compress(b"{}", mtime=0), r"\(status 400\)"),
        (b"", r"\(status 400\)"),
    ],
)
def test_the_reason_of_a_registry_is_told_if_it_gives_one(registry: StandInRegistry, body: bytes, told: str) -> None:
    """On one line, without control characters; odd answers have none."""
    registry.fail(Status(400, {}, body), "manifest")
    with pytest.raises(HubError, match=told):
        connect_to(registry.url).put_manifest("v1", MANIFEST, JSON)
