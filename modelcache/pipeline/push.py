"""Push the published models to a registry as one OCI image, alone or on top of another image.

A layer is sent from the files of the models, and only if the registry lacks it. Its digest is computed once, and noted
(`store.layer_digests`). Manifests go after the layers, and the index, which has the tag, goes last: a push that is
killed leaves whole layers, and the tag as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from modelcache.core.errors import IntegrityError, UsageError
from modelcache.core.text import join_names
from modelcache.image.base import BaseImage, check_layer_count, documents_on, platforms_of, read_base
from modelcache.image.descriptors import Descriptor, DocumentError, Platform
from modelcache.image.documents import ImageDocuments, config_of, read_index
from modelcache.image.layers import Layer
from modelcache.image.reference import Reference
from modelcache.sources.registry_api import RegistryRepository
from modelcache.store.layer_copy import Copy, LayerCopy, layer_pieces
from modelcache.store.layer_digests import LayerDigests
from modelcache.store.layout import Places
from modelcache.system.limits import affordable
from modelcache.system.threads import Pool

_LAYERS_AT_A_TIME = 4
"""One of them is hashed, the others are sent."""


@dataclass(frozen=True, slots=True)
class Base:
    """The image that the models are put on top of."""

    image: Reference
    """As it was named."""
    digest: str
    """Of the manifest or index that has this name."""
    repository: RegistryRepository
    platforms: tuple[BaseImage, ...]

    def documents(self, layers: Sequence[Descriptor], titles: Sequence[str], *, prefix: str) -> ImageDocuments:
        """Return the documents of the image with these layers on top."""
        return documents_on(self.platforms, layers, titles, prefix=prefix, name=str(self.image), digest=self.digest)


def find_base(image: Reference, repository: RegistryRepository, platforms: Sequence[Platform]) -> Base:
    """Return the image to put models on top of, for these platforms; without any, for all that it has for Linux.

    Raises:
        UsageError: it is for other platforms, or models cannot be put on it.
        HubError: it is not there, or may not be read.

    """
    found = repository.manifest(image.wanted)
    top = found.descriptor
    try:
        manifests = platforms_of(read_index(found.content) if top.is_index else [top])
        bases = tuple(
            _base_image(one, found.content if one is top else repository.manifest(one.digest).content, repository)
            for one in manifests
            if _is_wanted(one.platform, platforms)
        )
    except DocumentError as error:
        raise _unusable(image, error) from None
    if missing := [str(one) for one in platforms if not any(base.platform.fits(one) for base in bases)]:
        there = [str(one.platform) for one in manifests if one.platform] or [str(base.platform) for base in bases]
        hint = f"It is for {join_names(there)}; name some of these in --platform."
        raise UsageError(f"{image} is not for {join_names(missing)}", hint=hint)
    return Base(image, top.digest, repository, bases)


def _is_wanted(platform: Platform | None, wanted: Sequence[Platform]) -> bool:
    """Whether an image is for one of the platforms that are wanted; a manifest without an index does not say."""
    return not wanted or platform is None or any(map(platform.fits, wanted))


def _base_image(manifest: Descriptor, content: bytes, repository: RegistryRepository) -> BaseImage:
    config = config_of(content)
    return read_base(manifest, content, repository.small_blob(config.digest, config.size))


def _unusable(image: Reference, error: DocumentError) -> UsageError:
    return UsageError(f"{image} {error}", hint="Name another image in --base.")


@contextmanager
def open_registry(
    layers: Sequence[Layer],
    *,
    repository: RegistryRepository,
    places: Places,
    digests: LayerDigests,
    base: Base | None,
    advance: Callable[..., object],
) -> Iterator[RegistryTarget]:
    """Open a repository for an image; the layers of the base are there before the first of these is added.

    `advance` is that of a `Reporter`; it is called with the number of bytes that were sent.
    """
    target = RegistryTarget(repository, places, digests, advance)
    if base:
        try:
            check_layer_count(base.platforms, len(layers))
        except DocumentError as error:
            raise _unusable(base.image, error) from None
        blobs = {layer.digest: layer.size for platform in base.platforms for layer in platform.layers}
        with Pool(affordable(_LAYERS_AT_A_TIME), "base") as pool:
            list(pool.map(partial(target.take, base), blobs, blobs.values()))
    yield target


class RegistryTarget:
    """A repository that gets an image; `add` may be called by several threads."""

    layers_at_a_time = _LAYERS_AT_A_TIME

    def __init__(
        self, repository: RegistryRepository, places: Places, digests: LayerDigests, advance: Callable[..., object]
    ) -> None:
        self._advance = advance
        self._repository = repository
        self._places = places
        self._digests = digests
        self._hashing = threading.Lock()

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        """Send a layer, unless it is there."""
        noted = self._digests.find(layer)
        try:
            return self._sent(layer, LayerCopy(noted) if noted else self._hashed(layer, copy))
        except IntegrityError:  # a file has changed since it was hashed, so the digest is another one, or the model
            self._digests.forget(layer)
            return self._sent(layer, self._hashed(layer, copy))

    def finish(self, documents: ImageDocuments) -> None:
        """Send configs and manifests, and the index, which gets the tag, last."""
        index = documents.blobs[documents.image.hex]
        manifests = read_index(index)
        names = {documents.image.hex, *(manifest.hex for manifest in manifests)}
        for name, content in documents.blobs.items():
            if name not in names:
                self._send_config(f"sha256:{name}", content)
        for manifest in manifests:
            self._put(manifest.digest, manifest, documents.blobs[manifest.hex])
        self._put(self._repository.reference.tag, documents.image, index)

    def take(self, base: Base, digest: str, size: int) -> None:
        """Bring a blob of the base image, unless it is there: by a mount within the registry, else by a copy."""
        source = base.repository
        if self._repository.has_blob(digest, size) or self._mount(digest, [source.name]):
            return
        self._repository.send_blob(digest, size, lambda: source.blob_pieces(digest, size))

    def _send_config(self, digest: str, content: bytes) -> None:
        if not self._repository.has_blob(digest, len(content)):
            self._repository.send_blob(digest, len(content), lambda: [content])

    def _hashed(self, layer: Layer, copy: Copy) -> LayerCopy:
        with self._hashing:
            facts = self._digests.facts(layer)
            found = copy(layer, None)
        if not found.changed:
            self._digests.note(layer, found.sha256, facts)
        return found

    def _sent(self, layer: Layer, found: LayerCopy) -> LayerCopy:
        return found if found.changed else replace(found, written=self._send(layer, found.sha256))

    def _send(self, layer: Layer, sha256: str) -> bool:
        """Bring a layer to the repository; return whether it was sent."""
        digest = f"sha256:{sha256}"
        sent = not self._repository.has_blob(digest, layer.size)
        if sent and (sent := not self._mount(digest, self._digests.repositories(layer))):
            self._repository.send_blob(digest, layer.size, self._pieces_of(layer))
        self._digests.note_repository(layer, self._repository.name)
        return sent

    def _pieces_of(self, layer: Layer) -> Callable[[], Iterator[bytes | memoryview]]:
        """Return the function that reads the bytes of a layer for a try to send it."""
        sent = 0

        def pieces() -> Iterator[bytes | memoryview]:
            nonlocal sent
            self._advance(-sent, found=True)  # of the try before
            sent = 0
            for piece in layer_pieces(layer, self._places):
                yield piece
                sent += len(piece)
                self._advance(len(piece))

        return pieces

    def _mount(self, digest: str, names: Sequence[str]) -> bool:
        """Take a blob from another repository of the registry that may have it."""
        registry = f"{self._repository.reference.registry}/"
        others = [name.removeprefix(registry) for name in names if name.startswith(registry)]
        wanted = [other for other in others if other != self._repository.reference.repository]
        return any(self._repository.mount_blob(digest, other) for other in wanted[:1])

    def _put(self, wanted: str, manifest: Descriptor, content: bytes) -> None:
        """Write a manifest, unless it is there: some registries let no tag be written twice."""
        if not self._repository.has_manifest(wanted, manifest.digest):
            self._repository.put_manifest(wanted, manifest.media_type, content)
