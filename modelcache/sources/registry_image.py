"""An image in a registry, as `oci_image` reads it: small layers are fetched whole, of large ones the parts asked for.

A small layer is kept in a temporary directory, once its digest is right, so that its files are copied as those of a
layout. Of a large one the tar headers are read, and its files come in ranges, in parallel and resumed, as from the Hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeVar

from modelcache.core.errors import HubError, IntegrityError
from modelcache.core.interfaces import Reporter
from modelcache.image.descriptors import FILE_PATH, Descriptor
from modelcache.image.reference import Reference
from modelcache.sources.oci_layout import LocalBlob
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.registry_responses import without_first
from modelcache.sources.responses import joined
from modelcache.system.files import storage_errors
from modelcache.transfer.retry import NoRangesError

T = TypeVar("T")

_WHOLE = 64 << 20
"""Bytes up to which layers, all of them together, are fetched whole, but for those that say that they have one file.

In a container the temporary directory may be memory (tmpfs), or may have a limit, whatever the number of the models.
The one file of a layer (`image.layers`) may be in place already, in the older version of its model; then nothing but
its header is read.
"""
_NO_RANGES_HINT = (
    "A layer of many files cannot be read there. Copy the image with `skopeo copy --all --preserve-digests docker://REF"
    " oci-archive:models.tar:latest`, then run `cache-models sync --from oci-archive:models.tar`; or name the registry"
    " behind that cache."
)
_FIRST_WINDOW, _LARGEST_WINDOW = 4 << 10, 1 << 20
"""Bytes of a large layer that are read at a time to find its headers; more and more while these are close together."""
_CLOSE = 256 << 10


class RegistryImage:
    """An image in a registry, as a store of blobs; `folder` is called when the first layer has to be kept."""

    is_remote = True

    def __init__(
        self,
        image: Reference,
        connect: Callable[[], RegistryRepository],
        folder: Callable[[], Path],
        reporter: Reporter,
    ) -> None:
        self._image = image
        self._connect = connect
        self._make_folder = folder
        self._reporter = reporter
        self._documents: dict[str, bytes] = {}
        self._kept: dict[str, int] = {}
        """The sizes of the layers that were fetched whole, by digest."""

    def images(self) -> Sequence[Descriptor]:
        """Return the image or index that the name stands for now; say which that is."""
        found = self._repository.manifest(self._image.wanted)
        digest = found.descriptor.digest
        self._documents[digest] = found.content
        if not self._image.digest:
            text = f"docker://{self._image} is docker://{self._image.at(digest)}"
            self._reporter.event("image", text, image=str(self._image), digest=digest)
        return [found.descriptor]

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index."""
        if descriptor.digest not in self._documents:
            self._documents[descriptor.digest] = self._repository.manifest(descriptor.digest).content
        return self._documents[descriptor.digest]

    def layer(self, descriptor: Descriptor) -> LocalBlob | RemoteBlob:
        """Return a layer: one that is fetched whole, or one to ask for parts."""
        blob = RemoteBlob(self._repository, descriptor)
        if descriptor.digest not in self._kept:
            room = _WHOLE - sum(self._kept.values())
            if descriptor.size > room or FILE_PATH in descriptor.annotations:
                return blob
            self._fetch(blob, self._folder / descriptor.hex)
            self._kept[descriptor.digest] = descriptor.size
        return LocalBlob(self._folder / descriptor.hex, 0, descriptor.size)

    def _fetch(self, blob: RemoteBlob, target: Path) -> None:
        """Fetch a layer; once more if its bytes are others than its digest says."""
        unfinished = target.with_suffix(".unfinished")

        def attempt() -> str:
            digest = hashlib.sha256()
            with (
                blob.open(0, blob.size) as chunks,
                storage_errors(f"write {unfinished}", place="TMPDIR"),
                unfinished.open("wb") as file,
            ):
                for piece in chain.from_iterable(chunks):
                    digest.update(piece)
                    file.write(piece)
            return f"sha256:{digest.hexdigest()}"

        for _ in range(2):
            found = blob.with_retries(attempt)
            if found == blob.digest:
                unfinished.rename(target)
                return
        message = f"docker://{self._image}: the layer {blob.digest} came with other bytes, twice: {found}"
        raise IntegrityError(
            message, hint="A proxy or a cache before the registry may change them; else push it again."
        )

    @cached_property
    def _repository(self) -> RegistryRepository:
        return self._connect()

    @cached_property
    def _folder(self) -> Path:
        with storage_errors("make a temporary directory", place="TMPDIR"):
            return self._make_folder()


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A layer in a registry."""

    repository: RegistryRepository
    descriptor: Descriptor

    @property
    def size(self) -> int:
        """Bytes."""
        return self.descriptor.size

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits."""
        return self.descriptor.digest

    def open(self, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Yield a range of bytes; see `RegistryRepository.open_blob`."""
        return self.repository.open_blob(self.digest, start, end, self.size)

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, int], bytes]]:
        """Yield a function that returns the bytes between two positions, which mostly grow from call to call."""
        window, begins, length = b"", 0, _FIRST_WINDOW

        def read(start: int, end: int) -> bytes:
            nonlocal window, begins, length
            end = min(end, self.size)
            if not begins <= start <= end <= begins + len(window):
                near = window and 0 <= start - begins - len(window) <= _CLOSE
                length = min(2 * length, _LARGEST_WINDOW) if near else _FIRST_WINDOW
                begins, window = start, self._part(start, min(max(end, start + length), self.size))
            return window[start - begins : end - begins]

        yield read

    def sha256(self) -> str:
        """Fetch and hash it, in flat memory."""

        def attempt() -> str:
            digest = hashlib.sha256()
            with self.open(0, self.size) as chunks:
                for piece in chain.from_iterable(chunks):
                    digest.update(piece)
            return digest.hexdigest()

        return self.with_retries(attempt)

    def with_retries(self, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt`, with the retries that the run allows."""
        return self.repository.with_retries(self.digest[:19], attempt)

    def _part(self, start: int, end: int) -> bytes:
        def attempt() -> bytes:
            try:
                with self.open(start, end) as chunks:
                    return joined(chunks)
            except NoRangesError as error:
                if FILE_PATH not in self.descriptor.annotations:  # each header would cost all that is before it
                    raise HubError(error.reason, hint=_NO_RANGES_HINT) from None
            with self.open(0, end) as chunks:  # the end of a layer of one file
                return joined(without_first(start, chunks))

        return self.with_retries(attempt) if start < end else b""
