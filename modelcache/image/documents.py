"""The documents of an OCI image: config, manifest, index, and the list that older Docker stores read in an archive.

Written as https://github.com/opencontainers/image-spec says, without a date or a version of the tool: equal layers
and platforms give equal bytes. Read with every value checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelcache.core.types import LARGEST_FILE

LAYOUT_NAME, INDEX_NAME, ARCHIVE_LIST_NAME = "oci-layout", "index.json", "manifest.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"

TAG = "latest"
IMAGE_NAME = f"docker.io/library/cache-models-models:{TAG}"
"""The name that an engine gives the image when it loads it."""

SET_DIGEST, FILE_PATH, FILE_OFFSET = (f"io.github.cache-models.{key}" for key in ("set-digest", "path", "offset"))
"""Annotations of a layer: `Layer.set_digest`, and of its only file the path and the offset of the content."""
REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"

_CREATED = "1980-01-01T00:00:00Z"  # PUBLISHED_MTIME
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PLATFORM = re.compile(r"linux/[a-z0-9_]+(/[a-z0-9._]+)?")
_INDEX_TYPES = {INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"}
_MANIFEST_TYPES = {MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"}
_LAYER_TYPES = {LAYER_TYPE, "application/vnd.docker.image.rootfs.diff.tar"}
_ATTESTATION = "vnd.docker.reference.type"


class DocumentError(ValueError):
    """A document of an image that cannot be used; the text is the problem, for a sentence that names the document."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and an architecture that an image is for."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform of `linux/arm64` or `linux/arm/v7`; ValueError for anything else."""
        if not _PLATFORM.fullmatch(text):
            raise ValueError(f"{text!r} is not a platform such as linux/amd64")
        return cls(*text.split("/"))

    def table(self) -> dict[str, str]:
        """Return it as configs and descriptors have it."""
        found = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob: its type, digest and size."""

    media_type: str
    digest: str
    """`sha256:` and 64 hex digits."""
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None

    @classmethod
    def of(cls, media_type: str, content: bytes, platform: Platform | None = None) -> Descriptor:
        """Return the descriptor of these bytes."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return cls(media_type, digest, len(content), platform=platform)

    @property
    def hex(self) -> str:
        """The digest without its algorithm: the name of the blob."""
        return self.digest.partition(":")[2]

    @property
    def is_index(self) -> bool:
        """Whether it is of an index."""
        return self.media_type in _INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """Whether it is of an image, and not of the attestations about one, as BuildKit adds them."""
        return self.media_type in _MANIFEST_TYPES and _ATTESTATION not in self.annotations

    @property
    def is_for_linux(self) -> bool:
        """Whether its platform is Linux, or is not named."""
        return self.platform is None or self.platform.os == "linux"

    @property
    def image_names(self) -> tuple[str, ...]:
        """The names that an entry of index.json gives its image: the full one of an engine, and the tag."""
        found = (self.annotations.get(key, "") for key in (_CONTAINERD_NAME, REF_NAME))
        return tuple(name for name in found if name)

    @property
    def is_plain_layer(self) -> bool:
        """Whether it is of a layer that is not compressed."""
        return self.media_type in _LAYER_TYPES

    def table(self) -> dict[str, Any]:
        """Return it as manifests and indexes have it."""
        table: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform:
            table["platform"] = self.platform.table()
        if self.annotations:
            table["annotations"] = dict(self.annotations)
        return table


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """The documents of one image, for all its platforms."""

    blobs: Mapping[str, bytes]
    """Configs, manifests and the index above them, by the name of the blob."""
    image: Descriptor
    """Of that index, with the names of the image; its digest is that of the image."""
    archive_list: bytes
    """manifest.json of an archive, which older Docker stores read; it knows one platform, the first."""


def image_documents(
    layers: Sequence[Descriptor], titles: Sequence[str], platforms: Sequence[Platform]
) -> ImageDocuments:
    """Return the documents of an image with these layers; `titles` are for people (`docker history`)."""
    blobs: dict[str, bytes] = {}

    def add(media_type: str, document: Mapping[str, Any], platform: Platform | None = None) -> Descriptor:
        content = _json(document)
        descriptor = Descriptor.of(media_type, content, platform)
        blobs[descriptor.hex] = content
        return descriptor

    manifests, configs = [], []
    for platform in platforms:
        config = add(CONFIG_TYPE, _config(layers, titles, platform))
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config.table(), "layers": _tables(layers)}
        manifests.append(add(MANIFEST_TYPE, manifest, platform))
        configs.append(config)
    image = replace(add(INDEX_TYPE, _index(manifests)), annotations={_CONTAINERD_NAME: IMAGE_NAME, REF_NAME: TAG})
    archive_list = {
        "Config": _blob_path(configs[0]),
        "RepoTags": [IMAGE_NAME.removeprefix("docker.io/library/")],
        "Layers": [_blob_path(layer) for layer in layers],
    }
    return ImageDocuments(blobs, image, _json([archive_list]))


def index_with(image: Descriptor, found: bytes | None = None) -> bytes:
    """Return index.json of a layout with this image; other images that are `found` there stay, also unread ones.

    DocumentError if these bytes are no index.
    """
    document = _index([]) if found is None else _object(found)
    tables = [table for table in _list(document, "manifests") if isinstance(table, dict)]
    kept = [table for table in tables if not _has_our_tag(table)]
    return _json({**document, **_index([]), "manifests": [*kept, image.table()]})


def read_index(content: bytes) -> list[Descriptor]:
    """Return the descriptors of an index, also of index.json; DocumentError for bytes that are none."""
    return [_descriptor(table) for table in _list(_object(content), "manifests")]


def read_manifest(content: bytes) -> list[Descriptor]:
    """Return the layers of a manifest, the lowest first; DocumentError for bytes that are none."""
    return [_descriptor(table) for table in _list(_object(content), "layers")]


def references_of(content: bytes) -> list[Descriptor]:
    """Return all descriptors of an index or a manifest, its config, too; DocumentError for bytes that are neither."""
    document = _object(content)
    tables = [table for key in ("manifests", "layers") if key in document for table in _list(document, key)]
    config = [document["config"]] if "config" in document else []
    return [_descriptor(table) for table in (*config, *tables)]


def _has_our_tag(table: Mapping[str, Any]) -> bool:
    """Whether an entry of index.json is of the image that the next one replaces."""
    annotations = table.get("annotations")
    return isinstance(annotations, dict) and annotations.get(REF_NAME) == TAG


def _config(layers: Iterable[Descriptor], titles: Iterable[str], platform: Platform) -> dict[str, Any]:
    return {
        **platform.table(),
        "created": _CREATED,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created": _CREATED, "created_by": f"cache-models export: {title}"} for title in titles],
    }


def _index(manifests: Iterable[Descriptor]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": _tables(manifests)}


def _tables(descriptors: Iterable[Descriptor]) -> list[dict[str, Any]]:
    return [descriptor.table() for descriptor in descriptors]


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise DocumentError("is not JSON") from None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise DocumentError("is not of schema version 2")
    return document


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise DocumentError(f"has no list of {key}")
    return value


def _descriptor(table: object) -> Descriptor:
    match table:
        case {"mediaType": str(media_type), "digest": str(digest), "size": int(size), **rest}:
            annotations = rest.get("annotations") or {}
        case _:
            raise DocumentError("has an entry without mediaType, digest and size")
    if not _DIGEST.fullmatch(digest):
        raise DocumentError(f"has the digest {digest[:100]!r}, which is no SHA-256")
    if isinstance(size, bool) or not 0 <= size <= LARGEST_FILE:
        raise DocumentError(f"has {digest} with a size that is no number of bytes")
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise DocumentError(f"has {digest} with annotations that are no texts")
    return Descriptor(media_type, digest, size, annotations, _platform(rest.get("platform")))


def _platform(table: object) -> Platform | None:
    match table:
        case {"os": str(system), "architecture": str(architecture)}:
            return Platform(system, architecture)
    return None
