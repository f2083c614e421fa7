"""An image in a registry as a source: what is fetched of it, how often, in how many requests, and what is kept."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelcache.core.errors import HubError, HubUnreachableError, IntegrityError, NotOnHubError, StorageError
from modelcache.core.interfaces import PublishedModels
from modelcache.core.kinds import Kind
from modelcache.core.types import Original
from modelcache.formats.receipt import format_receipt
from modelcache.image.descriptors import MODELS, Descriptor
from modelcache.image.reference import Reference
from modelcache.sources.registry_image import RemoteBlob
from modelcache.sources.schemes import open_source
from tests.support.baked import Pinned, bake
from tests.support.oci_images import LAYER, Entry, Layout, entries_of
from tests.support.registry import Fault, FlipFirst, IgnoreRange, Reset, Short, StandInRegistry, Status
from tests.support.registry.client import Listener, connect_to

WEIGHTS = bytes(range(256)) * 8192
PINNED = Pinned(files={"config.json": b"{}", "model.safetensors": WEIGHTS})
OTHER = Pinned(Kind.RERANKER, "tinyorg/reranker", {"config.json": b"{ }"})
ID = PINNED.id
ORIGINAL = Original("model.safetensors", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made; a layer of more than 1 MiB is a large one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("modelcache.sources.registry_image._WHOLE", 1 << 20)
    return folder


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An image of two models, not written yet: the layers are weights, small files, and those of the other one."""
    layout = Layout.of_root(bake(tmp_path / "baked", PINNED, OTHER), tmp_path / "image")
    assert [layer["size"] > 1 << 20 for layer in layout.layers] == [True, False, False]
    return layout


def annotate(layout: Layout, names: Sequence[str]) -> None:
    """Let the layers name their models."""
    for layer, name in zip(layout.layers, names, strict=True):
        layer["annotations"] = {MODELS: name}


@contextmanager
def opened(
    registry: StandInRegistry, wanted: str = "v1", *, reporter: Listener | None = None, retries: int = 0
) -> Iterator[PublishedModels]:
    """The image as `--from docker://` opens it."""
    listener = reporter or Listener()

    def connect(image: Reference) -> Any:
        return connect_to(registry.url, image.repository, retries=retries, reporter=listener)

    text = f"{registry.address}/a/b{'@' if ':' in wanted else ':'}{wanted}"
    with open_source(Reference.parse(text), connect, listener) as source:
        yield source


def asked_for(registry: StandInRegistry, layer: dict[str, Any]) -> list[str | None]:
    """The ranges of a layer that were asked for."""
    return [one.range for one in registry.asked(kind="blob", reference=layer["digest"])]


def read(source: PublishedModels, start: int = 0, end: int = len(WEIGHTS), original: Original = ORIGINAL) -> bytes:
    """A part of the weights, over the network."""
    remote = source.remote(Kind.EMBEDDING, ID)
    assert remote is not None
    with remote.open(original, start, end) as chunks:
        return b"".join(piece for pieces in chunks for piece in pieces)


def test_nothing_is_asked_before_it_is_needed(registry: StandInRegistry, temporary: Path) -> None:
    """Nor kept."""
    with opened(registry) as source:
        source.expect([])
        assert source.remote(Kind.EMBEDDING, ID) is not None
    assert not registry.requests
    assert not list(temporary.iterdir())


def test_small_layers_are_fetched_once_and_copied_from(
    registry: StandInRegistry, layout: Layout, temporary: Path
) -> None:
    """Whole, with no range; their files are files of this machine until the end."""
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID, OTHER.id])
        for pinned in (PINNED, OTHER):
            assert source.holds(pinned.kind, pinned.id)
            assert source.receipt(pinned.kind, pinned.id) == format_receipt(pinned.model())
            found = source.file(pinned.kind, pinned.id, "config.json")
            assert found is not None
            assert found.path.is_relative_to(temporary)
            content = pinned.files["config.json"]
            assert found.path.read_bytes()[found.start : found.start + len(content)] == content
        assert [asked_for(registry, layer) for layer in layout.layers[1:]] == [[None], [None]]
        assert len(list(temporary.rglob("*"))) == 3
    assert not list(temporary.iterdir())


def test_of_a_large_layer_only_headers_are_read(registry: StandInRegistry, layout: Layout, temporary: Path) -> None:
    """With two requests: the header of the file, and what follows it."""
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        assert source.holds(Kind.EMBEDDING, ID)
        assert source.file(Kind.EMBEDDING, ID, "model.safetensors") is None
        weights = registry.asked(kind="blob", reference=layout.layers[0]["digest"])
        assert len(weights) == 2
        assert sum(request.sent for request in weights) < 20_000
        registry.forget()
        assert read(source) == WEIGHTS
        assert read(source, 1000, 1005) == WEIGHTS[1000:1005]
        assert len(asked_for(registry, layout.layers[0])) == 2
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("original", [Original("model.safetensors", 7, "7" * 64), Original("absent", 1, "1" * 64)])
def test_a_file_of_another_size_is_not_asked_for(registry: StandInRegistry, layout: Layout, original: Original) -> None:
    """The image has another version of the model, or none of that file."""
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        registry.forget()
        with pytest.raises(IntegrityError, match=f"{ID}: docker://{registry.address}/a/b:v1 has no {original.path}"):
            read(source, original=original)
    assert not registry.requests


@pytest.mark.parametrize(
    ("size", "count", "most", "sent"),
    [(2048, 3000, 20, 9 << 20), (100_000, 30, 25, 4 << 20), (600_000, 8, 9, 100_000)],
)
def test_headers_of_a_large_layer_take_few_requests(
    registry: StandInRegistry, layout: Layout, size: int, count: int, most: int, sent: int
) -> None:
    """Read ahead, more and more, where they are close together; one by one where they are not."""
    home = f"models/cached_embedding_models/{ID.replace('/', '__')}"
    layout.add([Entry(f"{home}/more/{number}", bytes(size)) for number in range(count)])
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        requests = registry.asked(kind="blob", reference=layout.layers[-1]["digest"])
        assert len(requests) <= most
        assert sum(request.sent for request in requests) <= sent
        remote = source.remote(Kind.EMBEDDING, ID)
        assert remote is not None
        with remote.open(Original(f"more/{count - 1}", size, "0" * 64), 0, size) as chunks:
            assert sum(len(piece) for pieces in chunks for piece in pieces) == size


def test_a_large_layer_with_a_receipt_is_hashed_once(registry: StandInRegistry, layout: Layout) -> None:
    """Before the receipt counts: nothing else vouches for it."""
    _, small, _ = entries_of(layout.folder.parent / "baked")
    del layout.layers[1]
    layout.add([*small, Entry("models/padding", bytes(2 << 20))], place=1)
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        for _ in range(2):
            assert source.receipt(Kind.EMBEDDING, ID) == format_receipt(PINNED.model())
        assert asked_for(registry, layout.layers[1]).count(None) == 1
    registry.fail(FlipFirst(), "blob", on=layout.layers[1]["digest"], nth=3)
    with opened(registry) as source, pytest.raises(IntegrityError, match="has other bytes: its SHA-256 is"):
        source.receipt(Kind.EMBEDDING, ID)


# faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [FlipFirst(), Short(10), Reset(10), Status(503)], ids=str)
def test_a_layer_that_comes_wrong_once_is_fetched_once_more(
    registry: StandInRegistry, layout: Layout, fault: Fault
) -> None:
    """Its digest decides."""
    registry.add("a/b", layout.write(), "v1")
    registry.fail(fault, "blob", on=layout.layers[1]["digest"])
    with opened(registry, retries=1) as source:
        assert source.receipt(Kind.EMBEDDING, ID) == format_receipt(PINNED.model())
    assert len(asked_for(registry, layout.layers[1])) == 2


def test_a_layer_that_comes_wrong_twice_is_refused(registry: StandInRegistry, layout: Layout, temporary: Path) -> None:
    """Exit 1; nothing of it is kept."""
    registry.add("a/b", layout.write(), "v1")
    digest = layout.layers[1]["digest"]
    registry.fail(FlipFirst(), "blob", on=digest, times=-1)
    with (
        pytest.raises(IntegrityError, match=f"a/b:v1: the layer {digest} came with other bytes, twice") as error,
        opened(registry) as source,
    ):
        source.expect([ID])
    assert (error.value.exit_code, len(asked_for(registry, layout.layers[1]))) == (1, 2)
    assert not list(temporary.iterdir())


def test_a_layer_that_is_not_there_is_told(registry: StandInRegistry, layout: Layout, temporary: Path) -> None:
    """With its digest; what was kept before is removed."""
    registry.add("a/b", layout.write(), "v1")
    digest = layout.layers[2]["digest"]
    registry.blobs("a/b")[digest].unlink()
    with pytest.raises(NotOnHubError, match=f"lacks the blob {digest}"), opened(registry) as source:
        source.expect([ID])
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [0, 1])
def test_a_layer_of_another_size_is_refused(registry: StandInRegistry, layout: Layout, number: int) -> None:
    """Whether it is fetched whole or in parts."""
    size = layout.layers[number]["size"]
    layout.layers[number]["size"] = size + 512
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source, pytest.raises(IntegrityError, match=f"has {size} bytes instead of {size + 512}"):
        source.expect([ID])


def test_headers_that_break_are_asked_for_again(registry: StandInRegistry, layout: Layout) -> None:
    """With the retries that the run allows."""
    registry.add("a/b", layout.write(), "v1")
    registry.fail(Short(10), "blob", on=layout.layers[0]["digest"])
    with opened(registry, retries=1) as source:
        source.expect([ID])
        assert source.holds(Kind.EMBEDDING, ID)
    registry.fail(Short(10), "blob", on=layout.layers[0]["digest"], times=-1)
    with opened(registry, retries=1) as source, pytest.raises(HubUnreachableError, match="cut short"):
        source.expect([ID])


def test_a_layer_of_many_files_is_refused_without_ranges(registry: StandInRegistry, layout: Layout) -> None:
    """Nothing is tried again: the registry will not learn it."""
    registry.add("a/b", layout.write(), "v1")
    registry.fail(IgnoreRange(), "blob", times=-1)
    with opened(registry, retries=1) as source, pytest.raises(HubError, match="sends whole blobs only") as error:
        source.expect([ID])
    assert "skopeo copy" in error.value.hint
    assert not error.value.retryable


def test_a_temporary_directory_that_cannot_be_made_is_told(
    registry: StandInRegistry, layout: Layout, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable that names its place."""
    registry.add("a/b", layout.write(), "v1")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    with opened(registry) as source, pytest.raises(StorageError, match="cannot make a temporary directory") as error:
        source.expect([ID])
    assert "TMPDIR" in error.value.hint


def test_an_error_of_the_caller_removes_what_was_kept(
    registry: StandInRegistry, layout: Layout, temporary: Path
) -> None:
    """Whatever the error is."""
    registry.add("a/b", layout.write(), "v1")

    def interrupted(source: PublishedModels) -> None:
        source.expect([ID])
        assert list(temporary.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened(registry) as source:
        interrupted(source)
    assert not list(temporary.iterdir())


# names ----------------------------------------------------------------------------------------------------------


def test_a_tag_is_told_with_its_digest(registry: StandInRegistry, layout: Layout) -> None:
    """Once; an image by its digest needs no such line."""
    digest = registry.add("a/b", layout.write(), "v1")
    by_tag, by_digest = Listener(), Listener()
    with opened(registry, reporter=by_tag) as source:
        assert source.holds(Kind.EMBEDDING, ID)
        assert source.holds(Kind.RERANKER, OTHER.id)
        assert source.name == f"docker://{registry.address}/a/b:v1"
    name = f"docker://{registry.address}/a/b"
    assert by_tag.told == [("image", f"{name}:v1 is {name}@{digest}")]
    with opened(registry, digest, reporter=by_digest) as source:
        assert source.holds(Kind.EMBEDDING, ID)
    assert by_digest.told == []


def test_each_document_is_asked_for_once(registry: StandInRegistry, layout: Layout) -> None:
    """The index and the manifest; the config is of no use to a reader."""
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        source.expect([OTHER.id])
    assert [request.method for request in registry.asked(kind="manifest")] == ["GET", "GET"]
    layers = {layer["digest"] for layer in layout.layers}
    assert {request.reference for request in registry.asked(kind="blob")} == layers


def test_layers_of_other_models_are_not_fetched(registry: StandInRegistry, layout: Layout) -> None:
    """An annotation names the models of a layer; they come when they are asked for."""
    annotate(layout, [ID, ID, OTHER.id])
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([OTHER.id])
        assert source.holds(Kind.RERANKER, OTHER.id)
        assert [len(asked_for(registry, layer)) for layer in layout.layers] == [0, 0, 1]
        assert source.holds(Kind.EMBEDDING, ID)
        assert read(source, 0, 5) == WEIGHTS[:5]
        assert [len(asked_for(registry, layer)) for layer in layout.layers] == [3, 1, 1]


@pytest.mark.parametrize("names", [(OTHER.id, OTHER.id, ID), ("x/y", "x/y", "x/y"), ("", "", "")])
def test_an_annotation_that_lies_harms_nothing(
    registry: StandInRegistry, layout: Layout, names: tuple[str, str, str]
) -> None:
    """A model that is hidden is not held, and a layer that has another one than it says is read in vain."""
    annotate(layout, names)
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        assert not source.holds(Kind.EMBEDDING, ID)
        assert source.receipt(Kind.EMBEDDING, ID) == b""
        error = source.lack_of([ID])
        assert error.message == f"docker://{registry.address}/a/b:v1 does not hold {ID}"
        assert error.exit_code == 2


def test_an_image_that_holds_no_models_is_told(registry: StandInRegistry, tmp_path: Path) -> None:
    """As any other image."""
    layout = Layout(tmp_path / "image")
    layout.add([Entry("usr/bin/program", b"x")])
    registry.add("a/b", layout.write(), "v1")
    with opened(registry) as source:
        source.expect([ID])
        assert source.lack_of([ID]).message == f"docker://{registry.address}/a/b:v1 holds no models"


def test_a_document_with_other_bytes_is_refused(registry: StandInRegistry, layout: Layout) -> None:
    """The index names the manifest by its digest."""
    registry.add("a/b", layout.write(), "v1")
    registry.fail(FlipFirst(), "manifest", nth=2)
    with opened(registry) as source, pytest.raises(IntegrityError, match="the registry sent another manifest"):
        source.expect([ID])


def test_positions_of_a_blob_that_is_far_away(registry: StandInRegistry) -> None:
    """Any order, any overlap, never beyond its end."""
    digest = registry.storage.put_blob("a/b", WEIGHTS)
    blob = RemoteBlob(connect_to(registry.url), Descriptor(LAYER, digest, len(WEIGHTS)))
    with blob.reading() as part:
        for start, end in ((0, 512), (512, 1024), (100, 9000), (9000, 9512), (0, 1), (2_000_000, 2_100_000)):
            assert part(start, end) == WEIGHTS[start:end]
        assert part(len(WEIGHTS) - 3, len(WEIGHTS) + 9) == WEIGHTS[-3:]
        registry.forget()
        assert part(len(WEIGHTS) - 2, len(WEIGHTS) + 9) == WEIGHTS[-2:]
        assert not registry.requests
        assert part(len(WEIGHTS), len(WEIGHTS) + 9) == b""
    assert blob.sha256() == digest.removeprefix("sha256:")
