"""Descriptors of an OCI image: references to blobs, each with a type, a digest, a size, and often a platform.

See https://github.com/opencontainers/image-spec/blob/main/descriptor.md. They are read with every value checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcache.core.names import DIGEST
from modelcache.core.types import LARGEST_FILE

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
INDEX_TYPES = {INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json"}
MANIFEST_TYPES = {MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json"}
_LAYER_TYPES = {LAYER_TYPE, "application/vnd.docker.image.rootfs.diff.tar"}
CONFIG_TYPES = {CONFIG_TYPE, "application/vnd.docker.container.image.v1+json"}

SET_DIGEST, MODELS, FILE_PATH, FILE_OFFSET = (
    f"io.github.cache-models.{key}" for key in ("set-digest", "models", "path", "offset")
)
"""Annotations of a layer: `Layer.set_digest`, the ids of its models, and of its only file the path and the offset."""
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

_PLATFORM = re.compile(r"linux/[a-z0-9_]+(/[a-z0-9._]+)?")
_ATTESTATION = "vnd.docker.reference.type"


class DocumentError(ValueError):
    """A document of an image that cannot be used; the text is the problem, for a sentence that names the document."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and an architecture that an image is for."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform of `linux/arm64` or `linux/arm/v7`; ValueError for anything else."""
        if not _PLATFORM.fullmatch(text):
            raise ValueError(f"{text!r} is not a platform such as linux/amd64")
        system, architecture, *variant = text.split("/")
        return cls(system, architecture, "".join(variant))

    def __str__(self) -> str:
        """Return it as a user may give it."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def fits(self, wanted: Platform) -> bool:
        """Whether it is what a user has asked for; without a variant any one is."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and wanted.variant in ("", self.variant)

    def table(self) -> dict[str, Any]:
        """Return it as configs and descriptors have it."""
        found: dict[str, Any] = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        found |= {"os.version": self.os_version, "os.features": list(self.os_features)}
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
    artifact_type: str = ""
    """Of a manifest: the type of the artifact that it is of, such as a signature."""

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
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """Whether it is of an image, and not of the attestations about one, as BuildKit adds them, or an artifact."""
        is_image = not self.artifact_type or self.artifact_type in CONFIG_TYPES
        return self.media_type in MANIFEST_TYPES and is_image and _ATTESTATION not in self.annotations

    @property
    def is_for_linux(self) -> bool:
        """Whether its platform is Linux, or is not named."""
        return self.platform is None or self.platform.os == "linux"

    @property
    def image_names(self) -> tuple[str, ...]:
        """The names that an entry of index.json gives its image: the full one of an engine, and the tag."""
        found = (self.annotations.get(key, "") for key in (CONTAINERD_NAME, REF_NAME))
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
        if self.artifact_type:
            table["artifactType"] = self.artifact_type
        if self.annotations:
            table["annotations"] = dict(self.annotations)
        return table


def read_descriptor(table: object) -> Descriptor:
    """Return the descriptor of a manifest or an index; DocumentError for a value that is none."""
    match table:
        case {"mediaType": str(media_type), "digest": str(digest), "size": int(size), **rest}:
            annotations = rest.get("annotations") or {}
        case _:
            raise DocumentError("has an entry without mediaType, digest and size")
    if not DIGEST.fullmatch(digest):
        raise DocumentError(f"has the digest {digest[:100]!r}, which is no SHA-256")
    if isinstance(size, bool) or not 0 <= size <= LARGEST_FILE:
        raise DocumentError(f"has {digest} with a size that is no number of bytes")
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise DocumentError(f"has {digest} with annotations that are not strings")
    artifact_type = rest.get("artifactType")
    return Descriptor(
        media_type,
        digest,
        size,
        annotations,
        platform_of(rest.get("platform")),
        artifact_type if isinstance(artifact_type, str) else "",
    )


def platform_of(table: object) -> Platform | None:
    """Return the platform that a descriptor or a config names; None if it names none."""
    match table:
        case {"os": str(system), "architecture": str(architecture), **rest}:
            variant, version, features = (rest.get(key) for key in ("variant", "os.version", "os.features"))
            return Platform(
                system,
                architecture,
                variant if isinstance(variant, str) else "",
                version if isinstance(version, str) else "",
                tuple(one for one in features if isinstance(one, str)) if isinstance(features, list) else (),
            )
    return None
