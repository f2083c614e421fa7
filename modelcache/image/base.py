"""Models on top of another image: `push --base`. Its layers stay as they are, and its config gets what models need.

A base is read with every value checked that the new documents repeat or count. Docker's media types become those of
https://github.com/opencontainers/image-spec for the same bytes, so that the new manifest is of one kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from modelcache.core.hub_view import HUB_NAME
from modelcache.core.names import DIGEST
from modelcache.core.text import escape, join_names
from modelcache.image.descriptors import LAYER_TYPE, SET_DIGEST, Descriptor, DocumentError, Platform, platform_of
from modelcache.image.documents import (
    ImageDocuments,
    PlatformImage,
    annotations_of,
    canonical_json,
    config_of,
    documents_of,
    history_of,
    json_object,
    read_manifest,
)

MOST_LAYERS_IN_ALL = 120
"""Docker takes 125 layers (maxLayerDepth of moby's layer/layer_store.go), and other engines 127.

The rest is for a build that takes the image as its own base.
"""
MOST_PLATFORMS = 100
BASE_NAME, BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
"""Annotations of a manifest (https://github.com/opencontainers/image-spec/blob/main/annotations.md)."""

_COMMAND = "push"
_OUR_HISTORY = ("cache-models push: ", "cache-models export: ")
_DOCKER_LAYER, _OCI_LAYER = "application/vnd.docker.image.rootfs.diff.tar", LAYER_TYPE
_LAYER_TYPES = {
    _DOCKER_LAYER: _OCI_LAYER,
    f"{_DOCKER_LAYER}.gzip": f"{_OCI_LAYER}+gzip",
    f"{_DOCKER_LAYER}.zstd": f"{_OCI_LAYER}+zstd",
    **{kind: kind for kind in (_OCI_LAYER, f"{_OCI_LAYER}+gzip", f"{_OCI_LAYER}+zstd")},
}
"""The layers that are taken, and the type that each has in the new manifest."""
_FOREIGN_LAYER = re.compile(
    r"application/vnd\.(docker\.image\.rootfs\.foreign\.|oci\.image\.layer\.nondistributable\.).*"
)
_SCHEMA_1 = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)")


@dataclass(frozen=True, slots=True)
class BaseImage:
    """One platform of the image that the models are put on top of."""

    manifest: Descriptor
    platform: Platform
    config: Mapping[str, Any]
    """As it was read, with the keys that are not known here."""
    layers: tuple[Descriptor, ...]
    """Of the same blobs, with the media types of OCI."""


def platforms_of(entries: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """Return the manifests of the images for Linux in an index (`read_index`), in its order.

    Attestations and artifacts are left out. DocumentError if nothing is left, or if the index holds another index.
    """
    entries = tuple(entries)
    if any(entry.is_index for entry in entries):
        raise DocumentError("is an index that holds another index, of which the platforms are not known")
    _refuse_schema_1(*entries)
    images = [entry for entry in entries if entry.is_manifest]
    found = tuple(image for image in images if image.is_for_linux)
    if len(found) > MOST_PLATFORMS:
        raise DocumentError(f"is for more than {MOST_PLATFORMS} platforms")
    if not found:
        others = join_names([f"{one.platform.os}/{one.platform.architecture}" for one in images if one.platform])
        raise DocumentError("holds no image for Linux" + (f", but for {others}" if others else ""))
    return found


def read_base(descriptor: Descriptor, manifest: bytes, config: bytes) -> BaseImage:
    """Return one platform of a base image: these bytes have the digests of `descriptor` and `config_of(manifest)`.

    DocumentError for a base that cannot be used: it is no image of a container for Linux, its layers may not be
    copied, it has models of this tool already, or its documents contradict each other.
    """
    _refuse_schema_1(descriptor)
    config_of(manifest)
    layers = read_manifest(manifest)
    document = json_object(config)
    _refuse_models(layers, document, annotations_of(manifest))
    platform = _platform(descriptor.platform, document)
    _check_diff_ids(document, len(layers))
    _env(_settings(document))
    canonical_json(document)  # one that is nested too deep is refused before any layer is sent
    return BaseImage(descriptor, platform, document, tuple(_oci_layer(layer) for layer in layers))


def check_layer_count(bases: Iterable[BaseImage], count: int) -> None:
    """DocumentError if one of these bases and `count` layers of models have more layers than engines take."""
    most = max((len(base.layers) for base in bases), default=0)
    if most + count > MOST_LAYERS_IN_ALL:
        raise DocumentError(
            f"has {most} layers, and the models have {count}: engines take no more than {MOST_LAYERS_IN_ALL} safely"
        )


def documents_on(
    bases: Sequence[BaseImage],
    layers: Sequence[Descriptor],
    titles: Sequence[str],
    *,
    prefix: str,
    name: str,
    digest: str,
) -> ImageDocuments:
    """Return the documents of an image for the platforms of `bases`, with these uncompressed layers above theirs.

    Equal arguments give equal bytes. DocumentError for more than `MOST_LAYERS_IN_ALL` layers.

    Args:
        bases: one a platform, in the order of the index
        layers: of the models, the lowest first
        titles: one a layer, for people (`docker history`)
        prefix: the directory of the models in the image, such as `models`, without a slash before it
        name: of the base, in full: `registry/repository:tag`
        digest: of the manifest or the index that has this name

    """
    check_layer_count(bases, len(layers))
    annotations = {BASE_NAME: name, BASE_DIGEST: digest}
    return documents_of(
        PlatformImage(base.platform, _config(base, layers, titles, prefix), (*base.layers, *layers), annotations)
        for base in bases
    )


def _config(base: BaseImage, layers: Sequence[Descriptor], titles: Sequence[str], prefix: str) -> dict[str, Any]:
    """Return the config of a base with these layers in it, and the environment that finds the models."""
    config, settings, rootfs = base.config, _settings(base.config), base.config["rootfs"]
    added = {"CACHE_MODELS_ROOT": f"/{prefix}", "HF_HUB_CACHE": f"/{prefix}/{HUB_NAME}", "HF_HUB_OFFLINE": "1"}
    kept = [one for one in _env(settings) if one.partition("=")[0] not in added]
    changed: dict[str, Any] = {
        "config": {**settings, "Env": [*kept, *(f"{key}={value}" for key, value in added.items())]},
        "rootfs": {**rootfs, "diff_ids": [*rootfs["diff_ids"], *(layer.digest for layer in layers)]},
    }
    # Engines match the entries that are not of an empty layer with the layers, by their order. Where a base has fewer
    # or more of them, ours would be taken for those of other layers, so its history stays as it is.
    history = config.get("history") or []
    if _layers_in(history) == len(base.layers):
        changed["history"] = [*history, *history_of(titles, _COMMAND)]
    return {**config, **changed}


def _layers_in(history: object) -> int:
    """Return how many layers a history tells of; -1 for a value that is none."""
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        return -1
    return sum(not entry.get("empty_layer") for entry in history)


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that a container runs with: its environment, command and user."""
    found = config.get("config") or {}
    if not isinstance(found, dict):
        raise DocumentError("has a config whose `config` is not an object")
    return found


def _env(settings: Mapping[str, Any]) -> list[str]:
    found = settings.get("Env") or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise DocumentError("has a config whose `Env` is not a list of strings")
    return found


def _oci_layer(layer: Descriptor) -> Descriptor:
    """Return the same layer with the media type that OCI has for its bytes."""
    if _FOREIGN_LAYER.fullmatch(layer.media_type):
        raise DocumentError(f"has the layer {layer.digest}, which its vendor lets no other registry hold")
    if layer.media_type not in _LAYER_TYPES:
        kind = escape(layer.media_type, 100)
        raise DocumentError(f"has the layer {layer.digest} of type {kind!r}, which is no layer of a file system")
    return replace(layer, media_type=_LAYER_TYPES[layer.media_type])


def _refuse_schema_1(*descriptors: Descriptor) -> None:
    if any(_SCHEMA_1.fullmatch(descriptor.media_type) for descriptor in descriptors):
        raise DocumentError("is of schema version 1, which has no layers by digest: build it again, and push that")


def _refuse_models(layers: Iterable[Descriptor], config: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
    """Refuse an image that holds models of this tool already: those that the lock no longer names would stay in it.

    An engine that stores images in a form of its own loses the annotations of layers, and keeps the history.
    """
    history = config.get("history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    in_history = any(str(entry.get("created_by")).startswith(_OUR_HISTORY) for entry in entries)
    if in_history or any(SET_DIGEST in layer.annotations for layer in layers):
        base = annotations.get(BASE_NAME)
        named = f", which is {escape(base, 300)}" if base else ""
        raise DocumentError(f"has models of cache-models in it already: name the image without them{named}")


def _platform(named: Platform | None, config: Mapping[str, Any]) -> Platform:
    """Return the platform that the index names, else that of the config."""
    found = named or platform_of(config)
    if found is None:
        raise DocumentError("has a config without os and architecture")
    for system in (found.os, config.get("os", found.os)):
        if system != "linux":
            raise DocumentError(f"is for {escape(str(system), 100)}, and models are put on images for Linux")
    return found


def _check_diff_ids(config: Mapping[str, Any], count: int) -> None:
    match config.get("rootfs"):
        case {"diff_ids": list(found)}:
            pass
        case _:
            raise DocumentError("has a config without a list of rootfs.diff_ids")
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in found):
        raise DocumentError("has a config with rootfs.diff_ids that are no SHA-256")
    if len(found) != count:
        raise DocumentError(f"has {count} layers, and a config with rootfs.diff_ids of {len(found)}")
