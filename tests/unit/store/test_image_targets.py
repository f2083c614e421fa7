"""A layout, an archive and a stream as the place of an image: what is reused, what is removed, what is never lost."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from modelcache.core.errors import IntegrityError, OccupiedError, StorageError
from modelcache.core.types import Changed, LockedModel
from modelcache.formats.receipt import format_receipt
from modelcache.image.descriptors import LAYER_TYPE, SET_DIGEST, Descriptor, Platform
from modelcache.image.documents import ImageDocuments, image_documents
from modelcache.image.layers import LARGE_FILE, Layer, plan_layers
from modelcache.pipeline.export import ImageTarget
from modelcache.store.image_archive import open_archive, open_stream
from modelcache.store.image_layout import open_layout
from modelcache.store.layer_copy import LayerCopy, Write, copy_layer
from modelcache.store.layout import Places
from tests.support.images import assert_only_its_image, blob, blobs_of, document, flip, pin, published, seen, untarred

Open = Callable[[Sequence[Layer]], AbstractContextManager[ImageTarget]]
"""Opens a place for an image of these layers."""
WEIGHTS = random.Random(1).randbytes(LARGE_FILE + 5)
CONTENT = {
    "acme/a": {"config.json": b"{}", "deep/er/two.json": b"[2]", "empty": b"", "model.safetensors": WEIGHTS},
    "acme/b": {"config.json": b"{}", "model.safetensors": b"\1" * 700_000},
}


class Models:
    """Two published models, and an image of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pins: dict[str, LockedModel] = {}
        self.layers: Sequence[Layer] = ()
        for name, content in CONTENT.items():
            self.publish(name, content)

    def publish(self, name: str, content: Mapping[str, bytes]) -> None:
        """Publish a version of a model."""
        self.pins[name] = pin(name, content)
        published(self.root, self.pins[name], content)
        self.layers = plan_layers(self.pins.values(), "models", format_receipt)

    def copy(self, layer: Layer, write: Write | None) -> LayerCopy:
        """Read a layer."""
        return copy_layer(layer, Places.below(self.root), write)

    def documents(self, copies: Sequence[LayerCopy]) -> ImageDocuments:
        """The documents of the image."""
        pairs = zip(self.layers, copies, strict=True)
        described = [
            Descriptor(LAYER_TYPE, f"sha256:{copy.sha256}", layer.size, {SET_DIGEST: layer.set_digest})
            for layer, copy in pairs
        ]
        platforms = [Platform.parse("linux/amd64"), Platform.parse("linux/arm64")]
        return image_documents(described, [layer.title for layer in self.layers], platforms)

    def write(self, opened: Open) -> list[bool]:
        """Write the image; return of each layer whether it was not there."""
        with opened(self.layers) as target:
            copies = [target.add(layer, self.copy) for layer in self.layers]
            assert not any(copy.changed for copy in copies)
            target.finish(self.documents(copies))
        return [copy.written for copy in copies]

    def layout(self, folder: Path) -> list[bool]:
        """Write it to a layout."""
        return self.write(partial(open_layout, folder))

    def archive(self, path: Path) -> list[bool]:
        """Write it to an archive."""
        return self.write(partial(open_archive, path))


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "root")


@pytest.fixture
def layout(tmp_path: Path, models: Models) -> Path:
    """A layout with the image."""
    models.layout(tmp_path / "image")
    return tmp_path / "image"


def blobs(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each blob: both stay those of a blob that is not written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "blobs/sha256").iterdir()}


def test_all_three_hold_the_same_image(models: Models, tmp_path: Path) -> None:
    """An archive has the bytes of a stream, and is a layout that has one file more."""
    streamed = bytearray()
    assert models.write(partial(open_stream, streamed.extend)) == [True] * 3
    assert models.archive(tmp_path / "image.tar") == [True] * 3
    assert models.layout(tmp_path / "image") == [True] * 3
    assert (tmp_path / "image.tar").read_bytes() == streamed
    unpacked = untarred(tmp_path / "image.tar", tmp_path / "unpacked")
    (entry,) = json.loads((unpacked / "manifest.json").read_bytes())
    assert all((unpacked / path).is_file() for path in [entry["Config"], *entry["Layers"]])
    (unpacked / "manifest.json").unlink()
    assert {path: one[3] for path, one in seen(unpacked).items()} == {
        path: one[3] for path, one in seen(tmp_path / "image").items()
    }
    assert_only_its_image(tmp_path / "image")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_any_user_may_read_it(models: Models, tmp_path: Path, umask: int) -> None:
    """Whatever the umask."""
    before = os.umask(umask)
    try:
        models.archive(tmp_path / "image.tar")
        models.layout(tmp_path / "image")
    finally:
        os.umask(before)
    assert (tmp_path / "image.tar").stat().st_mode & 0o777 == 0o644
    modes = {path: one[1] for path, one in seen(tmp_path / "image").items()}
    assert {modes["blobs"], modes["blobs/sha256"]} == {0o755}
    digests = [models.copy(layer, lambda content, at: None).sha256 for layer in models.layers]
    assert {modes[f"blobs/sha256/{name}"] for name in digests} == {0o644}
    assert {modes["index.json"], modes["oci-layout"]} == {0o644}


def test_a_second_time_nothing_is_written(models: Models, layout: Path) -> None:
    before, index = blobs(layout), (layout / "index.json").stat()
    assert models.layout(layout) == [False] * 3
    assert blobs(layout) == before
    assert (layout / "index.json").stat().st_ino == index.st_ino
    assert_only_its_image(layout)


def test_a_changed_file_writes_its_layers_alone(models: Models, layout: Path) -> None:
    """The blobs that only the older image had are removed; the shared ones are the same files as before."""
    before = blobs(layout)
    models.publish("acme/a", {**CONTENT["acme/a"], "config.json": b"[]"})
    assert models.layout(layout) == [False, True, False]
    after = blobs(layout)
    assert {name for name in before if after.get(name) == before[name]} == {
        layer.name for layer in (layout / "blobs/sha256").iterdir() if layer.name in before
    }
    assert len(set(before) - set(after)) == 6  # a layer, two configs, two manifests, the index
    assert_only_its_image(layout)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def become_a_link(path: Path) -> None:
    moved = path.rename(path.parents[3] / "elsewhere")
    path.symlink_to(moved)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a byte of a header": flip,
    "a byte of a content": lambda path: flip(path, 70_000),
    "its last byte": lambda path: flip(path, path.stat().st_size - 1),
    "cut": cut,
    "longer": grow,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a link": become_a_link,
    "a pipe": become_a_pipe,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("number", range(3))
def test_a_damaged_layer_is_written_anew(
    models: Models, layout: Path, spoil: Callable[[Path], object], number: int
) -> None:
    """And no other; a reused byte has been compared."""
    digest = models.copy(models.layers[number], lambda content, at: None).sha256
    if models.layers[number].size > 70_000 or spoil is not SPOILT["a byte of a content"]:
        spoil(layout / "blobs/sha256" / digest)
    else:
        flip(layout / "blobs/sha256" / digest, 512)
    assert models.layout(layout) == [at == number for at in range(3)]
    assert_only_its_image(layout)


@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink], ids=["flipped", "cut", "gone"])
def test_a_damaged_document_is_written_anew(models: Models, layout: Path, spoil: Callable[[Path], object]) -> None:
    layers = {models.copy(layer, lambda content, at: None).sha256 for layer in models.layers}
    for name in set(blobs(layout)) - layers:
        spoil(layout / "blobs/sha256" / name)
        models.layout(layout)
        assert_only_its_image(layout)


def with_foreign_image(layout: Path, name: str, content: bytes, **more: object) -> str:
    """Add an image of somebody else, that shares the layers of ours; return the name of its manifest."""
    index = json.loads((layout / "index.json").read_bytes())
    layers = json.loads(content)["layers"] if content else []
    manifest = json.dumps({"schemaVersion": 2, "layers": layers, **more}).encode()
    described = Descriptor.of("application/vnd.oci.image.manifest.v1+json", manifest).table()
    described["annotations"] = {"org.opencontainers.image.ref.name": name}
    (layout / "blobs" / described["digest"].replace(":", "/")).write_bytes(manifest)
    (layout / "index.json").write_text(json.dumps({**index, "manifests": [described, *index["manifests"]]}))
    return str(described["digest"].partition(":")[2])


def one_manifest(layout: Path) -> bytes:
    (image,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    index = document(layout, image["digest"])
    return blob(layout, index["manifests"][0]["digest"])


def test_an_image_of_others_stays(models: Models, layout: Path) -> None:
    """With the layers that both had, also when ours no longer has them."""
    before = set(blobs(layout))
    foreign = with_foreign_image(layout, "v1", one_manifest(layout))
    shared = {layer["digest"].partition(":")[2] for layer in json.loads(one_manifest_of(layout, foreign))["layers"]}
    models.publish("acme/a", {"config.json": b"other", "model.safetensors": WEIGHTS[::-1]})
    models.layout(layout)
    after = set(blobs(layout))
    assert after >= {foreign, *shared}
    assert not (before - shared) & after
    tables = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in tables] == ["v1", "latest"]


def one_manifest_of(layout: Path, name: str) -> bytes:
    return (layout / "blobs/sha256" / name).read_bytes()


def test_an_image_of_others_with_our_tag_loses_the_tag_alone(models: Models, layout: Path) -> None:
    """A layout has each tag once; blobs that this tool did not write are not removed."""
    name = "c" * 64
    (layout / "blobs/sha256" / name).write_bytes(b"a layer of somebody")
    layer = Descriptor(LAYER_TYPE, f"sha256:{name}", 19).table()
    foreign = with_foreign_image(layout, "latest", json.dumps({"layers": [layer]}).encode())
    models.layout(layout)
    (table,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert table["digest"] != f"sha256:{foreign}"
    assert set(blobs(layout)) > {name, foreign}


def test_where_an_image_of_others_cannot_be_read_no_blob_is_removed(models: Models, layout: Path) -> None:
    """It may have any of them."""
    before = set(blobs(layout))
    foreign = with_foreign_image(layout, "v1", one_manifest(layout))
    (layout / "blobs/sha256" / foreign).unlink()
    models.publish("acme/a", {"config.json": b"other"})
    models.layout(layout)
    assert set(blobs(layout)) >= before


def test_a_document_that_names_itself(models: Models, layout: Path) -> None:
    """A layout may come from anywhere: an index that is in itself is read once."""
    name = "a" * 64
    itself = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{name}", "size": 1}
    (layout / "blobs/sha256" / name).write_text(json.dumps({"schemaVersion": 2, "manifests": [itself] * 1000}))
    index = json.loads((layout / "index.json").read_bytes())
    for tag in ("v1", "latest"):
        added = {**itself, "annotations": {"org.opencontainers.image.ref.name": tag}}
        (layout / "index.json").write_text(json.dumps({**index, "manifests": [added]}))
        models.layout(layout)


ODD_INDEXES = {"nothing": b"", "a list": b"[]", "no index": b'{"schemaVersion":2,"layers":[]}', "no text": b"\xff\xfe"}


@pytest.mark.parametrize("content", ODD_INDEXES.values(), ids=ODD_INDEXES)
def test_an_index_that_cannot_be_read_is_replaced(models: Models, layout: Path, content: bytes) -> None:
    (layout / "index.json").write_bytes(content)
    models.layout(layout)
    assert len(blobs_of(layout)) == 8


def test_what_killed_runs_have_left_is_removed_or_used(models: Models, layout: Path) -> None:
    """Unfinished files, documents and layers of an image that never was, and a journal with a torn line."""
    folder = layout / "blobs/sha256"
    whole = blobs(layout)
    never = {"a" * 64: b"a layer", "b" * 64: b"{}"}
    for name, content in never.items():
        (folder / name).write_bytes(content)
    (folder / ".unfinished-0123456789abcdef").write_bytes(b"half")
    (folder / f".{'c' * 64}.0123456789abcdef").write_bytes(b"half")
    (layout / ".index.json.0123456789abcdef").write_bytes(b"half")
    lines = [f"{name} {name}\n" for name in never]
    (layout / ".cache-models.layers").write_text("".join([*lines, "no line\n\n", f"x ../../{'d' * 58}\n", "torn"]))
    assert models.layout(layout) == [False] * 3
    assert blobs(layout) == whole
    assert_only_its_image(layout)


def test_the_layers_of_a_killed_run_are_reused(models: Models, tmp_path: Path) -> None:
    """The journal names them, though no image does; those that are damaged are written anew."""
    folder = tmp_path / "image"
    with open_layout(folder, models.layers) as target:
        first = [target.add(layer, models.copy) for layer in models.layers]
    assert not (folder / "index.json").exists()
    flip(folder / "blobs/sha256" / first[1].sha256, 600)
    assert models.layout(folder) == [False, True, False]
    assert_only_its_image(folder)


STRANGE_JOURNALS = {"no text": b"\xff" * 99, "no end": b"a" * 99, "a huge one": b"a" * (5 << 20), "nothing": b""}


@pytest.mark.parametrize("content", STRANGE_JOURNALS.values(), ids=STRANGE_JOURNALS)
def test_a_strange_journal_does_not_count(models: Models, layout: Path, content: bytes) -> None:
    (layout / ".cache-models.layers").write_bytes(content)
    assert models.layout(layout) == [False] * 3
    assert_only_its_image(layout)


def foreign_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.odt").write_bytes(b"years")


def only_blobs(folder: Path) -> None:
    (folder / "blobs").mkdir(parents=True)


OCCUPIED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other files": (foreign_file, "holds other files and is no OCI image layout"),
    "blobs of something else": (only_blobs, "holds other files and is no OCI image layout"),
    "a file": (lambda path: path.write_bytes(b"mine"), "is not a directory"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is not a directory"),
    "a pipe": (os.mkfifo, "is not a directory"),
}


@pytest.mark.parametrize(("occupy", "words"), OCCUPIED.values(), ids=OCCUPIED)
def test_what_else_is_there_is_not_touched(
    models: Models, tmp_path: Path, occupy: Callable[[Path], object], words: str
) -> None:
    occupy(tmp_path / "image")
    before = seen(tmp_path, ["image"]) if not (tmp_path / "image").is_fifo() else {}
    with pytest.raises(OccupiedError, match=words):
        models.layout(tmp_path / "image")
    assert not before or seen(tmp_path, ["image"]) == before


@pytest.mark.parametrize("occupy", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_an_archive_replaces_files_only(models: Models, tmp_path: Path, occupy: Callable[[Path], object]) -> None:
    path = tmp_path / "image.tar"
    occupy(path)
    with pytest.raises(OccupiedError, match="is not a file"):
        models.archive(path)
    assert [one.name for one in tmp_path.iterdir() if one.name != "root"] == ["image.tar"]


def test_a_link_to_an_archive_stays_one(models: Models, tmp_path: Path) -> None:
    """As to a file on a larger volume."""
    archive = tmp_path / "volume" / "image.tar"
    archive.parent.mkdir()
    archive.write_bytes(b"an older one")
    (tmp_path / "link.tar").symlink_to("volume/image.tar")
    models.archive(tmp_path / "link.tar")
    models.archive(tmp_path / "other.tar")
    assert (tmp_path / "link.tar").is_symlink()
    assert archive.read_bytes() == (tmp_path / "other.tar").read_bytes()
    assert [one.name for one in archive.parent.iterdir()] == ["image.tar"]


@pytest.mark.parametrize("names", [[], [".oci-layout.0123456789abcdef"], ["oci-layout"]])
def test_an_empty_directory_and_one_that_was_begun_are_taken(models: Models, tmp_path: Path, names: list[str]) -> None:
    """A run that was killed as it made the directory has left the mark, or half of it."""
    (tmp_path / "image").mkdir()
    for name in names:
        (tmp_path / "image" / name).write_bytes(b"{")
    models.layout(tmp_path / "image")
    assert_only_its_image(tmp_path / "image")


def test_a_directory_that_another_run_makes_meanwhile(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two questions about it."""
    folder, is_dir = tmp_path / "image", Path.is_dir

    def late(path: Path, **how: bool) -> bool:
        found = is_dir(path, **how)
        if path == folder and not found:
            os.mkdir(folder)
        return found

    monkeypatch.setattr(Path, "is_dir", late)
    models.layout(folder)
    assert_only_its_image(folder)


def test_missing_directories_are_made(models: Models, tmp_path: Path) -> None:
    models.layout(tmp_path / "deep" / "er" / "image")
    assert_only_its_image(tmp_path / "deep" / "er" / "image")


def test_a_link_to_a_directory_is_followed(models: Models, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "image").symlink_to("real")
    models.layout(tmp_path / "image")
    assert_only_its_image(tmp_path / "real")


def half_archive(models: Models, path: Path) -> Path:
    """What a run that was killed leaves: all layers, and neither head nor documents."""
    killed = path.with_name("killed.tar")
    models.archive(killed)
    content = bytearray(killed.read_bytes())
    killed.unlink()
    content[:512] = bytes(512)
    leftover = path.with_name(f".{path.name}.0123456789abcdef")
    leftover.write_bytes(content[: len(content) - 9000])
    return leftover


def test_an_archive_that_was_begun_is_completed(models: Models, tmp_path: Path) -> None:
    """The layers that it has are compared, and only those that are damaged are written."""
    path = tmp_path / "image.tar"
    models.archive(tmp_path / "other.tar")
    leftover = half_archive(models, path)
    inode = leftover.stat().st_ino
    second = path.with_name(f".{path.name}.fedcba9876543210")
    second.write_bytes(b"of an older run")
    flip(leftover, leftover.stat().st_size - 100_000)
    assert models.archive(path) == [False, False, True]
    assert path.read_bytes() == (tmp_path / "other.tar").read_bytes()
    assert path.stat().st_ino == inode
    assert sorted(one.name for one in tmp_path.iterdir()) == ["image.tar", "other.tar", "root"]


@pytest.mark.parametrize("field", [0, 20, 100, 124, 136, 148, 300], ids=str)
def test_a_header_that_is_damaged_is_written_anew(models: Models, tmp_path: Path, field: int) -> None:
    """In any of its fields; the layer is, too."""
    models.archive(tmp_path / "other.tar")
    content = (tmp_path / "other.tar").read_bytes()
    digest = models.copy(models.layers[1], lambda content, at: None).sha256
    flip(half_archive(models, tmp_path / "image.tar"), content.index(f"blobs/sha256/{digest}".encode()) + field)
    assert models.archive(tmp_path / "image.tar") == [False, True, False]
    assert (tmp_path / "image.tar").read_bytes() == content


def test_an_archive_that_was_begun_for_another_lock(models: Models, tmp_path: Path) -> None:
    """Larger, and with other layers at other places: nothing of it stays."""
    path = tmp_path / "image.tar"
    half_archive(models, path)
    models.publish("acme/a", {"config.json": b"{}"})
    assert models.archive(path) == [True, True]
    models.archive(tmp_path / "other.tar")
    assert path.read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_files_that_are_no_leftovers_stay(models: Models, tmp_path: Path) -> None:
    """Of another archive, a link, a pipe, a name of a user; and of a run that is at work."""
    path = tmp_path / "image.tar"
    at_work = half_archive(models, path)
    kept = [
        tmp_path / f".image2.tar.{'0' * 16}",
        tmp_path / f".image.tar.{'0' * 15}",
        tmp_path / ".image.tar.notes",
    ]
    for one in kept:
        one.write_bytes(b"mine")
    link, pipe = tmp_path / f".image.tar.{'1' * 16}", tmp_path / f".image.tar.{'2' * 16}"
    link.symlink_to(kept[0])
    os.mkfifo(pipe)
    content = at_work.read_bytes()
    with at_work.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert models.archive(path) == [True] * 3
    assert at_work.read_bytes() == content
    assert [one.read_bytes() for one in kept] == [b"mine"] * 3
    assert link.is_symlink()
    assert pipe.is_fifo()


@pytest.mark.parametrize("ends", [False, True], ids=["at work", "ended"])
def test_a_file_that_another_run_takes_for_a_leftover(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Between its creation and its lock, another run may find it: that one has it then."""
    lock, taken = fcntl.flock, list[tuple[int, str]]()

    def late(fd: int, operation: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if not taken:
            taken.append((os.open(name, os.O_RDWR), name))
            lock(taken[0][0], operation)
            if ends:
                os.unlink(name)
                os.close(taken[0][0])
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    models.archive(tmp_path / "image.tar")
    models.archive(tmp_path / "other.tar")
    assert (tmp_path / "image.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()
    assert os.path.exists(taken[0][1]) is not ends
    assert ends or os.fstat(taken[0][0]).st_size == 0


def test_a_leftover_that_gets_its_name_meanwhile(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was at work, and ends between our look and our lock: a finished archive is never written to."""
    path, lock = tmp_path / "image.tar", fcntl.flock
    leftover = half_archive(models, path)
    content, inode = leftover.read_bytes(), leftover.stat().st_ino

    def late(fd: int, operation: int) -> None:
        if leftover.exists():
            leftover.rename(path)
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with path.with_name(leftover.name).open("rb") as finished:
        assert models.archive(path) == [True] * 3
        assert finished.read() == content
    assert path.stat().st_ino != inode


def test_an_archive_that_is_there_is_replaced_in_one_step(models: Models, tmp_path: Path) -> None:
    """A reader that has it open goes on reading the older one."""
    path = tmp_path / "image.tar"
    models.archive(path)
    older = path.read_bytes()
    models.publish("acme/a", {"config.json": b"other"})
    with path.open("rb") as file:
        models.archive(path)
        assert file.read() == older
    assert path.read_bytes() != older


@pytest.mark.parametrize("name", ["image.tar", "image"])
def test_several_at_once_into_one_place(models: Models, tmp_path: Path, name: str) -> None:
    """Each ends well, and the place holds one whole image and nothing else."""
    errors: list[BaseException] = []
    write = models.archive if name.endswith(".tar") else models.layout

    def run() -> None:
        try:
            for _ in range(3):
                write(tmp_path / name)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(one.name for one in tmp_path.iterdir()) == [name, "root"]
    if name == "image":
        assert_only_its_image(tmp_path / name)
    else:
        models.archive(tmp_path / "other.tar")
        assert (tmp_path / name).read_bytes() == (tmp_path / "other.tar").read_bytes()


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


CHANGES: dict[str, tuple[Callable[[Path], object], Callable[[Changed], bool]]] = {
    "a flipped byte": (lambda path: flip(path, 600_000), lambda one: isinstance(one.found, str)),
    "cut": (cut, lambda one: (one.expected, one.found) == (700_000, 699_999)),
    "empty": (lambda path: path.write_bytes(b""), lambda one: (one.expected, one.found) == (700_000, 0)),
    "gone": (Path.unlink, lambda one: (one.expected, one.found) == (700_000, 0)),
}


@pytest.mark.parametrize("name", ["image.tar", "image"])
@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_is_not_as_pinned_is_told(
    models: Models, tmp_path: Path, name: str, change: Callable[[Path], object], told: Callable[[Changed], bool]
) -> None:
    """No layer gets a name for it, and the others stay for the next run."""
    change(models.root / "cached_embedding_models/acme__b/model.safetensors")
    opened: Open = partial(open_layout if name == "image" else open_archive, tmp_path / name)
    with opened(models.layers) as target:
        copies = [target.add(layer, models.copy) for layer in models.layers]
        (changed,) = [one for copy in copies for one in copy.changed]
        assert changed[0].id == "acme/b"
        assert changed[1].path == "model.safetensors"
        assert told(changed[1])
    if name == "image":
        assert len(blobs(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["a directory", "a link", "a pipe"])
def test_a_file_that_cannot_be_read(models: Models, tmp_path: Path, name: str) -> None:
    """It is the root that cannot be read, and not the target that cannot be written."""
    path = models.root / "cached_embedding_models/acme__b/model.safetensors"
    path.unlink()
    if name == "a directory":
        path.mkdir()
    elif name == "a link":
        path.symlink_to(models.root / "cached_embedding_models/acme__a/model.safetensors")
    elif name == "a pipe":
        os.mkfifo(path)
    with pytest.raises(StorageError, match=f"cannot read {path}"):
        models.archive(tmp_path / "image.tar")
    assert [one.name for one in tmp_path.iterdir()] == ["root"]


def test_a_stream_whose_source_changes_is_cut(models: Models) -> None:
    """It is read twice; nothing ends it that says it is whole."""
    streamed = bytearray()
    path = models.root / "cached_embedding_models/acme__b/model.safetensors"
    with open_stream(streamed.extend, models.layers) as target:
        copies = [target.add(layer, models.copy) for layer in models.layers]
        assert not streamed
        flip(path, 600_000)
        with pytest.raises(IntegrityError, match="acme/b changed while it was read"):
            target.finish(models.documents(copies))
    assert b"index.json" not in streamed
    assert b"manifest.json" not in streamed


def test_too_little_space_is_told_before_the_first_byte(models: Models, small_volume: Path) -> None:
    """Needed, free, short by; what is reused is not needed."""
    for write, path in ((models.archive, small_volume / "image.tar"), (models.layout, small_volume / "image")):
        with pytest.raises(StorageError, match=r"needed 17.* MB, free .* short by at least"):
            write(path)
        assert not [one for one in small_volume.rglob("*") if one.is_file() and one.stat().st_size > 100]
    shutil.rmtree(small_volume / "image")


@pytest.fixture
def medium_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the image once, and not twice."""
    from tests.support.faults.volumes import mounted

    with mounted("tmpfs", 25 << 20, 400) as volume:
        yield volume.folder


def test_reused_layers_need_no_space(models: Models, medium_volume: Path) -> None:
    """The second export of a layout, and the second try of an archive, fit."""
    models.layout(medium_volume / "image")
    assert models.layout(medium_volume / "image") == [False] * 3
    shutil.rmtree(medium_volume / "image")
    models.archive(medium_volume / "image.tar")
    (medium_volume / "image.tar").rename(medium_volume / f".image.tar.{'0' * 16}")
    assert models.archive(medium_volume / "image.tar") == [False] * 3
