"""The files of models among the entries of layers, as values."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.image.tar import TarEntry, Type
from modelcache.sources.image_files import ImageFiles, PlacedFile

COLLECTION, NAME = "cached_embedding_models", "a__b"
HOME = f"models/{COLLECTION}/{NAME}"
RECEIPT = f"{HOME}/.cache-models.json"


def file(path: str, start: int = 0, size: int = 0) -> TarEntry:
    """A file."""
    return TarEntry(path, Type.FILE, size, start=start)


def link(path: str, target: str) -> TarEntry:
    """A symbolic link."""
    return TarEntry(path, Type.SYMLINK, target=target)


def directory(path: str) -> TarEntry:
    """A directory."""
    return TarEntry(path, Type.DIRECTORY)


def read(*layers: Sequence[TarEntry]) -> ImageFiles:
    """The models of an image with these layers."""
    files = ImageFiles("image")
    for number, entries in enumerate(layers):
        files.add(number, files.concerning(entries))
    return files


@pytest.mark.parametrize("prefix", ["", "models/", "opt/ml/models/"])
@pytest.mark.parametrize("kind", Kind)
def test_a_model_is_found_by_its_receipt(prefix: str, kind: Kind) -> None:
    """Below any directory, in the collection of any kind."""
    home = f"{prefix}{kind.spec.collection}/{NAME}"
    files = read([file(f"{home}/.cache-models.json", 512, 9), file(f"{home}/deep/x", 1536, 7)])
    assert files.holds(kind.spec.collection, NAME)
    assert files.find(kind.spec.collection, NAME, "deep/x") == PlacedFile(0, 1536, 7)
    assert files.find(kind.spec.collection, NAME, "y") is None
    assert not files.empty


def test_files_without_a_receipt_are_no_model() -> None:
    """And a receipt deeper, or higher, is none."""
    files = read([file(f"{HOME}/x"), file(f"{HOME}/deep/.cache-models.json"), file(f"{COLLECTION}/.cache-models.json")])
    assert files.empty
    assert not files.holds(COLLECTION, NAME)
    assert files.find(COLLECTION, NAME, "x") is None


def test_the_last_layer_and_the_last_entry_win() -> None:
    """As where an engine unpacks them; a directory in the place of a file removes it."""
    files = read(
        [file(RECEIPT), file(f"{HOME}/x", 1), file(f"{HOME}/x", 2), file(f"{HOME}/gone", 1)],
        [file(f"{HOME}/x", 3), directory(f"{HOME}/gone")],
    )
    assert files.find(COLLECTION, NAME, "x") == PlacedFile(1, 3, 0)
    assert files.find(COLLECTION, NAME, "gone") is None


def test_of_two_copies_of_a_model_the_one_on_top_counts() -> None:
    """Whole: no file of the other one."""
    other = f"opt/{COLLECTION}/{NAME}"
    files = read([file(RECEIPT), file(f"{HOME}/x", 1)], [file(f"{other}/.cache-models.json", 9)])
    assert files.find(COLLECTION, NAME, "x") is None
    assert files.find(COLLECTION, NAME, ".cache-models.json") == PlacedFile(1, 9, 0)


VIEW = "models/hub/models--a--b/snapshots/c"
FITS = [
    [link(f"{VIEW}/x", f"../../../../{COLLECTION}/{NAME}/x")],
    [link(f"{VIEW}/deep/x", f"../../../../../{COLLECTION}/{NAME}/deep/x")],
    [file("models/hub/models--a--b/refs/main")],
    [directory("models"), directory(HOME), file("models/README")],
    [link("models/link", "/etc/passwd"), TarEntry("models/pipe", Type.OTHER)],
    [link("other/hub/x", "/etc/passwd"), link(f"other/{COLLECTION}/x", "/etc/passwd")],
    [file("models/.wh.gone"), file("other/.wh..wh..opq"), file(".wh.other")],
    [file(f"{HOME}/.cache-models/lease"), file(f"{HOME}/unknown")],
]
ODD = [
    link(f"{HOME}/x", "y"),
    link(HOME, "y"),
    link(f"models/{COLLECTION}", "y"),
    link("models", "y"),
    TarEntry(f"{HOME}/x", Type.OTHER),
    TarEntry("models/hub/x", Type.OTHER),
    file(f"{HOME}/.wh.x"),
    file(f"models/{COLLECTION}/.wh.{NAME}"),
    file(f"models/.wh.{COLLECTION}"),
    file("models/.wh..wh..opq"),
    file(".wh.models"),
    file(".wh..wh..opq"),
    file("models"),
    file("models/hub/models--a--b/.wh.refs"),
    link("models/hub", f"../../../../{COLLECTION}/{NAME}/x"),
    link(f"{VIEW}/x", f"../../../{COLLECTION}/{NAME}/x"),
    link(f"{VIEW}/x", f"../../../../../{COLLECTION}/{NAME}/x"),
    link(f"{VIEW}/x", f"../../../../{COLLECTION}/{NAME}/../../../etc"),
    link(f"{VIEW}/x", f"/models/{COLLECTION}/{NAME}/x"),
    link(f"{VIEW}/x", "../../blobs/x"),
]


@pytest.mark.parametrize("entries", FITS, ids=lambda entries: entries[0].path)
def test_entries_that_may_stand_there(entries: Sequence[TarEntry]) -> None:
    """The view, and everything outside of the models."""
    files = read([file(RECEIPT)], entries)
    files.refuse_odd()
    assert files.holds(COLLECTION, NAME)


@pytest.mark.parametrize("entry", ODD, ids=lambda entry: f"{entry.path} {entry.type} {entry.target}")
def test_entries_that_may_not(entry: TarEntry) -> None:
    """Each is named."""
    with pytest.raises(PolicyError) as error:
        read([file(RECEIPT)], [entry]).refuse_odd()
    assert error.value.message.startswith(f"image has entries that no image of models has:\n  {entry.path} ")


@pytest.mark.parametrize("entry", ODD, ids=lambda entry: f"{entry.path} {entry.type} {entry.target}")
def test_where_no_models_are_nothing_is_odd(entry: TarEntry) -> None:
    """A base image may have any entry."""
    read([entry]).refuse_odd()


def test_a_whiteout_below_the_models_is_not_of_them() -> None:
    """A whiteout concerns the layers below it."""
    read([file("models/.wh..wh..opq"), file(".wh.models")], [file(RECEIPT)]).refuse_odd()


def test_an_image_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bounds: for what is kept, and for what is only read."""
    monkeypatch.setattr("modelcache.sources.image_files._MOST_FILES", 10)
    monkeypatch.setattr("modelcache.sources.image_files._MOST_ENTRIES", 30)
    read([file(f"{HOME}/x")] * 10, [file("usr/x")] * 20)
    with pytest.raises(PolicyError, match="image has more than"):
        read([file(f"{HOME}/x")] * 6, [file(f"{HOME}/x")] * 5)
    with pytest.raises(PolicyError, match="image has more than"):
        read([file("usr/x")] * 31)
