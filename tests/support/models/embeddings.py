"""Embedding models in the layouts that are found on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.models.bert import as_checked_out, bert, save_bert, seed, transformer
from tests.support.tiny import Shape, random_values, write_json, write_paper, write_safetensors, write_sentence_files

HIDDEN = Shape().hidden
TASK = "sentence-similarity"


def plain_embedding(folder: Path) -> Path:
    """Transformer, Pooling and Normalize with model.safetensors: what most repositories are."""
    return _classic(folder, "plain-embedding", bert())


def sharded_embedding(folder: Path) -> Path:
    """The plain model with its weights in several shards and an index."""
    return _classic(folder, "sharded-embedding", bert(), shard="40KB")


def fp16_embedding(folder: Path) -> Path:
    """The plain model in half precision, which sentence-transformers 6 keeps when it loads."""
    return _classic(folder, "fp16-embedding", bert().half())


def bin_only_embedding(folder: Path) -> Path:
    """The plain model as it was published before safetensors: only a pickle, in the zip format of torch."""
    import torch

    model = bert()
    _classic(folder, "bin-only-embedding", model)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def sharded_bin_embedding(folder: Path) -> Path:
    """The plain model as a large one was published before safetensors: pickles in shards, with an index."""
    import torch

    _classic(folder, "sharded-bin-embedding", bert())
    (folder / "model.safetensors").unlink()
    tensors = list(bert().state_dict().items())
    weight_map: dict[str, str] = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save(dict(part), folder / shard)
        weight_map |= dict.fromkeys((name for name, _ in part), shard)
    size = sum(tensor.numel() * 4 for _, tensor in tensors)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    return folder


def dense_bin_embedding(folder: Path) -> Path:
    """Two Dense modules as sentence-transformers 2 wrote them: weights in safetensors, the modules' in pickles."""
    import torch
    from safetensors.torch import load_file

    dense_embedding(folder)
    for module in ("2_Dense", "3_Dense"):
        weights = folder / module / "model.safetensors"
        torch.save(load_file(weights), folder / module / "pytorch_model.bin")
        weights.unlink()
    return folder


def no_modules_embedding(folder: Path) -> Path:
    """A plain transformers repository: without modules.json, so the loader adds mean pooling itself."""
    save_bert(folder, bert())
    write_paper(folder, "no-modules-embedding", "feature-extraction")
    return folder


def dense_embedding(folder: Path) -> Path:
    """Transformer, Pooling and two Dense modules, each of these with weights in a folder of its own."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    with transformer() as first, seed(11):
        return _saved(folder, "dense-embedding", [first, Pooling(HIDDEN), Dense(HIDDEN, 16), Dense(16, 8)])


def static_embedding(folder: Path) -> Path:
    """One StaticEmbedding: a tokenizer and a table, no transformer and no config.json."""
    return _saved(folder, "static-embedding", [_static()])


def router_embedding(folder: Path) -> Path:
    """A Router: queries go through a table, documents through a transformer in a folder of its own."""
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    with transformer() as first:
        routes = Router.for_query_document(
            query_modules=[_static(), Normalize()],
            document_modules=[first, Pooling(HIDDEN), Normalize()],
        )
        return _saved(folder, "router-embedding", [routes])


def peft_adapter(folder: Path, base: str = "tinyorg/plain-embedding") -> Path:
    """A LoRA adapter with the sentence-transformers files around it; the weights proper are those of ``base``."""
    write_paper(folder, "peft-adapter", TASK)
    write_sentence_files(folder, HIDDEN)
    query = "base_model.model.encoder.layer.{}.attention.self.query.lora_{}.weight"
    tensors = {}
    for layer in range(Shape().layers):
        tensors[query.format(layer, "A")] = (4, HIDDEN)
        tensors[query.format(layer, "B")] = (HIDDEN, 4)
    write_safetensors(folder / "adapter_model.safetensors", tensors, random_values(tensors, seed=5))
    adapter = {
        "base_model_name_or_path": base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["query"],
        "task_type": "FEATURE_EXTRACTION",
    }
    write_json(folder / "adapter_config.json", adapter)
    return folder


def _classic(folder: Path, title: str, model: Any, shard: str = "1GB") -> Path:
    """Lay a BERT out with the module files of sentence-transformers 2, which most repositories still have."""
    save_bert(folder, model, shard)
    write_sentence_files(folder, HIDDEN)
    write_paper(folder, title, TASK)
    return folder


def _saved(folder: Path, title: str, modules: list[Any]) -> Path:
    """Let the installed sentence-transformers write the repository, as authors of today do."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    as_checked_out(folder)
    write_paper(folder, title, TASK)
    return folder


def _static() -> Any:
    """Return a seeded StaticEmbedding with a tokenizer of its own, because it turns padding off in it."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    with transformer() as other, seed(13):
        return StaticEmbedding(other.tokenizer.backend_tokenizer, embedding_dim=HIDDEN)
