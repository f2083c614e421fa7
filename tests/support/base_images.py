"""Images of an application as builders leave them in a registry, made by hand, to put models on top of."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.oci_images import CONFIG, INDEX, LAYER, MANIFEST, Entry, Layout, tar
from tests.support.registry import StandInRegistry

REPOSITORY = "team/base"
DOCKER = "application/vnd.docker"
AMD: Mapping[str, Any] = {"os": "linux", "architecture": "amd64"}
ARM: Mapping[str, Any] = {"os": "linux", "architecture": "arm64", "variant": "v8"}
WINDOWS: Mapping[str, Any] = {"os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1"}
_UNKNOWN = {"os": "unknown", "architecture": "unknown"}
_ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}


class Base:
    """Images of an application, in a layout of their own, which one registry gets."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        self.configs: list[dict[str, Any]] = []

    def image(self, platform: Mapping[str, Any] = AMD, *, count: int = 2, docker: bool = False) -> dict[str, Any]:
        """An image of compressed layers, the first of them that of a file system; return its descriptor."""
        layout, diff_ids = self.layout, []
        layout.layers = []
        kind = f"{DOCKER}.image.rootfs.diff.tar.gzip" if docker else f"{LAYER}+gzip"
        for number in range(count):
            name = f"{platform['architecture']}-{number}"
            plain = tar(layout.folder / "plain", [Entry(f"app/{name}", random.Random(name).randbytes(3000))])
            (layout.folder / "packed").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
            diff_ids.append(layout.add_file(plain).name)
            layout.layers.pop()
            layout.add_file(layout.folder / "packed", kind)
        config = {
            **platform,
            "author": "Größe",
            "config": {"Env": ["PATH=/usr/bin", "HF_HUB_OFFLINE=0"], "Cmd": ["app"], "User": "app"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in diff_ids]},
            "history": [
                *({"created_by": f"RUN {number}"} for number in range(count)),
                {"created_by": "USER app", "empty_layer": True},
            ],
        }
        self.configs.append(config)
        media_type = f"{DOCKER}.distribution.manifest.v2+json" if docker else MANIFEST
        config_type = f"{DOCKER}.container.image.v1+json" if docker else CONFIG
        table = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": layout.document(config_type, config),
            "layers": layout.layers,
        }
        return layout.document(media_type, table)

    def attestation(self) -> dict[str, Any]:
        """What BuildKit puts beside an image."""
        statement = self.layout.document("application/vnd.in-toto+json", {"predicate": {}})
        table = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.layout.document(CONFIG, {**_UNKNOWN, "rootfs": {"type": "layers", "diff_ids": []}}),
            "layers": [statement],
        }
        return self.layout.document(MANIFEST, table, platform=_UNKNOWN, annotations=_ATTESTATION)

    def index(self, *entries: Mapping[str, Any], docker: bool = False) -> dict[str, Any]:
        """An index of these."""
        media_type = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else INDEX
        table = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
        return self.layout.document(media_type, table)

    def into(self, registry: StandInRegistry, top: Mapping[str, Any], repository: str = REPOSITORY) -> str:
        """Put an image into a registry; return its name for --base."""
        registry.add(repository, self.layout.write(top), "1")
        return f"{registry.address}/{repository}:1"
