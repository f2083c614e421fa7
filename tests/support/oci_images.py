"""OCI images made by hand, out of a root: with the standard library alone, so that no fault of ours is in both.

A layout is a directory; `archive` makes one tar of it. Every word of an image can be changed before `write`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
REF = "org.opencontainers.image.ref.name"
LINUX = {"os": "linux", "architecture": "amd64"}
_LARGE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """An entry of a layer; its content is a file or bytes."""

    path: str
    content: bytes | Path = b""
    type: bytes = tarfile.REGTYPE
    target: str = ""
    pax: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    """In the header, where that is a lie."""


def tar(path: Path, entries: Iterable[Entry], *, dialect: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar archive."""
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=dialect) as archive:
        for entry in entries:
            header = tarfile.TarInfo(entry.path)
            header.type, header.linkname, header.pax_headers = entry.type, entry.target, dict(entry.pax)
            if isinstance(entry.content, Path):
                header.size = entry.content.stat().st_size
                with entry.content.open("rb") as content:
                    archive.addfile(header, content)
            elif entry.size is not None:
                header.size = entry.size
                file.write(header.tobuf(tarfile.PAX_FORMAT) + entry.content)
            else:
                header.size = len(entry.content)
                archive.addfile(header, BytesIO(entry.content))
    return path


def entries_of(root: Path, prefix: str = "models") -> list[list[Entry]]:
    """The entries of a root, a layer each: every large file, and for every model the rest, with its Hub view."""
    above = f"{prefix}/" if prefix else ""
    large: list[list[Entry]] = []
    small: list[list[Entry]] = []
    for home in sorted(root.glob("cached_*_models/*__*")):
        view = root / "hub" / f"models--{home.name.replace('__', '--')}"
        entries: list[Entry] = []
        for path in sorted([home, *home.rglob("*"), view, *view.rglob("*")]):
            name = above + path.relative_to(root).as_posix()
            if path.is_symlink():
                entries.append(Entry(name, type=tarfile.SYMTYPE, target=os.readlink(path)))
            elif path.is_dir():
                entries.append(Entry(name, type=tarfile.DIRTYPE))
            elif path.exists() and path.stat().st_size >= _LARGE:
                large.append([Entry(name, path)])
            elif path.exists():
                entries.append(Entry(name, path))
        small.append(entries)
    return [*large, *small]


class Layout:
    """An image layout in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: list[dict[str, Any]] = []
        """The descriptors of the manifest."""
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)

    @classmethod
    def of_root(cls, root: Path, folder: Path, prefix: str = "models") -> Layout:
        """An image of the models of a root, not written yet."""
        layout = cls(folder)
        for entries in entries_of(root, prefix):
            layout.add(entries)
        return layout

    def add(self, entries: Iterable[Entry], *, dialect: int = tarfile.PAX_FORMAT, place: int | None = None) -> Path:
        """Add a layer; return its blob."""
        return self.add_file(tar(self.folder / "layer", entries, dialect=dialect), place=place)

    def add_file(self, file: Path, media_type: str = LAYER, place: int | None = None) -> Path:
        """Add a layer that is written, above the others or at a place among them; return its blob."""
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        descriptor = {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": file.stat().st_size}
        self.layers.insert(len(self.layers) if place is None else place, descriptor)
        shutil.move(file, self._blobs / sha256)
        return self._blobs / sha256

    def compress(self, number: int) -> None:
        """Make a layer a compressed one."""
        plain = self.blob(self.layers[number])
        packed = self.folder / "layer"
        packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
        plain.unlink()
        del self.layers[number]
        self.add_file(packed, f"{LAYER}+gzip", number)

    def blob(self, descriptor: Mapping[str, Any]) -> Path:
        """The file of a blob."""
        return self._blobs / str(descriptor["digest"]).removeprefix("sha256:")

    def document(self, media_type: str, content: object, **more: object) -> dict[str, Any]:
        """Add a document; return its descriptor."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        sha256 = hashlib.sha256(data).hexdigest()
        (self._blobs / sha256).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(data), **more}

    def manifest(self, **more: object) -> dict[str, Any]:
        """Add a config and a manifest with the layers; return its descriptor, with these keys."""
        config = {**LINUX, "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in self.layers]}}
        table = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.document(CONFIG, config),
            "layers": self.layers,
        }
        return self.document(MANIFEST, table, **more)

    def index(self, manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Add an index; return its descriptor."""
        return self.document(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})

    def write(self, *entries: Mapping[str, Any]) -> Path:
        """Write index.json, by default with an index above one manifest; return the folder."""
        if not entries:
            entries = ({**self.index([self.manifest(platform=LINUX)]), "annotations": {REF: "latest"}},)
        table = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        (self.folder / "index.json").write_text(json.dumps(table))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return self.folder


def archive(folder: Path, path: Path) -> Path:
    """Write a layout as one tar archive, as `docker save` and skopeo do."""
    names = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*"))
    entries = [
        Entry(name, folder / name) if (folder / name).is_file() else Entry(name, type=tarfile.DIRTYPE) for name in names
    ]
    return tar(path, entries)
