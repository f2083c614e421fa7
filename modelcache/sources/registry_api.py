"""One repository of an OCI registry: its manifests and blobs, read and written.

Requests as https://github.com/opencontainers/distribution-spec/blob/main/spec.md has them. A blob is sent with two
requests (POST, then PUT of all its bytes), as containerd does, so every registry that Docker pushes to takes it.

Why no library. `oras` 0.2.43 is the only one on PyPI that is kept well and pushes. It uploads files, so each layer
would have to be written to disk before; it reads a blob from its beginning only; and it brings requests and jsonschema
with it, a second HTTP client beside ours, with its own proxies, certificates and retries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from typing import TypeVar
from urllib.parse import quote

from modelcache.core.errors import HubError, IntegrityError, NotOnHubError
from modelcache.core.text import size_in_words
from modelcache.core.types import LARGEST_TEXT
from modelcache.image.descriptors import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from modelcache.image.reference import Reference
from modelcache.sources.registry_auth import RegistryAuth
from modelcache.sources.registry_requests import RegistryRequests
from modelcache.sources.registry_responses import (
    LENGTH,
    ManifestFound,
    check_range,
    error_in,
    location_of,
    manifest_in,
    without_first,
)
from modelcache.sources.responses import body_of, is_redirect, joined
from modelcache.transfer.http_client import HttpClient
from modelcache.transfer.origins import host_of, origin_of
from modelcache.transfer.retry import BusyError, CrowdedError, TransientError

T = TypeVar("T")

_PATIENCE_WITH_A_BLOB = 30.0
"""Timeouts: some registries move a blob to its store, or hash it, before they answer its PUT."""
_MANIFEST_TYPES = ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES))
_OCTETS = {"Content-Type": "application/octet-stream"}
_CHANGED = "A proxy or a cache before the registry may change what it sends: check it, then run this again."


class BrokenCopyError(TransientError):
    """A blob that is sent on came to an early end; the registry that receives it is not the reason."""


class RefusedBlobError(IntegrityError):
    """The registry has computed another digest of a blob that was sent."""


class RegistryRepository:
    """One repository of a registry; several threads may use it."""

    def __init__(self, reference: Reference, auth: RegistryAuth, client: HttpClient, address: str) -> None:
        self.reference = reference
        self.name = f"{reference.registry}/{reference.repository}"
        self._client = client
        self._requests = RegistryRequests(self.name, reference.registry, auth, client, address)
        self._base = f"{address}/v2/{reference.repository}"
        self._origin = origin_of(address)
        self._pull = (f"repository:{reference.repository}:pull",)
        self._push = (f"repository:{reference.repository}:pull,push",)

    def with_retries(self, what: str, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt`, with as many retries as the policy allows; `what` stands in messages."""
        return self._client.with_retries(f"{self.name}: {what}", attempt)

    def manifest(self, wanted: str) -> ManifestFound:
        """Return the manifest or index of a tag or a digest.

        Raises:
            NotOnHubError: there is none.
            IntegrityError: the registry sends other bytes than those of the digest.
            HubError: not allowed, or no usable answer.

        """
        what = f"{self.name}{'@' if ':' in wanted else ':'}{wanted}"

        def attempt() -> ManifestFound:
            url = f"{self._base}/manifests/{wanted}"
            with self._requests.send("GET", url, {"Accept": _MANIFEST_TYPES}, scopes=self._pull) as response:
                if response.status == 404:
                    hint = "Check the name and the tag; a private image needs a login that may read it."
                    raise NotOnHubError(f"there is no image {what}", hint=hint)
                if response.status != 200:
                    raise self._requests.refused(response, f"read {what}")
                return manifest_in(response, what)

        found = self.with_retries(_shortened(wanted), attempt)
        if ":" in wanted and found.descriptor.digest != wanted:
            raise IntegrityError(
                f"{what}: the registry sent another manifest, {found.descriptor.digest}", hint=_CHANGED
            )
        return found

    @contextmanager
    def open_blob(self, digest: str, start: int, end: int, size: int) -> Iterator[Iterator[list[bytes]]]:
        """Yield the bytes of a blob from `start` up to, not including, `end`; requested once, without a retry.

        Raises:
            TransientError: this try failed; another may not.
            NoRangesError: the registry sends the blob from its beginning only, and `start` is far behind that.
            HubError: not there, not allowed.
            IntegrityError: the blob has another size than the image says.

        """
        if start == end:  # no range names it
            yield iter(())
            return
        headers = {"Range": f"bytes={start}-{end - 1}"} if (start, end) != (0, size) else {}
        with self._requests.send("GET", self._blob(digest), headers, scopes=self._pull) as response:
            if response.status == 404 and origin_of(response.url) == self._origin:
                raise NotOnHubError(f"{self.name} lacks the blob {digest}", hint="Push the image again.")
            if response.status not in (200, 206):
                raise self._requests.refused(response, f"read the blob {digest[:19]}")
            check_range(response, self.name, digest, (start, end), size)
            if response.status == 200:
                yield without_first(start, body_of(response, end))
            else:
                yield body_of(response, end - start)

    def small_blob(self, digest: str, size: int) -> bytes:
        """Return a blob, such as the config of an image.

        Raises:
            IntegrityError: its bytes are not those of the digest.
            HubError: it is not there, may not be read, or has more than `LARGEST_TEXT` bytes.

        """
        if size > LARGEST_TEXT:
            raise HubError(
                f"{self.name}: the blob {digest} has {size_in_words(size)}, too much for a config",
                hint="Name another image.",
            )

        def attempt() -> bytes:
            with self.open_blob(digest, 0, size, size) as chunks:
                return joined(chunks)

        content = self.with_retries(digest[:19], attempt)
        if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise IntegrityError(f"{self.name}: the blob {digest} came with other bytes", hint=_CHANGED)
        return content

    def blob_pieces(self, digest: str, size: int) -> Iterator[bytes]:
        """Yield the bytes of a blob, requested once; `BrokenCopyError` where they end early."""
        try:
            with self.open_blob(digest, 0, size, size) as chunks:
                yield from chain.from_iterable(chunks)
        except (BusyError, CrowdedError):  # not counted as failures
            raise
        except TransientError as error:
            raise BrokenCopyError(error.reason, pause=error.pause, hint=error.hint) from error

    def has_manifest(self, wanted: str, digest: str) -> bool:
        """Whether a tag or digest stands for this manifest already; False where the registry does not say."""

        def attempt() -> bool:
            url = f"{self._base}/manifests/{wanted}"
            with self._requests.send(
                "HEAD", url, {"Accept": _MANIFEST_TYPES}, scopes=self._push, raises=False
            ) as response:
                return response.status == 200 and response.headers.get("Docker-Content-Digest") == digest

        return self.with_retries(_shortened(wanted), attempt)

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether the repository has a blob of this size; a registry that does not say counts as one without."""

        def attempt() -> bool:
            with self._requests.send("HEAD", self._blob(digest), {}, scopes=self._push) as response:
                if response.status in (404, 405, 501):
                    return False
                if response.status != 200 and not is_redirect(response):
                    raise self._requests.refused(response, "look for a blob")
                length = response.headers.get("Content-Length", "")
                return response.status != 200 or not LENGTH.fullmatch(length) or int(length) == size

        return self.with_retries(digest[:19], attempt)

    def mount_blob(self, digest: str, repository: str) -> bool:
        """Take a blob from another repository of the registry; False where that is refused, so it has to be sent."""
        scopes = (*self._push, f"repository:{repository}:pull")
        query = f"?mount={quote(digest)}&from={quote(repository, safe='')}"

        def attempt() -> bool:
            headers = {"Content-Length": "0"}
            url = f"{self._base}/blobs/uploads/{query}"
            with self._requests.send("POST", url, headers, scopes=scopes, raises=False) as response:
                status, started = response.status, location_of(response)
            if status == 202 and started:  # it has begun an upload instead
                self._cancel(started)
            return status == 201

        return self.with_retries(digest[:19], attempt)

    def send_blob(self, digest: str, size: int, pieces: Callable[[], Iterable[bytes | memoryview]]) -> None:
        """Send a blob; each try reads the pieces anew.

        Raises:
            RefusedBlobError: the registry computes another digest.
            HubError: not allowed, or not taken.

        """

        def send() -> None:
            location = self._start_upload()
            url = f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"
            headers = {**_OCTETS, "Content-Length": str(size)}
            with self._requests.send(
                "PUT", url, headers, pieces, scopes=self._push, patience=_PATIENCE_WITH_A_BLOB
            ) as response:
                if response.status in (201, 204):
                    return
                if response.status in (404, 416):
                    raise TransientError(f"{host_of(url)}: status {response.status}, the upload is no longer known")
                code, message = error_in(response)
                if code in ("DIGEST_INVALID", "SIZE_INVALID") and response.status != 413:  # that is of its limit
                    hint = "A proxy or a disk may change bytes; run this again."
                    raise RefusedBlobError(f"{self.name} received other bytes than those of {digest}", hint=hint)
                raise self._requests.refused(response, f"take a blob of {size_in_words(size)}", message)

        self._write(digest[:19], send, lambda: self.has_blob(digest, size))

    def put_manifest(self, wanted: str, media_type: str, content: bytes) -> None:
        """Write a manifest or an index under a tag or its digest; HubError if it is not taken."""
        digest = Descriptor.of(media_type, content).digest

        def send() -> None:
            headers = {"Content-Type": media_type, "Content-Length": str(len(content))}
            url = f"{self._base}/manifests/{wanted}"
            with self._requests.send("PUT", url, headers, lambda: content, scopes=self._push) as response:
                if response.status != 201:
                    raise self._requests.refused(response, f"take the manifest {wanted}", error_in(response)[1])

        self._write(_shortened(wanted), send, lambda: self.has_manifest(wanted, digest))

    def _write(self, name: str, send: Callable[[], None], is_there: Callable[[], bool]) -> None:
        """Send a blob or a manifest; before another try ask whether it is there, as after an answer that was lost.

        Some registries let no tag be written twice.
        """
        tries = count()

        def attempt() -> None:
            if not (next(tries) and is_there()):
                send()

        self.with_retries(name, attempt)

    def _start_upload(self) -> str:
        """Return the address that a blob is to be sent to."""
        url = f"{self._base}/blobs/uploads/"
        with self._requests.send("POST", url, {"Content-Length": "0"}, scopes=self._push) as response:
            location = location_of(response)
            if response.status != 202 or not location:
                raise self._requests.refused(response, "begin an upload", error_in(response)[1])
            return location

    def _cancel(self, location: str) -> None:
        """End an upload that is not needed; the registry would do so later."""
        with (
            suppress(HubError, TransientError),
            self._requests.send("DELETE", location, {}, scopes=self._push, raises=False),
        ):
            pass

    def _blob(self, digest: str) -> str:
        return f"{self._base}/blobs/{digest}"


def _shortened(wanted: str) -> str:
    """Return a tag, or the first digits of a digest, for messages."""
    return wanted[:19] if ":" in wanted else wanted
