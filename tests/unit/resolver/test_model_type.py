"""Every layout of every kind under every table: shipped under one of them, and refused with its name elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import Pooling, RemoteCode, WantedModel
from modelcache.resolver.files import choose
from modelcache.resolver.kind_of import kind_of
from tests.support.choosing import LOADED, chosen, listed
from tests.support.models.layouts import LAYOUTS, MULTI_VECTOR_LAYOUTS, SPARSE_LAYOUTS, Layout

pytestmark = pytest.mark.slow

EVERY = [*LAYOUTS, *SPARSE_LAYOUTS, *MULTI_VECTOR_LAYOUTS]
by_name = pytest.mark.parametrize("layout", EVERY, ids=lambda layout: layout.make.__name__)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them."""
    root = tmp_path_factory.mktemp("layouts")
    return {layout.id: layout.make(root / layout.make.__name__) for layout in EVERY}


def wanted(layout: Layout, kind: Kind, folder: Path) -> WantedModel:
    """Want a layout as a kind, with every permission, and the pooling where that kind has to be told of it."""
    model = WantedModel(kind, layout.id, allow_pickle=True, trust_remote_code=layout.trust)
    if kind is Kind.EMBEDDING and not (folder / "modules.json").exists():
        return replace(model, pooling=Pooling.MEAN, normalize=False)
    return model


@by_name
def test_its_kind_is_read_from_its_files(layout: Layout, made: dict[str, Path]) -> None:
    """Whatever kind was thought of; nothing has to be asked."""
    folder = made[layout.id]
    files = {file.path: file for file in listed(folder)}
    for kind in LOADED:
        model = wanted(layout, kind, folder)
        assert kind_of(model, files, lambda file: (folder / file.path).read_bytes()) == layout.table_name


@by_name
def test_it_is_shipped_under_the_table_of_its_kind_alone(layout: Layout, made: dict[str, Path]) -> None:
    """Elsewhere it is refused, and the right table is the only one that is named; that is all that keeps it out."""
    folder = made[layout.id]
    for kind in LOADED:
        model = wanted(layout, kind, folder)
        if kind == layout.table_name:
            assert (chosen(folder, model).remote_code is RemoteCode.VENDORED) is layout.trust
            continue
        with pytest.raises(PolicyError) as caught:
            choose(model, listed(folder), lambda file: (folder / file.path).read_bytes())
        assert {one for one in LOADED if f"list it under [[{one}]]" in caught.value.message} == {layout.table_name}
        assert "kind" in caught.value.settings
