"""Which weight files are shipped, converted or refused."""

from __future__ import annotations

import pytest

from modelcache.core.kinds import Kind
from modelcache.core.types import WantedModel
from tests.support.choosing import BERT, MODULES, WHOLE, among, paths, refusal


def test_a_pickle_that_no_module_opens_is_left_behind() -> None:
    """Below a Router the weights are in folders; a pickle in the root is a duplicate, not a reason to refuse."""
    router = {"types": {"query_0": "sentence_transformers.models.StaticEmbedding"}}
    modules = [{"path": "", "type": "sentence_transformers.models.Router"}]
    files = {"modules.json": modules, "router_config.json": router, "query_0/model.safetensors": b""}
    assert paths(among({**files, "pytorch_model.bin": b""})) == files.keys()


def test_a_named_weight_file_is_preferred() -> None:
    """`transformers_weights` of config.json is what transformers loads first."""
    config = {**BERT, "transformers_weights": "other.safetensors"}
    found = paths(among({**WHOLE, "config.json": config, "other.safetensors": b""}))
    assert "other.safetensors" in found
    assert "model.safetensors" not in found


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pkl", "setup.py"])
def test_a_pickle_does_not_come_in_by_name(name: str) -> None:
    """A configuration that names a pickle as its weights is no way round the rule."""
    config = {**BERT, "transformers_weights": name}
    files = {"modules.json": MODULES, "config.json": config, name: b""}
    assert name in refusal(files)[0]


def test_a_named_weight_file_that_is_missing_is_refused() -> None:
    """The loader opens the named file only; without it the directory cannot load."""
    refusal({**WHOLE, "config.json": {**BERT, "transformers_weights": "other.safetensors"}})


def test_a_dense_module_without_weights_is_refused() -> None:
    """A Dense without its matrix does not load, so it is not shipped."""
    dense = {"idx": 1, "name": "1", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    refusal({**WHOLE, "modules.json": [*MODULES, dense], "2_Dense/config.json": {"in_features": 4, "out_features": 2}})


@pytest.mark.parametrize(
    ("files", "pickles", "indexes"),
    [
        ({"pytorch_model.bin": b""}, ["pytorch_model.bin"], []),
        (
            {"pytorch_model.bin.index.json": {"weight_map": {"a": "x-1.bin", "b": "x-2.bin"}}}
            | {"x-1.bin": b"", "x-2.bin": b"", "x-3.bin": b""},
            ["x-1.bin", "x-2.bin"],
            ["pytorch_model.bin.index.json"],
        ),
        (
            {
                "model.safetensors": b"",
                "pytorch_model.bin": b"",
                "2_Dense/pytorch_model.bin": b"",
                "2_Dense/config.json": {},
            },
            ["2_Dense/pytorch_model.bin"],
            [],
        ),
        ({"model.safetensors": b"", "pytorch_model.bin": b"", "training_args.bin": b""}, [], []),
    ],
    ids=["one file", "shards", "in a module", "not needed"],
)
def test_with_leave_pickles_are_to_be_converted(
    files: dict[str, object], pickles: list[str], indexes: list[str]
) -> None:
    """`allow_pickle = true`: only where there is nothing better, and never shipped as they are."""
    dense = [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    modules = MODULES + dense * ("2_Dense/config.json" in files)
    wanted = WantedModel(Kind.EMBEDDING, "owner/name", allow_pickle=True)
    choice = among({"modules.json": modules, "config.json": BERT} | files, wanted)
    assert [file.path for file in choice.pickles] == pickles
    assert [file.path for file in choice.pickle_indexes] == indexes
    assert not [path for path in paths(choice) if path.endswith((".bin", ".bin.index.json"))]


@pytest.mark.parametrize(
    ("index", "told"),
    [({}, "names no shards"), ({"weight_map": {"a": "x-1.bin"}}, "names x-1.bin, which is not there")],
)
def test_an_index_of_pickles_that_is_not_whole_is_refused(index: dict[str, object], told: str) -> None:
    """A shard that is missing, or is no pickle, is no model."""
    files = {"modules.json": MODULES, "config.json": BERT, "pytorch_model.bin.index.json": index}
    assert told in refusal(files, WantedModel(Kind.EMBEDDING, "owner/name", allow_pickle=True))[0]
