"""Sparse encoders in the layouts that are found on the Hub."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.models.bert import as_checked_out, bert, save_bert, seed, transformer
from tests.support.tiny import VOCABULARY, Shape, write_json, write_paper

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK = "feature-extraction"
TAGS = ("sentence-transformers", "sparse-encoder", "sparse", "splade")
# Of sentence-transformers 5.0 to 5.3, as most repositories have them.
_OLD = "sentence_transformers.sparse_encoder.models."


def splade_sparse(folder: Path) -> Path:
    """MLMTransformer and SpladePooling with the names of version 5: naver/splade-v3."""
    save_bert(folder, masked())
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_OLD}MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{_OLD}SpladePooling"},
    ]
    _write_old(folder, "splade-sparse", modules)
    _write_pooling(folder / "1_SpladePooling")
    return folder


def saved_sparse(folder: Path) -> Path:
    """The same model as sentence-transformers 6 writes it."""
    with tempfile.TemporaryDirectory() as spare, _filling(Path(spare)) as modules:
        return _saved(folder, "saved-sparse", modules)


def raw_sparse(folder: Path) -> Path:
    """A masked language model without modules.json, whose card calls it SPLADE: naver's before version 5."""
    save_bert(folder, masked())
    write_paper(folder, "raw-sparse", "fill-mask", ("splade", "query-expansion", "bag-of-words", "passage-retrieval"))
    return folder


def raw_bin_sparse(folder: Path) -> Path:
    """The same with its weights in a pickle: naver/efficient-splade-VI-BT-large-doc."""
    import torch

    raw_sparse(folder)
    (folder / "model.safetensors").unlink()
    torch.save(masked().state_dict(), folder / "pytorch_model.bin")
    as_checked_out(folder)
    return folder


def routes_sparse(folder: Path) -> Path:
    """Queries through a table, documents through the model in the root: opensearch-neural-sparse-…-doc-v2-distill."""
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    save_bert(folder, masked())
    _write_old(
        folder, "routes-sparse", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}]
    )
    query, pooling = "query_0_SparseStaticEmbedding", "document_1_SpladePooling"
    types = {query: f"{_OLD}SparseStaticEmbedding", "": f"{_OLD}MLMTransformer", pooling: f"{_OLD}SpladePooling"}
    structure = {"query": [query], "document": ["", pooling]}
    parameters = {"default_route": "document", "allow_empty_key": True}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_json(folder / "idf.json", weights_of_words())
    with transformer() as other:
        table = SparseStaticEmbedding.from_json(str(folder / "idf.json"), other.tokenizer)
        (folder / query).mkdir()
        table.save(str(folder / query))
    _write_pooling(folder / pooling, activation="log1p_relu")
    as_checked_out(folder)
    return folder


def saved_routes_sparse(folder: Path) -> Path:
    """The same two ways as sentence-transformers 6 writes them: each module in a folder of its own."""
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    with tempfile.TemporaryDirectory() as spare, _filling(Path(spare)) as modules, transformer() as other:
        words = Path(spare) / "idf.json"
        write_json(words, weights_of_words())
        table = SparseStaticEmbedding.from_json(str(words), other.tokenizer)
        routes = Router.for_query_document(query_modules=[table], document_modules=modules)
        return _saved(folder, "saved-routes-sparse", [routes])


def csr_sparse(folder: Path) -> Path:
    """An embedding model under a SparseAutoEncoder: tomaarsen/csr-mxbai-embed-large-v1-nq."""
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    hidden = Shape().hidden
    with transformer() as first, seed(17):
        return _saved(
            folder,
            "csr-sparse",
            [first, Pooling(hidden), SparseAutoEncoder(input_dim=hidden, hidden_dim=4 * hidden, k=16, k_aux=32)],
        )


def masked() -> Any:
    """Return the BERT with its head over the vocabulary, so that few words weigh something for a text."""
    model = bert("BertForMaskedLM")
    model.cls.predictions.bias.data.fill_(-2.0)
    return model


def weights_of_words() -> dict[str, float]:
    """Return the weight of each word: a rare one counts more."""
    return {word: round(1.0 + 7.0 * number / len(VOCABULARY), 6) for number, word in enumerate(VOCABULARY)}


def _write_old(folder: Path, title: str, modules: list[dict[str, Any]]) -> None:
    """Write the files around the modules as version 5 wrote them."""
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    config = {
        "model_type": "SparseEncoder",
        "__version__": {"sentence_transformers": "5.0.0", "transformers": "4.50.3", "pytorch": "2.6.0+cu124"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    }
    write_json(folder / "config_sentence_transformers.json", config)
    write_paper(folder, title, TASK, TAGS)


def _write_pooling(folder: Path, activation: str = "relu") -> None:
    config = {"pooling_strategy": "max", "activation_function": activation, "word_embedding_dimension": len(VOCABULARY)}
    write_json(folder / "config.json", config)


@contextmanager
def _filling(spare: Path) -> Iterator[list[Any]]:
    """Lend the two modules of SPLADE, as version 6 calls them."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    save_bert(spare / "masked", masked())
    first = Transformer(str(spare / "masked"), transformer_task="fill-mask")
    yield [first, SpladePooling("max", embedding_dimension=len(VOCABULARY))]


def _saved(folder: Path, title: str, modules: list[Any]) -> Path:
    """Let the installed sentence-transformers write the repository, as authors of today do."""
    from sentence_transformers import SparseEncoder

    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)
    as_checked_out(folder)
    write_paper(folder, title, TASK, TAGS)
    return folder
