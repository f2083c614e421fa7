"""`sync --from` an image that lies, is damaged, or is made to do harm: an exit code and words, and nothing else."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDING, RERANKER, Tool
from tests.support.hub import StandInHub
from tests.support.oci_images import LINUX, MANIFEST, REF, Entry, Layout, archive, tar

HOME = "models/cached_embedding_models/tinyorg__embedding"
VIEW = "models/hub/models--tinyorg--embedding"
LINK, HARD_LINK, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
Spoil = Callable[[Layout], object]


def adding(*entries: Entry, dialect: int = tarfile.PAX_FORMAT, place: int | None = None) -> Spoil:
    """A layer more, on top."""
    return lambda layout: layout.add(entries, dialect=dialect, place=place)


def instead(content: bytes, media_type: str = "application/vnd.oci.image.layer.v1.tar") -> Spoil:
    """No layer but one with these bytes."""

    def spoil(layout: Layout) -> None:
        layout.layers = []
        (layout.folder / "layer").write_bytes(content)
        layout.add_file(layout.folder / "layer", media_type)

    return spoil


def layer(change: Callable[[Path], object]) -> Spoil:
    """Other bytes in the blob of the first layer, of which index and manifest know nothing."""
    return lambda layout: change(layout.blob(layout.layers[0]))


def saying(**keys: Any) -> Spoil:
    """Other words about the first layer."""
    return lambda layout: layout.layers[0].update(keys)


def written(change: Callable[[Layout, dict[str, Any]], object]) -> Spoil:
    """A layout that is changed after it was written; the descriptor is that of the manifest."""

    def spoil(layout: Layout) -> None:
        manifest = layout.manifest(platform=LINUX)
        layout.write({**manifest, "annotations": {REF: "latest"}})
        change(layout, manifest)

    return spoil


def index_says(**keys: Any) -> Spoil:
    """Other words about the manifest."""
    return lambda layout: layout.write({**layout.manifest(platform=LINUX), **keys})


def replace_by_link(path: Path) -> None:
    """Move a blob away and leave a link to it."""
    path.symlink_to(path.rename(path.parents[2] / "elsewhere"))


def cut(path: Path) -> None:
    """Cut the last block off."""
    os.truncate(path, path.stat().st_size - 512)


def lengthen(path: Path) -> None:
    """Append megabytes of nothing."""
    os.truncate(path, path.stat().st_size + (16 << 20))


def flip(path: Path) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty_directory(path: Path) -> None:
    """Put a directory in the place of a file."""
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    """Put a pipe, whose reader would wait for ever, in the place of a file."""
    path.unlink()
    os.mkfifo(path)


def nested(layout: Layout) -> None:
    """Indexes in indexes in indexes."""
    entry = layout.manifest(platform=LINUX)
    for _ in range(200):
        entry = layout.index([entry])
    layout.write(entry)


def ending_early(layout: Layout) -> None:
    """A header that claims a gigabyte, and nothing behind it."""
    entry = Entry(f"{HOME}/model.safetensors", size=1 << 30)
    layout.add_file(tar(layout.folder / "layer", [entry]))


def many_layers(layout: Layout) -> None:
    """More layers than any engine takes."""
    for number in range(1001):
        layout.layers.append({**layout.layers[0], "digest": f"sha256:{number:064x}"})


def sparse_file() -> bytes:
    """A layer with a sparse file as GNU tar writes it in PAX."""
    header = tarfile.TarInfo(f"{HOME}/vocab.txt")
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    return header.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def index_of(content: bytes) -> Spoil:
    """An index.json with these bytes."""

    def change(layout: Layout, _: dict[str, Any]) -> None:
        (layout.folder / "index.json").write_bytes(content)

    return written(change)


DOCUMENTS: dict[str, tuple[Spoil, int, str]] = {
    "no index": (written(lambda layout, _: (layout.folder / "index.json").unlink()), 2, "it has no index.json"),
    "an index that is no JSON": (index_of(b"{"), 2, "index.json is not JSON"),
    "an index of nothing": (index_of(b'{"schemaVersion": 2}'), 2, "index.json has no list of manifests"),
    "an index without end": (index_of(b" " * (5 << 20)), 2, "index.json has more than 4.2 MB"),
    "an index of deep lists": (index_of(b"[" * 100_000), 2, "index.json is not JSON"),
    "an index that is a link": (
        written(lambda layout, _: replace_by_link(layout.folder / "index.json")),
        1,
        "index.json is no plain file",
    ),
    "another manifest": (written(lambda layout, found: flip(layout.blob(found))), 1, "has other bytes"),
    "no manifest": (written(lambda layout, found: layout.blob(found).unlink()), 1, "lacks the blob sha256:"),
    "a longer manifest": (written(lambda layout, found: lengthen(layout.blob(found))), 1, "bytes instead of"),
    "a manifest that is a pipe": (written(lambda layout, found: pipe(layout.blob(found))), 1, "is no plain file"),
    "a manifest without end": (
        lambda layout: layout.write(layout.document(MANIFEST, b" " * (5 << 20), platform=LINUX)),
        2,
        "has more than 4.2 MB",
    ),
    "a manifest that is none": (lambda layout: layout.write(layout.document(MANIFEST, [])), 2, "schema version 2"),
    "a digest that is a path": (index_says(digest="sha256:../../../../etc/passwd"), 2, "which is no SHA-256"),
    "a size that is none": (index_says(size=-1), 2, "a size that is no number of bytes"),
    "indexes without end": (nested, 2, "more than 100 indexes"),
    "no image for Linux": (index_says(platform={"os": "windows", "architecture": "amd64"}), 2, "no image for Linux"),
    "an attestation alone": (
        index_says(annotations={"vnd.docker.reference.type": "attestation-manifest"}),
        2,
        "no image for Linux",
    ),
    "an index of attestations": (lambda layout: layout.write(layout.index([])), 2, "no image for Linux"),
    "layers without end": (many_layers, 2, "more than 1000 layers"),
    "a layer whose digest is a path": (saying(digest="sha256:../../../../etc/passwd"), 2, "which is no SHA-256"),
    "an annotation that is a list": (saying(annotations=["x"]), 2, "annotations that are not strings"),
}
LAYERS: dict[str, tuple[Spoil, int, str]] = {
    "no layer": (layer(Path.unlink), 1, "lacks the blob sha256:"),
    "a shorter layer": (layer(cut), 1, "bytes instead of"),
    "a layer without end": (layer(lengthen), 1, "bytes instead of"),
    "a layer that is a link": (layer(replace_by_link), 1, "is no plain file"),
    "a layer that is a directory": (layer(empty_directory), 1, "is no plain file"),
    "a layer that is a pipe": (layer(pipe), 1, "is no plain file"),
    "a size that lies": (saying(size=1), 1, "bytes instead of 1"),
    "no models": (instead(bytes(1024)), 2, "holds no models"),
    "no tar archive": (instead(random.Random(1).randbytes(5000)), 2, "which is no tar archive"),
    "a compressed layer that says it is none": (instead(gzip.compress(bytes(1024))), 2, "which is compressed"),
    "a compressed layer": (
        instead(gzip.compress(bytes(1024)), "application/vnd.oci.image.layer.v1.tar+gzip"),
        2,
        "a layer of type application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    "a sparse file": (instead(sparse_file()), 2, "of another tar dialect"),
    "a file that is not all there": (ending_early, 1, "is cut short"),
    "a path above": (adding(Entry(f"{HOME}/../../../../evil", b"x")), 5, "which leads out of it"),
    "an absolute path": (adding(Entry("/evil", b"x")), 5, "which leads out of it"),
    "an absolute path in PAX": (adding(Entry("good", b"x", pax={"path": "/evil"})), 5, "which leads out of it"),
    "a link out of a model": (
        adding(Entry(f"{HOME}/vocab.txt", type=LINK, target="/etc/passwd")),
        5,
        "vocab.txt is a link to /etc/passwd",
    ),
    "a model that is a link": (adding(Entry(HOME, type=LINK, target="/etc")), 5, "tinyorg__embedding is a link"),
    "a collection that is a link": (
        adding(Entry(HOME.rpartition("/")[0], type=LINK, target="/etc")),
        5,
        "cached_embedding_models is a link",
    ),
    "models that are a link": (adding(Entry("models", type=LINK, target="/etc")), 5, "models replaces or removes"),
    "a hard link": (
        adding(Entry(f"{HOME}/vocab.txt", type=HARD_LINK, target="etc/passwd")),
        5,
        "vocab.txt is a device, pipe or hard link",
    ),
    "a device": (adding(Entry(f"{HOME}/vocab.txt", type=tarfile.BLKTYPE)), 5, "vocab.txt is a device"),
    "a whiteout": (adding(Entry(f"{HOME}/.wh.vocab.txt")), 5, ".wh.vocab.txt removes a file"),
    "an opaque whiteout": (adding(Entry(f"{HOME}/.wh..wh..opq")), 5, ".wh..wh..opq removes"),
    "a whiteout of all": (adding(Entry(".wh.models")), 5, ".wh.models replaces or removes models"),
    "an opaque whiteout of all": (adding(Entry(".wh..wh..opq")), 5, "replaces or removes /"),
    "a link in the view": (
        adding(Entry(f"{VIEW}/snapshots/{'c' * 40}/vocab.txt", type=LINK, target="../../blobs/x")),
        5,
        "vocab.txt is a link to ../../blobs/x",
    ),
    "a link of the view that leads elsewhere": (
        adding(
            Entry(f"{VIEW}/snapshots/x/y", type=LINK, target="../../../../cached_embedding_models/x/../../../../etc")
        ),
        5,
        "y is a link to ../../../../cached_embedding_models",
    ),
    "a view that is a link": (adding(Entry("models/hub", type=LINK, target="/etc")), 5, "hub is a link to /etc"),
    "a hard link in the view": (
        adding(Entry(f"{VIEW}/refs/main", type=HARD_LINK, target="etc/passwd")),
        5,
        "refs/main is a device, pipe or hard link",
    ),
    "other bytes of a file": (adding(Entry(f"{HOME}/vocab.txt", b"x")), 1, "has no vocab.txt with sha256"),
    "a directory in the place of a file": (
        adding(Entry(f"{HOME}/vocab.txt", type=DIRECTORY)),
        1,
        "has no vocab.txt with sha256",
    ),
    "other bytes of the same size": (layer(flip), 1, " with sha256 "),
}


@pytest.fixture
def ground(pair: Tool, hub: StandInHub, tmp_path: Path) -> Layout:
    """The tool with a lock and no models, and an image of them."""
    assert pair("sync", "--root", str(tmp_path / "baked")).exit_code == 0
    hub.close()
    (tmp_path / "image").mkdir()
    return Layout.of_root(tmp_path / "baked", tmp_path / "image" / "layout")


def facts_below(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Stat everything below a directory but the root of the tool, for a comparison."""
    return {
        str(path): (status.st_mode, status.st_size, status.st_mtime_ns)
        for path in folder.rglob("*")
        if "work" not in path.relative_to(folder).parts
        for status in [path.lstat()]
    }


def assert_refused(tool: Tool, source: str, code: int, words: str, tmp_path: Path) -> None:
    """Check the exit code and the words, that nothing is published, and that nothing is written elsewhere."""
    before = facts_below(tmp_path)
    ran = tool("sync", "--from", source)
    assert (ran.exit_code, words in ran.err) == (code, True), ran.err
    assert "Traceback" not in ran.err
    assert source.partition(":")[2] in ran.err
    assert facts_below(tmp_path) == before
    for home in (tool.home(EMBEDDING), tool.home(RERANKER, "reranker")):
        assert not home.exists() or code == 1  # then the other model may be whole
    assert tool("verify").exit_code == 1
    if code == 1:
        assert not tool.home(EMBEDDING).exists() or not tool.home(RERANKER, "reranker").exists()


CASES = DOCUMENTS | LAYERS
ON_DISK = {f"{what} that is a {other}" for what in ("an index", "a manifest", "a layer") for other in ("link", "pipe")}
ON_DISK.add("a layer that is a directory")


@pytest.mark.parametrize("name", CASES)
def test_a_layout_that_lies(ground: Layout, pair: Tool, tmp_path: Path, name: str) -> None:
    """With a lock: the message says the fault, and the models are as pinned or not there."""
    spoil, code, words = CASES[name]
    spoil(ground)
    if not (ground.folder / "oci-layout").exists():
        ground.write()
    assert_refused(pair, f"oci:{ground.folder}", code, words, tmp_path)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ON_DISK])
def test_an_archive_that_lies(ground: Layout, pair: Tool, tmp_path: Path, name: str) -> None:
    """The same in one tar archive."""
    spoil, code, words = CASES[name]
    spoil(ground)
    if not (ground.folder / "oci-layout").exists():
        ground.write()
    source = f"oci-archive:{archive(ground.folder, tmp_path / 'image' / 'one.tar')}"
    assert_refused(pair, source, code, words, tmp_path)


ARCHIVES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), 1, "is cut short"),
    "compressed": (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), 2, "is compressed"),
    "empty": (lambda path: path.write_bytes(b""), 2, "it has no index.json"),
    "text": (lambda path: path.write_text("x" * 2000), 2, "is no tar archive"),
    "gone": (Path.unlink, 2, "there is no file"),
    "a directory": (empty_directory, 2, "is no file"),
    "a pipe": (pipe, 2, "is no file"),
    "a path above": (lambda path: tar(path, [Entry("../evil", b"x")]), 5, "leads out of it"),
    "a link to index.json": (
        lambda path: tar(path, [Entry("index.json", type=LINK, target="/etc/passwd")]),
        1,
        "index.json is no plain file",
    ),
    "another dialect": (
        lambda path: tar(path, [Entry("x" * 200, b"x")], dialect=tarfile.GNU_FORMAT),
        2,
        "of another tar dialect",
    ),
    "of Docker before 25": (
        lambda path: tar(path, [Entry("manifest.json", b"[]"), Entry("0/layer.tar", bytes(1024))]),
        2,
        "it has no index.json",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_none(ground: Layout, pair: Tool, tmp_path: Path, name: str) -> None:
    """Damaged on its way, or another thing."""
    spoil, code, words = ARCHIVES[name]
    path = archive(ground.write(), tmp_path / "image" / "one.tar")
    spoil(path)
    assert_refused(pair, f"oci-archive:{path}", code, words, tmp_path)


def test_a_layout_that_is_none(ground: Layout, pair: Tool, tmp_path: Path) -> None:
    """A directory of other things, a file, nothing; and a root or an archive that is given as a layout."""
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "baked", "it has no index.json"),
        (tmp_path / "file", "is no directory"),
        (tmp_path / "nowhere", "there is no directory"),
    ):
        assert_refused(pair, f"oci:{path}", 2, words, tmp_path)


def test_without_a_lock_a_receipt_has_to_be_of_its_layer(ground: Layout, pair: Tool, tmp_path: Path) -> None:
    """Its bytes are the pin, so the digest of the layer is checked before; a lock needs none."""
    path = ground.blob(ground.layers[0])
    data = path.read_bytes()
    assert data.count(b'"licence": "mit"') == 1
    path.write_bytes(data.replace(b'"licence": "mit"', b'"licence": "bsd"'))
    ground.write()
    lock = pair.folder / "models.lock"
    pinned = lock.read_bytes()
    lock.unlink()
    assert_refused(pair, f"oci:{ground.folder}", 1, "has other bytes", tmp_path)
    assert not lock.exists()
    lock.write_bytes(pinned)
    assert pair("sync", "--from", f"oci:{ground.folder}").exit_code == 0


def test_models_without_end(ground: Layout, pair: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files among models than any root has: refused, while memory is flat."""
    monkeypatch.setattr("modelcache.sources.image_files._MOST_FILES", 100)
    ground.add([Entry(f"{HOME}/{number}", b"") for number in range(200)])
    assert_refused(pair, f"oci:{ground.write()}", 5, "or 100 in directories of models", tmp_path)


def test_words_of_an_image_are_safe_to_print(ground: Layout, pair: Tool, tmp_path: Path) -> None:
    """Names with control characters, in paths, targets, media types and names of images."""
    evil = "\x1b[2J\n##[error]x"
    ground.add([Entry(f"{HOME}/{evil}", type=LINK, target=evil)])
    ground.layers.append({**ground.layers[0], "mediaType": evil})
    entries = [{**ground.manifest(platform=LINUX), "annotations": {REF: f"{evil}{number}"}} for number in range(2)]
    ground.write(*entries)
    said = pair("sync", "--from", f"oci:{ground.folder}").err
    ground.layers = []
    ground.write(*entries, {**ground.manifest(), "annotations": {REF: f"{evil}3"}})
    said += pair("sync", "--from", f"oci:{ground.folder}").err
    assert "\x1b" not in said
    assert "\n##[" not in said
    assert len(said) > 100
