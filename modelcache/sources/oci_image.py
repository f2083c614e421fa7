"""An OCI image, in a layout or a registry, as a source of published models: index, manifest, layers, files.

Digests and sizes of the documents are checked. Of a layer only the tar headers are read. Nothing that an image says
about a layer counts but its type and size: the bytes of a file are checked against its pin while they are copied. An
annotation that names the models of a layer saves the reading of layers that are not needed, and no more.
Without a lock the receipt is the pin, so the digest of the layer that holds it is checked before.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from modelcache.core.errors import IntegrityError, PolicyError, UsageError
from modelcache.core.interfaces import Remote
from modelcache.core.kinds import Kind
from modelcache.core.names import RECEIPT_NAME, sanitize_model_id
from modelcache.core.text import escape, first_lines, join_names
from modelcache.core.types import LARGEST_TEXT, FileSlice, Original
from modelcache.image.descriptors import MODELS, Descriptor, DocumentError
from modelcache.image.documents import read_index, read_manifest
from modelcache.image.tar import CutShortError, EscapingPathError, TarError, entries_of
from modelcache.sources.image_files import ImageFiles, PlacedFile
from modelcache.sources.oci_layout import COPY_AGAIN, WRITE_AGAIN, LocalBlob
from modelcache.system.files import storage_errors

if TYPE_CHECKING:
    from modelcache.sources.registry_image import RemoteBlob

_MOST_DOCUMENTS = 100
_MOST_LAYERS = 1000
_HINT = WRITE_AGAIN.rstrip(".")
_PLAIN_HINT = (
    f"{_HINT}, copy it with `skopeo copy --all --preserve-digests`, which compresses nothing, or build it with"
    " --output type=oci,dest=FILE.tar,compression=uncompressed,force-compression=true."
)


class ImageStore(Protocol):
    """Where an image is: a layout on this machine, or a registry."""

    is_remote: bool
    """Whether its bytes come over the network."""

    def images(self) -> Sequence[Descriptor]:
        """Return the images and indexes that it has by name."""

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or an index, which need not have the right digest."""

    def layer(self, descriptor: Descriptor) -> LocalBlob | RemoteBlob:
        """Return a layer, which has the size of the descriptor."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """The models of an image, and the layers that hold them."""

    files: ImageFiles
    layers: Sequence[tuple[Descriptor, LocalBlob | RemoteBlob]] = ()
    unread: Sequence[str] = ()
    """The layers that cannot be read, with the reason."""
    unusable: UsageError | None = None
    """Why nothing of it could be read."""


class OciImage:
    """The published models of an image; see `PublishedModels`.

    Raises:
        IntegrityError: a blob is missing, or has another size or digest than the image says.
        PolicyError: the image has links, devices or whiteouts among its models, or paths that lead out.
        StorageError: it cannot be read.
        HubError: the registry failed or refused.

    """

    def __init__(self, name: str, store: ImageStore, ref: str = "") -> None:
        self.name = name
        self._store = store
        self._ref = ref
        self._hashed: set[str] = set()
        self._needed: set[str] = set()
        self._found: _Contents | None = None
        self._lock = threading.Lock()

    def expect(self, model_ids: Sequence[str]) -> None:
        """Read the layers that may hold these models, each once."""
        if model_ids:
            self._contents(*model_ids)

    def holds(self, kind: Kind, model_id: str) -> bool:
        """Whether a model has a receipt in the image."""
        return self._contents(model_id).files.holds(kind.spec.collection, sanitize_model_id(model_id))

    def receipt(self, kind: Kind, model_id: str) -> bytes:
        """Return the receipt of a model, from a layer whose digest is right; empty where none is."""
        found = self._find(kind, model_id, RECEIPT_NAME)
        if found is None or found[1].size > LARGEST_TEXT:
            return b""
        (layer, blob), file = found
        with storage_errors(f"read {self.name}", place="--from"):
            self._refuse_other_bytes(layer, blob)
            with blob.reading() as read:
                return read(file.start, file.start + file.size)

    def file(self, kind: Kind, model_id: str, path: str) -> FileSlice | None:
        """Return where a file of a model begins on this machine; None if it is not here."""
        found = self._find(kind, model_id, path)
        if found is None:
            return None
        (_, blob), file = found
        return FileSlice(blob.path, blob.start + file.start) if isinstance(blob, LocalBlob) else None

    def remote(self, kind: Kind, model_id: str) -> Remote | None:
        """Return the source of the files that a registry has."""
        return _RemoteFiles(self, kind, model_id) if self._store.is_remote else None

    def open_file(
        self, kind: Kind, model_id: str, file: Original, start: int, end: int
    ) -> AbstractContextManager[Iterator[list[bytes]]]:
        """Yield the bytes of a file in a registry; IntegrityError if the image has none of that name and size."""
        found = self._find(kind, model_id, file.path)
        if found is not None and found[1].size == file.size:
            (_, blob), placed = found
            if not isinstance(blob, LocalBlob):
                return blob.open(placed.start + start, placed.start + end)
        message = f"{model_id}: {self.name} has no {file.path} with sha256 {file.sha256[:12]}…"
        if unread := self._contents(model_id).unread:
            message = "\n  ".join([f"{message} in the layers that can be read; the others:", *first_lines(unread)])
            raise IntegrityError(message, hint=_PLAIN_HINT)
        raise IntegrityError(
            message,
            hint="The image has another version of the model: make it anew from this lock, or pin the model anew.",
        )

    def place_of(self, kind: Kind, model_id: str) -> str:
        """Return the image, which has its files in several layers."""
        return self.name

    def lack_of(self, model_ids: Sequence[str]) -> UsageError:
        """Return the error for models that it does not hold: it cannot be used, or layers of it could not be read."""
        contents = self._found or _Contents(ImageFiles(self.name))
        should_hold = f"It should hold {join_names(model_ids)}."
        if error := contents.unusable:
            return UsageError(error.message, hint=f"{should_hold} {error.hint}".rstrip())
        if contents.unread:
            message = f"{self.name} does not hold {', '.join(model_ids)} in the layers that can be read; the others:"
            return UsageError("\n  ".join([message, *first_lines(contents.unread)]), hint=_PLAIN_HINT)
        if contents.files.empty and not any(MODELS in layer.annotations for layer in self._layers):
            return UsageError(f"{self.name} holds no models", hint=f"{should_hold} {_HINT}.")
        return UsageError(
            f"{self.name} does not hold {', '.join(model_ids)}", hint=f"{_HINT} from a root that has them."
        )

    def _find(
        self, kind: Kind, model_id: str, path: str
    ) -> tuple[tuple[Descriptor, LocalBlob | RemoteBlob], PlacedFile] | None:
        """Return a file of a model, and the layer that has it."""
        contents = self._contents(model_id)
        found = contents.files.find(kind.spec.collection, sanitize_model_id(model_id), path)
        return (contents.layers[found.layer], found) if found else None

    def _contents(self, *model_ids: str) -> _Contents:
        """Return the contents of the layers that may hold these models, and of those that were needed before.

        An image that cannot be used holds none, which is no error while all are in place.
        """
        with self._lock:
            if self._found and self._found.unusable:
                return self._found
            try:
                with storage_errors(f"read {self.name}", place="--from"):
                    needed = {layer.digest for layer in self._layers if _may_hold(layer, model_ids)}
                    if self._found is None or not needed <= self._needed:
                        self._needed |= needed
                        self._found = self._read()
            except UsageError as error:
                self._found = _Contents(ImageFiles(self.name), unusable=error)
            return self._found

    @cached_property
    def _layers(self) -> Sequence[Descriptor]:
        """The layers of the image that is asked for, the lowest first; of a repeated one the last counts."""
        manifest = self._manifest()
        listed = self._parsed(manifest.digest, read_manifest, self._document(manifest))
        if len(listed) > _MOST_LAYERS:
            raise UsageError(f"{self.name} has more than {_MOST_LAYERS} layers", hint=f"{_HINT}.")
        return list({layer.digest: layer for layer in reversed(listed)}.values())[::-1]

    def _manifest(self) -> Descriptor:
        """Return the first manifest of Linux, as an index has them, of the image that is asked for."""
        waiting = self._of_image([entry for entry in self._store.images() if entry.is_index or entry.is_manifest])
        for _ in range(_MOST_DOCUMENTS):
            if not waiting:
                raise UsageError(f"{self.name} holds no image for Linux", hint=f"{_HINT}.")
            first, *waiting = waiting
            if first.is_manifest and first.is_for_linux:
                return first
            if first.is_index:
                waiting = [*self._parsed(first.digest, read_index, self._document(first)), *waiting][:_MOST_DOCUMENTS]
        raise UsageError(f"{self.name} has more than {_MOST_DOCUMENTS} indexes and manifests", hint=f"{_HINT}.")

    def _of_image(self, entries: Sequence[Descriptor]) -> Sequence[Descriptor]:
        """Return the entries of index.json of one image: the one that is asked for, or the only one."""
        found = [entry for entry in entries if not self._ref or self._ref in _names(entry)]
        if len({entry.image_names for entry in found}) > 1 and len({entry.digest for entry in found}) > 1:
            names = list(dict.fromkeys(escape(entry.image_names[0], 200) for entry in found if entry.image_names))
            text = f"{self.name} holds several images: {join_names(names)}"
            place = self.name.removesuffix(f":{escape(self._ref)}")
            raise UsageError(text, hint=f"Name one image behind a colon, as in {place}:{names[0]}.")
        if self._ref and not found:
            there = [escape(entry.image_names[0], 200) for entry in entries if entry.image_names]
            named = f"Its images are {join_names(there)}." if there else "Its images have no names."
            raise UsageError(f"{self.name}: there is no image of that name", hint=named)
        return found

    def _read(self) -> _Contents:
        """Read the headers of the layers that are needed."""
        files, unread = ImageFiles(self.name), list[str]()
        layers: list[tuple[Descriptor, LocalBlob | RemoteBlob]] = []
        for layer in self._layers:
            if layer.digest not in self._needed:
                continue
            if not layer.is_plain_layer:
                unread.append(f"{layer.digest}, a layer of type {escape(layer.media_type, 100)}")
                continue
            blob = self._store.layer(layer)
            try:
                with blob.reading() as read:
                    entries = files.concerning(entries_of(read, blob.size))
            except CutShortError as error:
                raise IntegrityError(f"{self.name}: layer {layer.digest} {error}", hint=COPY_AGAIN) from None
            except EscapingPathError as error:
                raise PolicyError(f"{self.name}: layer {layer.digest} {error}", hint="Do not use this image.") from None
            except TarError as error:
                unread.append(f"{layer.digest}, which {error}")
                continue
            files.add(len(layers), entries)
            layers.append((layer, blob))
        files.refuse_odd()
        return _Contents(files, layers, unread)

    def _document(self, descriptor: Descriptor) -> bytes:
        """Return a document whose digest is right."""
        content = self._store.document(descriptor)
        self._refuse_other_digest(descriptor, hashlib.sha256(content).hexdigest())
        return content

    def _parsed(self, what: str, parse: Callable[[bytes], list[Descriptor]], content: bytes) -> list[Descriptor]:
        try:
            return parse(content)
        except DocumentError as error:
            raise UsageError(f"{self.name}: {what} {error}", hint=f"{_HINT}.") from None

    def _refuse_other_bytes(self, layer: Descriptor, blob: LocalBlob | RemoteBlob) -> None:
        """Refuse a layer whose bytes are not those of its digest; it is hashed once."""
        if layer.digest not in self._hashed:
            self._refuse_other_digest(layer, blob.sha256())
            self._hashed.add(layer.digest)

    def _refuse_other_digest(self, descriptor: Descriptor, sha256: str) -> None:
        if sha256 != descriptor.hex:
            message = f"{self.name}: the blob {descriptor.digest} has other bytes: its SHA-256 is {sha256}"
            raise IntegrityError(message, hint=COPY_AGAIN)


@dataclass(frozen=True, slots=True)
class _RemoteFiles:
    """The files of one model in a registry."""

    image: OciImage
    kind: Kind
    model_id: str

    def open(self, file: Original, start: int, end: int) -> AbstractContextManager[Iterator[list[bytes]]]:
        return self.image.open_file(self.kind, self.model_id, file, start, end)


def _may_hold(layer: Descriptor, model_ids: Sequence[str]) -> bool:
    """Whether a layer may concern one of these models: one that names its models, and none of these, does not."""
    named = layer.annotations.get(MODELS)
    return named is None or not set(named.split()).isdisjoint(model_ids)


def _names(entry: Descriptor) -> Sequence[str]:
    """Return the names of an image that a user may give: those of its entry, and the short one of an engine."""
    return [short for name in entry.image_names for short in (name, name.removeprefix("docker.io/library/"))]
