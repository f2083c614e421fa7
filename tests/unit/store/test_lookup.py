"""A model is looked up by its id in the collections of a root: which one is given, and which words refuse it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cache_models
from modelcache.core.errors import IntegrityError, UsageError
from modelcache.core.kinds import Kind
from modelcache.core.names import sanitize_model_id
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import format_receipt
from modelcache.store.hub_view import hold_view, write_view
from modelcache.store.layout import Places
from modelcache.store.load import load
from modelcache.store.lookup import model_path
from tests.conftest import EMBEDDING, RERANKER, Tool
from tests.support.published_model import pinned, written

CONTENT = {"config.json": b"{}"}
LOADED = [kind for kind in Kind if kind.spec.loads]


def place(root: Path, kind: Kind, model_id: str = EMBEDDING) -> LockedModel:
    """A whole model in a collection, without a Hub view."""
    model = LockedModel(kind, model_id, "main", "c" * 40, pinned(CONTENT).files)
    home = written(root / kind.spec.collection / sanitize_model_id(model_id), CONTENT)
    (home / ".cache-models.json").write_bytes(format_receipt(model))
    return model


def loaded(root: Path, kind: Kind, model_id: str = EMBEDDING) -> str:
    """The directory that a loader of this kind gets."""

    def loader(path: str, **_: object) -> str:
        return path

    return load(kind, model_id, root, loader, {})


@pytest.mark.parametrize("shown", Kind)
def test_of_two_directories_of_one_id_the_one_in_the_view_is_given(tmp_path: Path, shown: Kind) -> None:
    """The view is that of the version that was published last; the other one is not pruned yet."""
    models = {kind: place(tmp_path, kind) for kind in Kind}
    places = Places.below(tmp_path)
    assert model_path(EMBEDDING, places) == places.home(Kind.EMBEDDING, EMBEDDING)
    write_view(tmp_path / "hub", models[shown])
    assert model_path(EMBEDDING, places) == places.home(shown, EMBEDDING)
    assert [loaded(tmp_path, kind) for kind in LOADED] == [str(places.home(kind, EMBEDDING)) for kind in LOADED]
    hold_view(tmp_path / "hub", models[shown])
    assert model_path(EMBEDDING, places) == places.home(Kind.EMBEDDING, EMBEDDING)


def test_a_view_that_leads_to_neither_decides_nothing(tmp_path: Path) -> None:
    """Its model has been removed by hand; and a ref of a client names no snapshot, wherever it leads."""
    reranker = place(tmp_path, Kind.RERANKER)
    write_view(tmp_path / "hub", reranker)
    shutil.rmtree(tmp_path / "cached_reranker_models")
    places = Places.below(tmp_path)
    for kind in (Kind.SPARSE, Kind.OTHER):
        place(tmp_path, kind)
    assert model_path(EMBEDDING, places) == places.home(Kind.SPARSE, EMBEDDING)
    write_view(tmp_path / "hub", place(tmp_path, Kind.OTHER))
    assert model_path(EMBEDDING, places) == places.home(Kind.OTHER, EMBEDDING)
    (tmp_path / "hub/models--tinyorg--embedding/refs/main").write_text(str(tmp_path))
    assert model_path(EMBEDDING, places) == places.home(Kind.SPARSE, EMBEDDING)


def test_the_one_in_the_view_is_not_replaced_by_an_older_one(tmp_path: Path) -> None:
    """Where it is not whole, that is said; the other directory is another version."""
    place(tmp_path, Kind.EMBEDDING)
    write_view(tmp_path / "hub", place(tmp_path, Kind.OTHER))
    places = Places.below(tmp_path)
    (places.home(Kind.OTHER, EMBEDDING) / "config.json").unlink()
    with pytest.raises(IntegrityError, match="cached_other_models"):
        model_path(EMBEDDING, places)


def test_a_model_that_moves_to_another_table_is_found_where_it_is_now(pair: Tool) -> None:
    """By the command, by the function and by its id, before `prune` and after."""
    assert pair("sync").exit_code == 0
    table = (pair.folder / "models.toml").read_text()
    for toml, kind in [
        (table.replace("[[embedding]]", "[[other]]").replace("id =", "include = ['*.json']\nid =", 1), "other"),
        (table, "embedding"),
    ]:
        (pair.folder / "models.toml").write_text(toml)
        assert pair("lock").exit_code == pair("sync").exit_code == 0
        assert pair.home(EMBEDDING).is_dir()
        assert cache_models.model_path(EMBEDDING) == pair.home(EMBEDDING, kind)
        assert pair("path", EMBEDDING).out == f"{pair.home(EMBEDDING, kind)}\n"
        assert loaded(pair.folder, Kind.EMBEDDING) == str(pair.home(EMBEDDING))
    assert pair("prune").exit_code == 0
    assert cache_models.model_path(EMBEDDING) == pair.home(EMBEDDING)


@pytest.mark.parametrize("there", Kind)
@pytest.mark.parametrize("wanted", LOADED)
def test_a_model_of_another_kind_is_refused_with_the_function_that_loads_it(
    tmp_path: Path, wanted: Kind, there: Kind
) -> None:
    """In every direction; what nothing loads has a directory all the same."""
    place(tmp_path, there)
    if there is wanted:
        assert loaded(tmp_path, wanted) == str(Places.below(tmp_path).home(wanted, EMBEDDING))
        return
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, wanted)
    if there is Kind.OTHER:
        assert caught.value.message == f"{EMBEDDING} is published as [[other]], which nothing here loads"
        assert caught.value.hint == "`cache_models.model_path` gives its directory."
    else:
        where = tmp_path / there.spec.collection
        assert caught.value.message == f"{EMBEDDING} is {there.spec.noun} and not {wanted.spec.noun}: it is in {where}"
        assert caught.value.hint == f"Use `cache_models.{there.spec.loader}`."


def test_each_kind_names_a_function_that_is_there() -> None:
    """The one that `cache_models` gives; a kind without a class has none."""
    loaders = {kind: kind.spec.loader for kind in Kind}
    assert {kind for kind, name in loaders.items() if not name} == {Kind.OTHER}
    assert {name for name in loaders.values() if name} == {
        name for name in cache_models.__all__ if name.startswith("load_")
    }


def test_only_a_model_of_the_same_kind_is_suggested(tmp_path: Path) -> None:
    """A reranker with a similar name is no help to a program that wants vectors."""
    place(tmp_path, Kind.RERANKER)
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, Kind.EMBEDDING, "tinyorg/embeddin")
    assert caught.value.message == f"tinyorg/embeddin is not in {tmp_path / 'cached_embedding_models'}"
    place(tmp_path, Kind.EMBEDDING)
    with pytest.raises(UsageError, match=r"did you mean 'tinyorg/embedding'\?"):
        loaded(tmp_path, Kind.EMBEDDING, "tinyorg/embeddin")


@pytest.mark.parametrize("text", ["../..", "..", "/", "", "a/../b", "embedding"])
def test_no_text_leads_out_of_a_collection(tmp_path: Path, text: str) -> None:
    """It is refused as an id, before any directory is looked at."""
    place(tmp_path, Kind.RERANKER)
    for kind in LOADED:
        with pytest.raises(UsageError):
            loaded(tmp_path, kind, text)
    with pytest.raises(UsageError):
        model_path(text, Places.below(tmp_path))


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_an_id_that_is_nowhere_is_told_with_the_root(tool: Tool, folder: str) -> None:
    """Five directories that do not have it are no news."""
    root = (tool.folder / folder).resolve()
    ran = tool("path", RERANKER, f"--root={folder}")
    assert (ran.exit_code, ran.out) == (2, "")
    assert ran.err.splitlines()[0] == f"error: {RERANKER} is in no cached_*_models directory of {root}"
    place(root, Kind.RERANKER)
    place(root, Kind.RERANKER, RERANKER)
    ran = tool("path", "tinyorg/rerankr", f"--root={folder}")
    told = f"error: tinyorg/rerankr (did you mean '{RERANKER}'?) is in no cached_*_models directory of {root}"
    assert (ran.exit_code, ran.err.splitlines()[0]) == (2, told)
