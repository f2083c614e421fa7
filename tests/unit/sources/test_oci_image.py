"""An image as a source: which manifest, which layers, whose digests, and when anything is read at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.cli.progress import QuietReporter
from modelcache.core.errors import IntegrityError, StorageError, UsageError
from modelcache.core.kinds import Kind
from modelcache.formats.receipt import format_receipt
from modelcache.image.reference import Reference
from modelcache.sources.oci_image import OciImage
from modelcache.sources.oci_layout import ImageLayout, LayoutDirectory, LocalBlob
from modelcache.sources.registry_api import RegistryRepository
from modelcache.sources.schemes import open_source, parse_source
from tests.support.baked import Pinned, bake
from tests.support.oci_images import LINUX, REF, Entry, Layout, archive

PINNED = Pinned(files={"config.json": b"{}", "deep/model.safetensors": bytes(range(256)) * 8000})
ID = PINNED.id


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An image of one model, in two layers, not written yet."""
    return Layout.of_root(bake(tmp_path / "baked", PINNED), tmp_path / "image")


def opened(layout: Layout, ref: str = "") -> OciImage:
    """The image as a source."""
    return OciImage("oci:x", ImageLayout(LayoutDirectory(layout.folder, "oci:x"), "oci:x"), ref)


def refuse_to_connect(image: Reference) -> RegistryRepository:
    """Fail: no registry is needed."""
    raise AssertionError(image)


@pytest.mark.parametrize("way", ["oci", "oci-archive"])
def test_a_file_is_a_part_of_a_blob(layout: Layout, tmp_path: Path, way: str) -> None:
    """In a layout and in an archive, with the bytes that the root has."""
    folder = layout.write()
    path = folder if way == "oci" else archive(folder, tmp_path / "one.tar")
    with open_source(parse_source(f"{way}:{path}"), refuse_to_connect, QuietReporter()) as source:
        assert source.holds(Kind.EMBEDDING, ID)
        assert not source.holds(Kind.RERANKER, ID)
        assert source.receipt(Kind.EMBEDDING, ID) == format_receipt(PINNED.model())
        assert source.receipt(Kind.RERANKER, ID) == b""
        for name, content in PINNED.files.items():
            found = source.file(Kind.EMBEDDING, ID, name)
            assert found is not None
            assert found.path.read_bytes()[found.start : found.start + len(content)] == content
        assert source.file(Kind.EMBEDDING, ID, "nothing") is None
        assert source.file(Kind.RERANKER, ID, "config.json") is None


def test_an_image_is_read_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is first asked for a model; the layer of the receipts is hashed once, and no other one."""
    layout.write()
    source, hashed, sha256 = opened(layout), list[Path](), LocalBlob.sha256

    def noting(blob: LocalBlob) -> str:
        hashed.append(blob.path)
        return sha256(blob)

    monkeypatch.setattr(LocalBlob, "sha256", noting)
    assert source.holds(Kind.EMBEDDING, ID)
    (layout.folder / "index.json").unlink()
    assert [source.receipt(Kind.EMBEDDING, ID) for _ in range(3)] == [format_receipt(PINNED.model())] * 3
    assert hashed == [layout.blob(layout.layers[1])]


def test_a_layer_of_other_bytes_has_no_receipts(layout: Layout) -> None:
    """Its files are another matter: their hashes decide."""
    path = layout.blob(layout.layers[1])
    path.write_bytes(path.read_bytes().replace(b"mit", b"bsd"))
    layout.write()
    source = opened(layout)
    assert source.file(Kind.EMBEDDING, ID, "config.json") is not None
    with pytest.raises(IntegrityError, match="has other bytes"):
        source.receipt(Kind.EMBEDDING, ID)


def test_a_layer_that_stands_twice_counts_where_it_stands_last(layout: Layout) -> None:
    """As where an engine unpacks both."""
    layout.add([Entry("models/cached_embedding_models/tinyorg__embedding/config.json", b"other")])
    layout.layers.append(layout.layers[1])
    source = opened(layout)
    layout.write()
    found = source.file(Kind.EMBEDDING, ID, "config.json")
    assert found is not None
    assert found.path == layout.blob(layout.layers[1])


def test_an_image_that_cannot_be_used_holds_nothing(layout: Layout) -> None:
    """So it is no error where nothing is needed of it; the reason is kept."""
    source = opened(layout)
    assert not source.holds(Kind.EMBEDDING, ID)
    assert source.receipt(Kind.EMBEDDING, ID) == b""
    assert source.file(Kind.EMBEDDING, ID, "config.json") is None
    error = source.lack_of([ID])
    assert "has no index.json" in error.message
    assert "`podman save --format oci-archive --uncompressed`" in error.hint
    assert error.hint.startswith(f"It should hold {ID}. ")


def test_an_image_that_cannot_be_read_is_a_fault_of_storage(layout: Layout, tmp_path: Path) -> None:
    """Whether it holds a model cannot be told."""
    with pytest.raises(StorageError):
        OciImage("x", ImageLayout(LayoutDirectory(tmp_path / ("x" * 300), "x"), "x")).holds(Kind.EMBEDDING, ID)


NAMES = {
    "v1": {REF: "v1"},
    "full": {REF: "latest", "io.containerd.image.name": "docker.io/library/models:latest"},
    "none": {},
}


@pytest.mark.parametrize(
    ("names", "ref", "holds"),
    [
        (["v1"], "", True),
        (["none"], "", True),
        (["full"], "", True),
        (["full"], "latest", True),
        (["full"], "models:latest", True),
        (["full"], "docker.io/library/models:latest", True),
        (["full"], "models", False),
        (["none"], "v1", False),
        (["full", "v1"], "", False),
        (["none", "v1"], "", False),
        (["full", "v1"], "v1", True),
        (["v1", "full"], "latest", True),
        (["v1", "v1"], "v1", True),
        (["v1", "v1"], "", True),
    ],
)
def test_the_image_of_a_name(layout: Layout, names: list[str], ref: str, holds: bool) -> None:
    """Without a name it has to be the only one; entries of one name are one image, for several platforms."""
    platforms = [LINUX, {"os": "linux", "architecture": "arm64"}]
    entries = [
        {**layout.manifest(platform=platform), "annotations": NAMES[name]}
        for number, (name, platform) in enumerate(zip(names, platforms, strict=False))
    ]
    for number, entry in enumerate(entries):  # of different digests
        blob = layout.blob(entry)
        other = layout.document(entry["mediaType"], blob.read_bytes() + b" " * number)
        entry |= {"digest": other["digest"], "size": other["size"]}
    layout.write(*entries)
    assert opened(layout, ref).holds(Kind.EMBEDDING, ID) is holds


def lack(layout: Layout, ref: str) -> UsageError:
    """The error for an image that does not hold the model."""
    source = opened(layout, ref)
    source.expect([ID])
    return source.lack_of([ID])


def test_names_are_in_the_error(layout: Layout) -> None:
    """Those that there are."""
    first = {**layout.manifest(), "annotations": NAMES["full"]}
    layout.layers = []
    layout.write(first, {**layout.manifest(), "annotations": NAMES["v1"]})
    error = lack(layout, "")
    assert error.message == "oci:x holds several images: docker.io/library/models:latest, v1"
    assert "oci:x:docker.io/library/models:latest" in error.hint
    error = lack(layout, "v2")
    assert "Its images are docker.io/library/models:latest, v1." in error.hint


def test_layers_that_were_not_read_are_named_where_a_model_is_lacking(layout: Layout) -> None:
    """And nowhere else."""
    layout.add([Entry("usr/x", b"x")], place=0)
    layout.compress(0)
    layout.write()
    source = opened(layout)
    assert source.holds(Kind.EMBEDDING, ID)
    error = source.lack_of(["tinyorg/other"])
    assert "does not hold tinyorg/other" in error.message
    assert layout.layers[0]["digest"] in error.message
    assert layout.layers[1]["digest"] not in error.message
