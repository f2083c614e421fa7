"""The documents of an OCI image: config, manifest, index, and the list that older Docker stores read in an archive.

Written as https://github.com/opencontainers/image-spec says, without a date or a version of the tool: equal layers
and platforms give equal bytes. Read with every value checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelcache.core.text import escape
from modelcache.image.descriptors import (
    CONFIG_TYPE,
    CONFIG_TYPES,
    CONTAINERD_NAME,
    INDEX_TYPE,
    MANIFEST_TYPE,
    REF_NAME,
    Descriptor,
    DocumentError,
    Platform,
    read_descriptor,
)

LAYOUT_NAME, INDEX_NAME, ARCHIVE_LIST_NAME = "oci-layout", "index.json", "manifest.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
TAG = "latest"
IMAGE_NAME = f"docker.io/library/cache-models-models:{TAG}"
"""The name that an engine gives the image when it loads it."""

_CREATED = "1980-01-01T00:00:00Z"  # PUBLISHED_MTIME


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """The documents of one image, for all its platforms."""

    blobs: Mapping[str, bytes]
    """Configs, manifests and the index above them, by the name of the blob."""
    image: Descriptor
    """Of that index, with the names of an image that an engine loads; its digest is that of the image."""
    archive_list: bytes = b""
    """manifest.json of an archive, which older Docker stores read; it knows one platform, the first.

    Empty for an image that goes to a registry alone.
    """


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """The image for one platform, of which the documents are yet to be written."""

    platform: Platform
    config: Mapping[str, Any]
    layers: Sequence[Descriptor]
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Of its manifest."""


def image_documents(
    layers: Sequence[Descriptor], titles: Sequence[str], platforms: Sequence[Platform]
) -> ImageDocuments:
    """Return the documents of an image with these layers; `titles` are for people (`docker history`)."""
    images = [PlatformImage(platform, _config(layers, titles, platform), layers) for platform in platforms]
    found = documents_of(images)
    config = Descriptor.of(CONFIG_TYPE, canonical_json(images[0].config))
    archive_list = {
        "Config": _blob_path(config),
        "RepoTags": [IMAGE_NAME.removeprefix("docker.io/library/")],
        "Layers": [_blob_path(layer) for layer in layers],
    }
    named = replace(found.image, annotations={CONTAINERD_NAME: IMAGE_NAME, REF_NAME: TAG})
    return ImageDocuments(found.blobs, named, canonical_json([archive_list]))


def documents_of(images: Iterable[PlatformImage]) -> ImageDocuments:
    """Return the documents of an image that has a manifest for each of these; it has no name and no archive list."""
    blobs: dict[str, bytes] = {}

    def add(media_type: str, document: Mapping[str, Any], platform: Platform | None = None) -> Descriptor:
        content = canonical_json(document)
        descriptor = Descriptor.of(media_type, content, platform)
        blobs[descriptor.hex] = content
        return descriptor

    manifests = []
    for image in images:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": add(CONFIG_TYPE, image.config).table(),
            "layers": _tables(image.layers),
        }
        if image.annotations:
            manifest["annotations"] = dict(image.annotations)
        manifests.append(add(MANIFEST_TYPE, manifest, image.platform))
    return ImageDocuments(blobs, add(INDEX_TYPE, _index(manifests)))


def history_of(titles: Iterable[str], command: str) -> list[dict[str, str]]:
    """Return the entries that layers with these titles have in the history of a config."""
    return [{"created": _CREATED, "created_by": f"cache-models {command}: {title}"} for title in titles]


def index_with(image: Descriptor, found: bytes | None = None) -> bytes:
    """Return index.json of a layout with this image; other images that are `found` there stay, also unread ones.

    DocumentError if these bytes are no index.
    """
    document = _index([]) if found is None else _object(found)
    tables = [table for table in _list(document, "manifests") if isinstance(table, dict)]
    kept = [table for table in tables if not _has_our_tag(table)]
    return canonical_json({**document, **_index([]), "manifests": [*kept, image.table()]})


def read_index(content: bytes) -> list[Descriptor]:
    """Return the descriptors of an index, also of index.json; DocumentError for bytes that are none."""
    return [read_descriptor(table) for table in _list(_object(content), "manifests")]


def read_manifest(content: bytes) -> list[Descriptor]:
    """Return the layers of a manifest, the lowest first; DocumentError for bytes that are none."""
    return [read_descriptor(table) for table in _list(_object(content), "layers")]


def config_of(content: bytes) -> Descriptor:
    """Return the config of a manifest.

    DocumentError for bytes that are no manifest, and for the manifest of an artifact, such as a Helm chart.
    """
    config = read_descriptor(_object(content).get("config"))
    if config.media_type not in CONFIG_TYPES:
        raise DocumentError(f"is no image of a container: its config is of type {escape(config.media_type, 100)!r}")
    return config


def annotations_of(content: bytes) -> Mapping[str, str]:
    """Return the annotations of a manifest or an index that are texts; DocumentError for bytes that are neither."""
    found = _object(content).get("annotations")
    texts = found if isinstance(found, dict) else {}
    return {key: value for key, value in texts.items() if isinstance(value, str)}


def references_of(content: bytes) -> list[Descriptor]:
    """Return all descriptors of an index or a manifest, its config, too; DocumentError for bytes that are neither."""
    document = _object(content)
    tables = [table for key in ("manifests", "layers") if key in document for table in _list(document, key)]
    config = [document["config"]] if "config" in document else []
    return [read_descriptor(table) for table in (*config, *tables)]


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
        "history": history_of(titles, "export"),
    }


def _index(manifests: Iterable[Descriptor]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": _tables(manifests)}


def _tables(descriptors: Iterable[Descriptor]) -> list[dict[str, Any]]:
    return [descriptor.table() for descriptor in descriptors]


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def canonical_json(document: object) -> bytes:
    """Return the one way to write a document; DocumentError for one that is nested too deep."""
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        raise DocumentError("is nested too deep") from None


def json_object(content: bytes) -> dict[str, Any]:
    """Return a document as it is; DocumentError for bytes that are none."""
    document = _parsed(content)
    if not isinstance(document, dict):
        raise DocumentError("is no JSON object")
    return document


def _parsed(content: bytes) -> object:
    try:
        found: object = json.loads(content, parse_float=_number, parse_constant=_number)
    except (ValueError, RecursionError):
        raise DocumentError("is not JSON") from None
    return found


def _number(text: str) -> float:
    """Return a number that JSON can write, so neither NaN nor an endless one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _object(content: bytes) -> Mapping[str, Any]:
    document = _parsed(content)
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise DocumentError("is not of schema version 2")
    return document


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise DocumentError(f"has no list of {key}")
    return value
