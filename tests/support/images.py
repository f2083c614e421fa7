"""Images of models: pins for their plan, the entries of a layer that nobody has written, and images unpacked."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel
from modelcache.formats.receipt import format_receipt
from modelcache.image.descriptors import LAYER_TYPE, Descriptor, Platform
from modelcache.image.documents import image_documents, references_of
from modelcache.image.layers import Layer, plan_layers
from modelcache.image.tar import TarEntry, entries_of
from modelcache.store.hub_view import write_view
from modelcache.store.layout import Places
from modelcache.store.publish import finalize_model, publish, set_collection_mtimes
from tests.support.published_model import written

Seen = dict[str, tuple[str, int, int, bytes | str]]
"""Of everything in a directory, by path: its type, mode, mtime in nanoseconds, and bytes or target."""


def pin(
    model_id: str,
    files: Mapping[str, bytes | int],
    kind: Kind = Kind.EMBEDDING,
    *,
    commit: str = "c" * 40,
    revision: str = "main",
) -> LockedModel:
    """A pinned model; of a file that is only planned, the size is enough."""
    return LockedModel(kind, model_id, revision, commit, tuple(_file(*one) for one in files.items()), "mit")


def _file(path: str, content: bytes | int) -> LockedFile:
    data = content if isinstance(content, bytes) else f"{path} of {content} bytes".encode()
    size = len(content) if isinstance(content, bytes) else content
    return LockedFile(path, size, hashlib.sha256(data).hexdigest())


def entries(layer: Layer) -> list[TarEntry]:
    """The entries of a layer, from its headers; the files of its models are not there."""
    at, starts, pieces = 0, list[int](), list[bytes]()
    for part in layer.parts():
        if isinstance(part, bytes):
            starts.append(at)
            pieces.append(part)
        at += len(part) if isinstance(part, bytes) else part.size

    def read(start: int, end: int) -> bytes:
        number = bisect.bisect(starts, start) - 1
        while start - starts[number] >= len(pieces[number]):
            number += 1  # an empty piece
        found = pieces[number][start - starts[number] :][: end - start]
        assert len(found) == end - start, "a header is one piece"
        return found

    return list(entries_of(read, at))


def document(layout: Path, digest: str) -> dict[str, Any]:
    """A document of a layout, whose bytes have the digest that is its name."""
    content = blob(layout, digest)
    found: dict[str, Any] = json.loads(content)
    return found


def blob(layout: Path, digest: str) -> bytes:
    """A blob of a layout, whose bytes have the digest that is its name."""
    content = (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    return content


def manifests(layout: Path) -> list[dict[str, Any]]:
    """The manifests of the only image of a layout, one a platform."""
    (image,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    return [document(layout, one["digest"]) for one in document(layout, image["digest"])["manifests"]]


def blobs_of(layout: Path) -> set[str]:
    """The names of the blobs that the only image of a layout refers to."""
    (image,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    found = {image["digest"]}
    for one in document(layout, image["digest"])["manifests"]:
        manifest = document(layout, one["digest"])
        found |= {one["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    return {digest.partition(":")[2] for digest in found}


def assert_only_its_image(layout: Path) -> None:
    """Check that a layout holds the blobs of its only image, each with its bytes, and nothing else."""
    names = {path.name for path in (layout / "blobs" / "sha256").iterdir()}
    assert names == blobs_of(layout)
    for name in names:
        blob(layout, f"sha256:{name}")
    assert {path.name for path in layout.iterdir()} == {"oci-layout", "index.json", "blobs"}


def unpacked(layout: Path, into: Path) -> Path:
    """The file system of the only image of a layout, as GNU tar makes it of the layers in their order."""
    into.mkdir()
    first, *others = manifests(layout)
    assert all(other["layers"] == first["layers"] for other in others)
    for layer in first["layers"]:
        archive = layout / "blobs" / layer["digest"].replace(":", "/")
        subprocess.run(["tar", "-xpf", str(archive), "-C", str(into)], check=True, umask=0o077)
    return into


def untarred(archive: Path, into: Path) -> Path:
    """An archive of an image as a directory."""
    into.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(into)], check=True)
    return into


def seen(folder: Path, names: Iterable[str] | None = None) -> Seen:
    """Everything in a directory, or in some of those in it."""
    found: Seen = {}
    for top in sorted(path for path in folder.iterdir() if names is None or path.name in names):
        for path in (top, *sorted(top.rglob("*"))):
            status = path.lstat()
            kind = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}[stat.S_IFMT(status.st_mode)]
            content = {"directory": lambda _: b"", "link": os.readlink, "file": Path.read_bytes}[kind](path)
            found[path.relative_to(folder).as_posix()] = (
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_mtime_ns,
                content,
            )
    return found


def fixed_image() -> dict[str, str | list[str]]:
    """The digests of an image of a small lock: three models, two with a view, one of them with a large file."""
    contents: dict[str, dict[str, bytes]] = {
        "acme/a": {
            "config.json": b"{}",
            "größe/模型.json": b"[]",
            "x" * 120 + ".txt": b"1" * 513,
            "model.safetensors": b"0123456789abcdef" * (1 << 20),
        },
        "acme/b": {"config.json": b"{}", "empty": b""},
        "acme/no--view": {"LICENSE": b"MIT\n"},
    }
    models = [
        pin("acme/a", contents["acme/a"], revision="v1"),
        pin("acme/b", contents["acme/b"], Kind.RERANKER, commit=""),
        pin("acme/no--view", contents["acme/no--view"], Kind.OTHER),
    ]
    layers = plan_layers(models, "models", format_receipt)
    described = [Descriptor(LAYER_TYPE, f"sha256:{_digest(layer, contents)}", layer.size) for layer in layers]
    platforms = [Platform.parse("linux/amd64"), Platform.parse("linux/arm64")]
    found = image_documents(described, [layer.title for layer in layers], platforms)
    configs = [one.digest for one in references_of(found.blobs[found.image.hex])]
    configs = [references_of(found.blobs[digest.partition(":")[2]])[0].digest for digest in configs]
    return {"index": found.image.digest, "configs": configs, "layers": [one.digest for one in described]}


def _digest(layer: Layer, contents: Mapping[str, Mapping[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for part in layer.parts():
        digest.update(part if isinstance(part, bytes) else contents[part.model.id][part.file.path])
    return digest.hexdigest()


def published(root: Path, model: LockedModel, content: Mapping[str, bytes]) -> Path:
    """A model in a root as `sync` leaves it, with its Hub view."""
    home = Places.below(root).home(model.kind, model.id)
    tree = written(home.parent / ".cache-models" / "made" / "tree", content)
    finalize_model(tree, model)
    publish(tree, home)
    shutil.rmtree(home.parent / ".cache-models")
    set_collection_mtimes([home.parent])
    write_view(root / "hub", model)
    return home


def flip(path: Path, position: int = 0) -> None:
    """Change one byte of a file, and nothing that a stat shows."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
