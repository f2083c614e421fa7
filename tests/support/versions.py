"""Versions of a small repository: its files as values, and another version made by what differs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from modelcache.core.kinds import Kind
from tests.conftest import files_below
from tests.support import tiny

Files = Mapping[str, bytes]
Edits = Mapping[str, object]
"""By path: bytes, a list or a mapping for a whole file, `Keys` for some keys of a JSON object, None for no file."""

OLD, BASE = "sentence_transformers.models.", "sentence_transformers.base.modules."
CODE = b"import torch\n\n\nclass X(torch.nn.Module):\n    pass\n"
WEIGHTS = (".safetensors", ".bin", ".onnx")


class Keys(dict[str, object]):
    """Keys of a JSON object with their new values; a value of None takes the key out."""


def changed(files: Files, edits: Edits) -> dict[str, bytes]:
    """Return another version of a repository."""
    new = dict(files)
    for path, edit in edits.items():
        if edit is None:
            del new[path]
        elif isinstance(edit, bytes):
            new[path] = edit
        elif isinstance(edit, Keys):
            document = {**json.loads(new.get(path, b"{}")), **edit}
            new[path] = json.dumps({key: value for key, value in document.items() if value is not None}).encode()
        else:
            new[path] = json.dumps(edit).encode()
    return new


def modules(*types: str) -> list[dict[str, object]]:
    """Return modules.json: a folder and a class each, as in `1_Pooling=sentence_transformers.models.Pooling`."""
    pairs = [named.rpartition("=") for named in types]
    return [
        {"idx": number, "name": str(number), "path": path, "type": kind} for number, (path, _, kind) in enumerate(pairs)
    ]


@cache
def repository(kind: Kind) -> Files:
    """Return the files of a small model of a kind, or of a repository that is never loaded."""
    with tempfile.TemporaryDirectory() as folder:
        make = tiny.tiny_reranker if kind is Kind.RERANKER else tiny.tiny_embedding
        files = files_below(make(Path(folder) / "model"))
    sparse, multi = (
        "sentence_transformers.sparse_encoder.models.",
        "sentence_transformers.multi_vector_encoder.modules.",
    )
    edits: dict[Kind, Edits] = {
        Kind.SPARSE: {
            "config.json": Keys(architectures=["BertForMaskedLM"]),
            "modules.json": modules(f"={sparse}MLMTransformer", f"1_SpladePooling={sparse}SpladePooling"),
            "1_SpladePooling/config.json": {"pooling_strategy": "max"},
            "config_sentence_transformers.json": Keys(model_type="SparseEncoder"),
            "1_Pooling/config.json": None,
        },
        Kind.MULTI_VECTOR: {
            "modules.json": modules(
                f"={BASE}transformer.Transformer", f"1_MultiVectorMask={multi}multi_vector_mask.MultiVectorMask"
            ),
            "1_MultiVectorMask/config.json": {"skiplist_words": []},
            "config_sentence_transformers.json": Keys(model_type="MultiVectorEncoder"),
            "1_Pooling/config.json": None,
        },
        Kind.OTHER: {
            "gguf/model-Q4.gguf": b"GGUF" + b"\1" * 40_000,
            "notes.json": {"a": 1},
            ".gitattributes": b"*.gguf filter=lfs\n*.safetensors filter=lfs\n",
        },
    }
    return changed(files, edits.get(kind, {}))


def weights(seed: int, size: int = 100_000) -> bytes:
    """Return a sound safetensors file; another seed gives other numbers."""
    return tiny.safetensors_of(b"%d" % seed, size)


@cache
def pickle(size: int) -> bytes:
    """Return a pickle of tensors, as torch.save writes it; another size holds others."""
    with tempfile.TemporaryDirectory() as folder:
        return tiny.write_pickle(Path(folder) / "pytorch_model.bin", size).read_bytes()
