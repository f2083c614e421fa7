"""Another root as a source: its models, where their files are, and the words for one that lacks models."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcache.core.errors import StorageError
from modelcache.core.kinds import Kind
from modelcache.core.types import FileSlice
from modelcache.formats.receipt import format_receipt
from modelcache.sources.other_root import OtherRoot
from tests.support.baked import Pinned, bake

ID = "tinyorg/embedding"
OTHER = "tinyorg/other"


def test_a_root_with_a_model(tmp_path: Path) -> None:
    """Its receipt and its files, by kind and id."""
    pinned = Pinned()
    source = OtherRoot(bake(tmp_path / "baked", pinned))
    assert [source.holds(kind, ID) for kind in Kind] == [kind is Kind.EMBEDDING for kind in Kind]
    assert source.receipt(Kind.EMBEDDING, ID) == format_receipt(pinned.model())
    assert source.receipt(Kind.RERANKER, ID) == b""
    home = tmp_path / "baked" / "cached_embedding_models" / "tinyorg__embedding"
    assert source.file(Kind.EMBEDDING, ID, "deep/x") == FileSlice(home / "deep" / "x")
    assert (source.name, source.place_of(Kind.EMBEDDING, ID)) == (str(tmp_path / "baked"), str(home))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "there is no directory {}"),
        (lambda root: root.touch(), "{} is a file"),
        (lambda root: (root.mkdir(), (root / "index.json").touch()), "{} is an image layout"),
        (lambda root: (root / "cached_embedding_models" / ".cache-models").mkdir(parents=True), "{} holds no models"),
        (lambda root: bake(root, Pinned()), "{} does not hold tinyorg/other"),
    ],
    ids=["nothing", "a file", "a layout", "a collection", "another model"],
)
def test_a_root_that_lacks_a_model(tmp_path: Path, make: object, words: str) -> None:
    """The most general reason is said."""
    assert callable(make)
    make(tmp_path / "root")
    source = OtherRoot(tmp_path / "root")
    assert not source.holds(Kind.EMBEDDING, OTHER)
    error = source.lack_of([OTHER])
    assert error.message == words.format(tmp_path / "root")
    assert ("holds cached_*_models." in error.hint) is not ("write oci" in error.hint.lower())


def test_a_root_that_cannot_be_read(tmp_path: Path) -> None:
    """It is not said to be empty."""
    with pytest.raises(StorageError):
        OtherRoot(tmp_path / ("x" * 300)).holds(Kind.EMBEDDING, ID)
