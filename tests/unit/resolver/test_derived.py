"""What is made from a repository's files is pinned by its bytes: another byte here would break locks that exist."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from modelcache.core.errors import IntegrityError, PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import LockedFile, LockedModel, Made, Original, Pooling
from modelcache.pipeline.derive import derive_files
from modelcache.resolver.derived import converted_name, module_files, rewritten

CONFIG = json.dumps({"hidden_size": 32}).encode()
INDEX = json.dumps({"metadata": {"total_size": 1}, "weight_map": {"é": "pytorch_model-1.bin", "b": "x/y.bin"}}).encode()


def digest(*contents: bytes) -> str:
    """The beginning of the SHA-256 over contents."""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


@pytest.mark.parametrize(
    ("pooling", "plain", "normalized"),
    [
        (Pooling.CLS, "c7caa5d146f074f2", "79a91178b38b6902"),
        (Pooling.MAX, "de171b3cb79bb2a5", "790a74d079216d18"),
        (Pooling.MEAN, "672f1f8e1d1318dc", "f8d0ab717820901f"),
        (Pooling.MEAN_SQRT, "d34349b8b1b4f72d", "28b9cec9f4e2ce42"),
        (Pooling.WEIGHTED_MEAN, "64539dcac137477c", "ee72aad3477b2ecc"),
        (Pooling.LAST, "413ec6b6048fbc88", "58cf976e6a932fad"),
    ],
)
def test_pooling_is_written_with_these_bytes(pooling: Pooling, plain: str, normalized: str) -> None:
    """Both files of each pooling, with and without Normalize."""
    for normalize, expected in ((False, plain), (True, normalized)):
        files = module_files(pooling, normalize=normalize, config=CONFIG)
        assert sorted(files) == ["1_Pooling/config.json", "modules.json"]
        assert digest(*(files[path] for path in sorted(files))) == expected


def test_an_index_is_rewritten_with_these_bytes() -> None:
    """Only the shards' names change; the order of the tensors stays."""
    made = rewritten(Original("pytorch_model.bin.index.json", len(INDEX), "a" * 64), INDEX)
    assert json.loads(made)["weight_map"] == {"é": "model-1.safetensors", "b": "x/y.safetensors"}
    assert digest(made) == "fbfda291d447fc4a"


def test_a_configuration_is_made_local_with_these_bytes() -> None:
    """Everything but the references is left as it is."""
    config = b'{ "auto_map":{"AutoModel": "o/r--m.M"},\n"x" : 1.50 }'
    made = rewritten(Original("config.json", len(config), "a" * 64), config)
    assert made == b'{ "auto_map":{"AutoModel": "m.M"},\n"x" : 1.50 }'


@pytest.mark.parametrize(
    ("path", "name", "index"),
    [
        ("pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"),
        ("2_Dense/pytorch_model.bin", "2_Dense/model.safetensors", "2_Dense/model.safetensors.index.json"),
        ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors", None),
        ("weights.bin", "weights.safetensors", None),
    ],
)
def test_converted_files_have_the_names_that_loaders_look_for(path: str, name: str, index: str | None) -> None:
    """As transformers and sentence-transformers save them themselves."""
    assert converted_name(path) == name
    if index:
        assert converted_name(f"{path}.index.json") == index


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}'])
def test_what_is_no_index_is_refused(content: bytes) -> None:
    """Exit 5, not a traceback."""
    with pytest.raises(PolicyError, match=r"pytorch_model\.bin\.index\.json"):
        rewritten(Original("pytorch_model.bin.index.json", len(content), "a" * 64), content)


# Preparing


def pinned(content: bytes) -> LockedFile:
    """A configuration that is made local, as it would be pinned."""
    original = Original("config.json", len(content), hashlib.sha256(content).hexdigest())
    made = rewritten(original, content)
    return LockedFile("config.json", len(made), hashlib.sha256(made).hexdigest(), Made.REWRITTEN, original)


CONTENT = b'{"auto_map": {"AutoModel": "o/r--m.M"}, "hidden_size": 32}'


def test_an_original_goes_as_soon_as_it_is_used(tmp_path: Path) -> None:
    """Two files from one original, too: it lies beside them no longer than it has to."""
    file = pinned(CONTENT)
    nested = LockedFile("0_Inner/config.json", file.size, file.sha256, file.made, file.original)
    model = LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, (nested, file))
    originals = tmp_path / "originals"
    originals.mkdir()
    assert file.original
    (originals / file.original.sha256).write_bytes(CONTENT)
    derive_files(model, tmp_path / "tree", originals)
    assert list(originals.iterdir()) == []
    assert (tmp_path / "tree/config.json").read_bytes() == (tmp_path / "tree/0_Inner/config.json").read_bytes()


def test_what_is_there_already_is_not_made_again(tmp_path: Path) -> None:
    """A finished file came from another root, or from a run before."""
    file = pinned(CONTENT)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/config.json").write_bytes(b"finished")
    derive_files(LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, (file,)), tmp_path / "tree", tmp_path / "nowhere")
    assert (tmp_path / "tree/config.json").read_bytes() == b"finished"


def test_made_bytes_that_are_not_the_pinned_ones_are_told(tmp_path: Path) -> None:
    """Exit 1 with both hashes, and that another version of this tool may have made the lock."""
    file = pinned(CONTENT)
    wrong = LockedFile(file.path, file.size, "b" * 64, file.made, file.original)
    (tmp_path / "originals").mkdir()
    assert file.original
    (tmp_path / "originals" / file.original.sha256).write_bytes(CONTENT)
    with pytest.raises(IntegrityError, match=re.escape(file.path)) as caught:
        derive_files(
            LockedModel(Kind.EMBEDDING, "a/b", "main", "c" * 40, (wrong,)), tmp_path / "tree", tmp_path / "originals"
        )
    assert "b" * 64 in caught.value.message
    assert "lock --upgrade" in caught.value.hint
