"""Multi-vector models in the layouts that are found on the Hub."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from tests.support.models.bert import as_checked_out, bert, save_bert, seed, transformer
from tests.support.tiny import VOCABULARY, Shape, write_json, write_paper, write_tokenizer

HIDDEN = Shape().hidden
TASK = "sentence-similarity"
TAGS = ("ColBERT", "sentence-transformers", "feature-extraction")
MARKERS = ("[Q] ", "[D] ")


def pylate_multi_vector(folder: Path) -> Path:
    """A Transformer and PyLate's own Dense: lightonai/GTE-ModernColBERT-v1 as PyLate writes it today."""
    return _pylate(folder, "pylate-multi-vector", {"model_type": "ColBERT"})


def old_pylate_multi_vector(folder: Path) -> Path:
    """The same as PyLate wrote it before it was based on sentence-transformers 5, without `model_type`."""
    return _pylate(folder, "old-pylate-multi-vector", {})


def stanford_multi_vector(folder: Path) -> Path:
    """A ColBERT of Stanford, with the projection among its weights: colbert-ir/colbertv2.0."""
    return _stanford(folder, "stanford-multi-vector", dimension=16, document_length=48)


def small_stanford_multi_vector(folder: Path) -> Path:
    """The same with another dimension, and a heavy file beside: answerdotai/answerai-colbert-small-v1."""
    _stanford(folder, "small-stanford-multi-vector", dimension=12, document_length=40)
    (folder / "onnx").mkdir()
    for name in ("vespa_colbert.onnx", "onnx/model_int8.onnx"):
        (folder / name).write_bytes(bytes(200_000))
    as_checked_out(folder)
    return folder


def stanford_bin_multi_vector(folder: Path) -> Path:
    """The same as it was published before safetensors."""
    import torch
    from safetensors.torch import load_file

    stanford_multi_vector(folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    as_checked_out(folder)
    return folder


def saved_multi_vector(folder: Path) -> Path:
    """A Transformer, a projection, the mask and Normalize, as sentence-transformers 6 writes them."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.base.modules.normalize import Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from torch import nn

    tokens = "token_embeddings"
    with transformer() as first, seed(19):
        modules = [
            first,
            Dense(HIDDEN, 16, bias=False, activation_function=nn.Identity(), module_input_name=tokens),
            MultiVectorMask(skiplist_words=list(string.punctuation)),
            Normalize(module_input_name=tokens),
        ]
        prompts = {"query": "question: ", "document": "text: "}
        model = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
        model.save_pretrained(str(folder), create_model_card=False)
    as_checked_out(folder)
    write_paper(folder, "saved-multi-vector", TASK, ("multi-vector", "sentence-transformers"))
    return folder


def _pylate(folder: Path, title: str, extra: dict[str, str]) -> Path:
    """Lay out a model of PyLate: two words that mark questions and documents, and no module after the Dense."""
    from sentence_transformers.base.modules import Dense
    from torch import nn
    from transformers import AutoTokenizer

    save_bert(folder, _with_markers())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens(list(MARKERS))
    tokenizer.save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 47, "do_lower_case": False})
    config = {
        "__version__": {"sentence_transformers": "4.0.2", "transformers": "4.48.2", "pytorch": "2.5.1+cu124"},
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": MARKERS[0],
        "document_prefix": MARKERS[1],
        "query_length": 32,
        "document_length": 48,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        **extra,
    }
    write_json(folder / "config_sentence_transformers.json", config)
    with seed(19):
        dense = Dense(HIDDEN, 16, bias=False, activation_function=nn.Identity())
    (folder / "1_Dense").mkdir()
    dense.save_torch_weights(str(folder / "1_Dense"))
    projection = {
        "in_features": HIDDEN,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    write_json(folder / "1_Dense" / "config.json", projection)
    as_checked_out(folder)
    write_paper(folder, title, TASK, (*TAGS, "PyLate"))
    return folder


def _stanford(folder: Path, title: str, dimension: int, document_length: int) -> Path:
    """Lay out a HF_ColBERT of the colbert-ai package, a class that transformers does not have."""
    import torch
    from safetensors.torch import save_file

    model = _with_markers()
    save_bert(folder, model)
    write_json(folder / "config.json", {**Shape(vocabulary=len(VOCABULARY) + 2).config("HF_ColBERT")})
    with seed(19):
        tensors = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors["linear.weight"] = torch.randn(dimension, HIDDEN)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder, len(VOCABULARY) + 2)
    for name in ("tokenizer.json", "vocab.txt"):  # the tokens that mark questions and documents
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(text.replace("word0", "[unused0]").replace("word1", "[unused1]"), "utf-8")
    metadata = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "ncells": None,
        "similarity": "cosine",
        "dim": dimension,
        "doc_maxlen": document_length,
        "query_maxlen": 32,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "checkpoint": "bert-base-uncased",
        "nbits": 2,
        "meta": {"hostname": "machine", "git_branch": "main", "version": "colbert-v0.4"},
    }
    write_json(folder / "artifact.metadata", metadata)
    as_checked_out(folder)
    write_paper(folder, title, TASK, TAGS)
    return folder


def _with_markers() -> Any:
    """Return the BERT with two more tokens."""
    model = bert()
    with seed(23):
        model.resize_token_embeddings(len(VOCABULARY) + 2, mean_resizing=False)
    return model
