"""An OCI image on this machine, as a source of published models: index, manifest, layers, files.

Digests and sizes of the documents are checked. Of a layer only the tar headers are read. Nothing that an image says
about a layer counts but its type and size: the bytes of a file are checked against its pin while they are copied.
Without a lock the receipt is the pin, so the digest of the layer that holds it is checked before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelcache.core.errors import IntegrityError, PolicyError, UsageError
from modelcache.core.kinds import Kind
from modelcache.core.names import RECEIPT_NAME, sanitize_model_id
from modelcache.core.text import escape, first_lines, join_names, size_in_words
from modelcache.core.types import LARGEST_TEXT, FileSlice
from modelcache.image.documents import INDEX_NAME, Descriptor, DocumentError, read_index, read_manifest
from modelcache.image.tar import CutShortError, EscapingPathError, TarError, entries_of
from modelcache.sources.image_files import ImageFiles, PlacedFile
from modelcache.sources.oci_layout import Blob, Layout
from modelcache.system.files import storage_errors

_MOST_DOCUMENTS = 100
_MOST_LAYERS = 1000
_COPY_AGAIN = "Copy the image again from where it was made."
_HINT = "Write the image again with `cache-models export`"
_PLAIN_HINT = (
    f"{_HINT}, copy it with `skopeo copy --all --preserve-digests`, which compresses nothing, or build it with"
    " --output type=oci,dest=FILE.tar,compression=uncompressed,force-compression=true."
)
_NO_LAYOUT_HINT = (
    "`docker save` before version 25 and `podman save` without --format write another form: load it with `podman load`,"
    " and write it again with `podman save --format oci-archive --uncompressed`."
)


@dataclass(frozen=True, slots=True)
class _Contents:
    """The models of an image, and the layers that hold them."""

    files: ImageFiles
    layers: Sequence[tuple[Descriptor, Blob]] = ()
    unread: Sequence[str] = ()
    """The layers that were not read, with the reason."""
    unusable: UsageError | None = None
    """Why nothing of it could be read."""


class OciImage:
    """The published models of an image; see `PublishedModels`.

    Raises:
        IntegrityError: a blob is missing, or has another size or digest than the image says.
        PolicyError: the image has links, devices or whiteouts among its models, or paths that lead out.
        StorageError: it cannot be read.

    """

    def __init__(self, name: str, layout: Layout, ref: str = "") -> None:
        self.name = name
        self._layout = layout
        self._ref = ref
        self._hashed: set[str] = set()

    def holds(self, kind: Kind, model_id: str) -> bool:
        """Whether a model has a receipt in the image."""
        return self._contents.files.holds(kind.spec.collection, sanitize_model_id(model_id))

    def receipt(self, kind: Kind, model_id: str) -> bytes:
        """Return the receipt of a model, from a layer whose digest is right; empty where none is."""
        found = self._find(kind, model_id, RECEIPT_NAME)
        if found is None or found.size > LARGEST_TEXT:
            return b""
        layer, blob = self._contents.layers[found.layer]
        with storage_errors(f"read {self.name}", place="--from"):
            self._refuse_other_bytes(layer, blob)
            with blob.reading() as read:
                return read(found.start, found.start + found.size)

    def file(self, kind: Kind, model_id: str, path: str) -> FileSlice | None:
        """Return where a file of a model begins; None if the image has none of that name."""
        found = self._find(kind, model_id, path)
        if found is None:
            return None
        _, blob = self._contents.layers[found.layer]
        return FileSlice(blob.path, blob.start + found.start)

    def place_of(self, kind: Kind, model_id: str) -> str:
        """Return the image, which has its files in several layers."""
        return self.name

    def lack_of(self, model_ids: Sequence[str]) -> UsageError:
        """Return the error for models that it does not hold: it cannot be used, or layers of it could not be read."""
        contents, should_hold = self._contents, f"It should hold {join_names(model_ids)}."
        if error := contents.unusable:
            return UsageError(error.message, hint=f"{should_hold} {error.hint}".rstrip())
        if contents.unread:
            message = f"{self.name} does not hold {', '.join(model_ids)} in the layers that can be read; the others:"
            return UsageError("\n  ".join([message, *first_lines(contents.unread)]), hint=_PLAIN_HINT)
        if contents.files.empty:
            return UsageError(f"{self.name} holds no models", hint=f"{should_hold} {_HINT}.")
        return UsageError(
            f"{self.name} does not hold {', '.join(model_ids)}", hint=f"{_HINT} from a root that has them."
        )

    def _find(self, kind: Kind, model_id: str, path: str) -> PlacedFile | None:
        return self._contents.files.find(kind.spec.collection, sanitize_model_id(model_id), path)

    @cached_property
    def _contents(self) -> _Contents:
        """The models of the image; none of one that cannot be used, which is no error while all are in place."""
        try:
            with storage_errors(f"read {self.name}", place="--from"):
                return self._read(self._manifest())
        except UsageError as error:
            return _Contents(ImageFiles(self.name), unusable=error)

    def _manifest(self) -> Descriptor:
        """Return the first manifest of Linux, as an index has them, of the image that is asked for."""
        self._layout.refuse_absent()
        blob = self._layout.find(INDEX_NAME)
        if blob is None:
            raise UsageError(f"{self.name} is no OCI image layout: it has no {INDEX_NAME}", hint=_NO_LAYOUT_HINT)
        entries = self._parsed(INDEX_NAME, read_index, self._small(INDEX_NAME, blob))
        waiting = self._of_image([entry for entry in entries if entry.is_index or entry.is_manifest])
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

    def _read(self, manifest: Descriptor) -> _Contents:
        """Read the headers of the layers."""
        listed = self._parsed(manifest.digest, read_manifest, self._document(manifest))
        if len(listed) > _MOST_LAYERS:
            raise UsageError(f"{self.name} has more than {_MOST_LAYERS} layers", hint=f"{_HINT}.")
        files, layers, unread = ImageFiles(self.name), list[tuple[Descriptor, Blob]](), list[str]()
        for layer in _last_of_each(listed):
            if not layer.is_plain_layer:
                unread.append(f"{layer.digest}, a layer of type {escape(layer.media_type, 100)}")
                continue
            blob = self._blob(layer)
            try:
                with blob.reading() as read:
                    entries = files.concerning(entries_of(read, blob.size))
            except CutShortError as error:
                raise IntegrityError(f"{self.name}: layer {layer.digest} {error}", hint=_COPY_AGAIN) from None
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
        """Return a document whose size and digest are right."""
        content = self._small(descriptor.digest, self._blob(descriptor))
        self._refuse_other_digest(descriptor, hashlib.sha256(content).hexdigest())
        return content

    def _small(self, what: str, blob: Blob) -> bytes:
        if blob.size > LARGEST_TEXT:
            raise UsageError(f"{self.name}: {what} has more than {size_in_words(LARGEST_TEXT)}", hint=f"{_HINT}.")
        with blob.reading() as read:
            return read(0, blob.size)

    def _blob(self, descriptor: Descriptor) -> Blob:
        """Return the blob of a descriptor, which has the size that this says."""
        blob = self._layout.find(f"blobs/sha256/{descriptor.hex}")
        if blob is None:
            raise IntegrityError(f"{self.name} lacks the blob {descriptor.digest}", hint=_COPY_AGAIN)
        if blob.size != descriptor.size:
            message = f"{self.name}: the blob {descriptor.digest} has {blob.size} bytes instead of {descriptor.size}"
            raise IntegrityError(message, hint=_COPY_AGAIN)
        return blob

    def _parsed(self, what: str, parse: Callable[[bytes], list[Descriptor]], content: bytes) -> list[Descriptor]:
        try:
            return parse(content)
        except DocumentError as error:
            raise UsageError(f"{self.name}: {what} {error}", hint=f"{_HINT}.") from None

    def _refuse_other_bytes(self, layer: Descriptor, blob: Blob) -> None:
        """Refuse a layer whose bytes are not those of its digest; it is hashed once."""
        if layer.digest not in self._hashed:
            self._refuse_other_digest(layer, blob.sha256())
            self._hashed.add(layer.digest)

    def _refuse_other_digest(self, descriptor: Descriptor, sha256: str) -> None:
        if sha256 != descriptor.hex:
            message = f"{self.name}: the blob {descriptor.digest} has other bytes: its SHA-256 is {sha256}"
            raise IntegrityError(message, hint=_COPY_AGAIN)


def _last_of_each(layers: Sequence[Descriptor]) -> Sequence[Descriptor]:
    """Return layers without repetitions; the last one counts, as where an engine unpacks them."""
    return list({layer.digest: layer for layer in reversed(layers)}.values())[::-1]


def _names(entry: Descriptor) -> Sequence[str]:
    """Return the names of an image that a user may give: those of its entry, and the short one of an engine."""
    return [short for name in entry.image_names for short in (name, name.removeprefix("docker.io/library/"))]
