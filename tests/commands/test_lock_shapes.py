"""Repositories as they stand on the Hub, by the files that they have, and what `lock` makes of each.

Contents are cut down to what a rule reads. What is not named as left behind is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import LARGEST_TEXT, ListedFile, Pooling, RemoteCode, WantedModel
from modelcache.resolver.files import choose
from tests.support.choosing import LOADED

EMBEDDING = WantedModel(Kind.EMBEDDING, "owner/name")
POOLED = replace(EMBEDDING, pooling=Pooling.MEAN, normalize=True)
RERANKER = WantedModel(Kind.RERANKER, "owner/name")
SPARSE = WantedModel(Kind.SPARSE, "owner/name")
MULTI_VECTOR = WantedModel(Kind.MULTI_VECTOR, "owner/name")

Files = dict[str, Any]
W = b"weights"
OLD, NEW, SCORE = "sentence_transformers.models.", "sentence_transformers.base.modules.", "sentence_transformers."
TOKENIZER: Files = {"tokenizer.json": W, "tokenizer_config.json": {}, "special_tokens_map.json": {}, "vocab.txt": W}
CARD = b"---\nlicense: mit\npipeline_tag: %s\ntags:\n- %s\n---\n# A model\n"
OLD_POOLING = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
NEW_POOLING = {"embedding_dimension": 8, "pooling_mode": "mean"}


@dataclass(frozen=True)
class Large:
    """A file of this many bytes, which nothing may read."""

    size: int


@dataclass(frozen=True)
class Shape:
    """A repository: how it is listed, what it has, and what is told of it."""

    wanted: WantedModel
    files: Files
    left: str = ""
    """Paths, with spaces between, that are not shipped."""
    pickles: str = ""
    refused: tuple[str, ...] = ()
    """Words of the refusal; without any it is shipped."""
    note: tuple[str, ...] = ()
    code: RemoteCode = field(default=RemoteCode.NONE)


def many(paths: str) -> Files:
    """Name files whose contents no rule reads."""
    return dict.fromkeys(paths.split(), W)


def without_weights(files: Files) -> Files:
    """Take the weights out."""
    return {path: what for path, what in files.items() if path != "model.safetensors"}


def parts(*modules: str) -> list[Files]:
    """Write modules.json: a class each, with its folder before it where that is not `N_Class`."""
    made = []
    for number, named in enumerate(modules):
        folder, _, kind = named.rpartition("=")
        path = folder if "=" in named else f"{number}_{kind.rpartition('.')[2]}" if number else ""
        made.append({"idx": number, "name": str(number), "path": path, "type": kind if "." in kind else OLD + kind})
    return made


def saved(model_type: str | None, **more: object) -> Files:
    """Write config_sentence_transformers.json, in the versions before 5 without a type."""
    return {"config_sentence_transformers.json": {**({"model_type": model_type} if model_type else {}), **more}}


def bare(architecture: str, **more: object) -> Files:
    """Write what transformers saves of a model."""
    return {"config.json": {"model_type": "x", "architectures": [architecture], **more}, **TOKENIZER} | {
        "model.safetensors": W
    }


def dense(architecture: str, *modules: str, **more: object) -> Files:
    """Write what sentence-transformers saved before version 5.4."""
    return {
        **bare(architecture, **more),
        **saved(None),
        "modules.json": parts(*(modules or ("Transformer", "Pooling", "Normalize"))),
        "sentence_bert_config.json": {"max_seq_length": 256},
        "1_Pooling/config.json": OLD_POOLING,
    }


LOGIT = parts(f"{NEW}transformer.Transformer", f"{SCORE}cross_encoder.modules.logit_score.LogitScore")
NEWEST = parts(
    f"{NEW}transformer.Transformer",
    f"1_Pooling={SCORE}sentence_transformer.modules.pooling.Pooling",
    f"{NEW}normalize.Normalize",
)
PYLATE: Files = {
    "modules.json": parts("Transformer", "1_Dense=pylate.models.Dense.Dense"),
    "1_Dense/config.json": {"activation_function": "torch.nn.modules.linear.Identity"},
    "1_Dense/model.safetensors": W,
}
PYLATE_KEYS = {"query_prefix": "[Q] ", "query_length": 32, "document_length": 300, "skiplist_words": []}
MULTI: Files = {
    "modules.json": parts(
        f"{NEW}transformer.Transformer",
        f"{NEW}dense.Dense",
        f"{SCORE}multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        f"{NEW}normalize.Normalize",
    ),
    "1_Dense/config.json": {"module_input_name": "token_embeddings"},
    "1_Dense/model.safetensors": W,
    "2_MultiVectorMask/config.json": {},
    "3_Normalize/config.json": {"module_input_name": "token_embeddings"},
}
METADATA = {"artifact.metadata": {"dim": 128, "query_maxlen": 32, "doc_maxlen": 220}}
OLD_SPARSE = f"{SCORE}sparse_encoder.models."
SPLADE: Files = {
    "modules.json": parts(f"{OLD_SPARSE}MLMTransformer", f"{OLD_SPARSE}SpladePooling"),
    "sentence_bert_config.json": {"max_seq_length": 512},
    "1_SpladePooling/config.json": {"pooling_strategy": "max"},
}
NEW_SPLADE: Files = {
    **SPLADE,
    "modules.json": parts(
        f"{NEW}transformer.Transformer", f"{SCORE}sparse_encoder.modules.splade_pooling.SpladePooling"
    ),
    "sentence_bert_config.json": {"transformer_task": "fill-mask"},
}
CSR: Files = {
    "modules.json": parts("Transformer", "Pooling", f"{OLD_SPARSE}SparseAutoEncoder"),
    "1_Pooling/config.json": OLD_POOLING,
    "2_SparseAutoEncoder/config.json": {"input_dim": 8, "hidden_dim": 32},
    "2_SparseAutoEncoder/model.safetensors": W,
}
QUERY = "query_0_SparseStaticEmbedding"
ROUTES: Files = {
    "modules.json": parts("Router"),
    "router_config.json": {
        "types": {
            QUERY: f"{OLD_SPARSE}SparseStaticEmbedding",
            "": f"{OLD_SPARSE}MLMTransformer",
            "document_1_SpladePooling": f"{OLD_SPARSE}SpladePooling",
        }
    },
    f"{QUERY}/config.json": {"frozen": False},
    f"{QUERY}/model.safetensors": W,
    f"{QUERY}/tokenizer.json": W,
    f"{QUERY}/tokenizer_config.json": {},
    "document_1_SpladePooling/config.json": {"activation_function": "log1p_relu"},
    "idf.json": Large(1 << 20),
    "query_token_weights.txt": W,
}
WORDS = {"wordembedding_config.json": {"tokenizer_class": f"{OLD}tokenizer.WhitespaceTokenizer"}}
GLOVE: Files = {
    "modules.json": parts("0_WordEmbeddings=WordEmbeddings", "WordWeights", "Pooling"),
    "0_WordEmbeddings/wordembedding_config.json": WORDS["wordembedding_config.json"],
    "0_WordEmbeddings/whitespacetokenizer_config.json": Large(6 << 20),
    "1_WordWeights/config.json": Large(13 << 20),
    "2_Pooling/config.json": OLD_POOLING,
}
JINA = {"AutoModel": "jinaai/flash--modeling_lora.XLMRobertaLoRA"}
NOMIC = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}
HEADS = {"AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification"}
FORMATS = many(
    "pytorch_model.bin tf_model.h5 rust_model.ot flax_model.msgpack onnx/model.onnx onnx/config.json"
    " openvino/openvino_model.xml openvino/openvino_model.bin train_script.py .gitattributes"
)
TRAINING = many(
    "training_args.bin optimizer.pt scheduler.pt runs/12:30/events.out.tfevents.1:2 all.log checkpoint-500/config.json"
    " checkpoint-500/model.safetensors checkpoint-500/rng_state.pth eval/" + "deep/" * 20 + "result.csv"
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"

SHAPES: dict[str, Shape] = {
    # embedding models that sentence-transformers saved
    "all-MiniLM-L6-v2": Shape(
        EMBEDDING, {**dense("BertModel"), **FORMATS, "data_config.json": []}, left=" ".join(FORMATS)
    ),
    "e5-base-v2": Shape(EMBEDDING, {**dense("BertModel"), "onnx/model.onnx": W}, left="onnx/model.onnx"),
    "LaBSE": Shape(
        EMBEDDING,
        {
            **dense("BertModel", "Transformer", "Pooling", "Dense", "Normalize"),
            "2_Dense/config.json": {"activation_function": "torch.nn.modules.activation.Tanh"},
            "2_Dense/model.safetensors": W,
            "2_Dense/pytorch_model.bin": W,
        },
        left="2_Dense/pytorch_model.bin",
    ),
    "bge-m3": Shape(
        replace(EMBEDDING, allow_pickle=True),
        {
            **without_weights(dense("XLMRobertaModel")),
            **many("pytorch_model.bin colbert_linear.pt sparse_linear.pt onnx/model.onnx_data"),
            **many("imgs/.DS_Store imgs/bm25.jpg long.jpg onnx/Constant_7_attr__value"),
        },
        left="pytorch_model.bin colbert_linear.pt sparse_linear.pt onnx/model.onnx_data imgs/.DS_Store imgs/bm25.jpg"
        " long.jpg onnx/Constant_7_attr__value",
        pickles="pytorch_model.bin",
    ),
    "bge-m3 without leave": Shape(
        EMBEDDING,
        {
            **without_weights(dense("XLMRobertaModel")),
            "pytorch_model.bin": W,
        },
        refused=("only in pytorch_model.bin, a pickle", "allow_pickle = true"),
    ),
    "gte-modernbert-base": Shape(EMBEDDING, dense("ModernBertModel")),
    "Qwen3-Embedding-0.6B": Shape(EMBEDDING, dense("Qwen3ForCausalLM")),
    "e5-mistral-7b-instruct, with shards and the adapter it was trained as": Shape(
        EMBEDDING,
        {
            **without_weights(dense("MistralModel")),
            "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}},
            "model-1.safetensors": W,
            "model-2.safetensors": W,
            "lora/adapter_config.json": {},
            "lora/adapter_model.safetensors": W,
        },
        left="lora/adapter_config.json lora/adapter_model.safetensors",
    ),
    "stella, with heads of several widths": Shape(
        EMBEDDING,
        {
            **dense("BertModel", "Transformer", "Pooling", "2_Dense_1024=Dense"),
            "2_Dense_1024/config.json": {},
            "2_Dense_256/config.json": {},
            "2_Dense_1024/model.safetensors": W,
            "2_Dense_256/model.safetensors": W,
        },
        left="2_Dense_256/config.json 2_Dense_256/model.safetensors",
    ),
    "sentence-t5-base": Shape(
        EMBEDDING,
        {**dense("T5EncoderModel", "Transformer", "Pooling", "Dense", "Normalize"), "spiece.model": W}
        | {"2_Dense/config.json": {}, "2_Dense/model.safetensors": W},
    ),
    "instructor-large": Shape(
        EMBEDDING,
        {**dense("T5EncoderModel", "Transformer", "Pooling", "Dense", "Normalize"), "2_Dense/model.safetensors": W}
        | {"2_Dense/config.json": {}},
    ),
    "embeddinggemma-300m": Shape(
        EMBEDDING,
        {
            **dense("Gemma3TextModel", "Transformer", "Pooling", "Dense", "Dense", "Normalize"),
            "2_Dense/config.json": {},
            "3_Dense/config.json": {},
            "2_Dense/model.safetensors": W,
            "3_Dense/model.safetensors": W,
            "tokenizer.model": W,
        },
    ),
    "trained here, with all that training leaves": Shape(
        EMBEDDING, {**dense("BertModel"), **TRAINING}, left=" ".join(TRAINING)
    ),
    "variants of the weights beside": Shape(
        EMBEDDING,
        {**dense("BertModel"), "model.fp16.safetensors": W, "consolidated.safetensors": W},
        left="model.fp16.safetensors consolidated.safetensors",
    ),
    "pointers of git-lfs beside": Shape(
        EMBEDDING,
        {**dense("BertModel"), "onnx/model.onnx": POINTER, "tf_model.h5": POINTER},
        left="onnx/model.onnx tf_model.h5",
    ),
    "a pointer of git-lfs as a configuration": Shape(
        EMBEDDING, {**dense("BertModel"), "config.json": POINTER}, refused=("config.json is a git-lfs pointer",)
    ),
    "queries and documents by two ways (Asym)": Shape(
        EMBEDDING,
        {
            **bare("BertModel"),
            "modules.json": parts("Transformer", "Pooling", "Asym"),
            "1_Pooling/config.json": OLD_POOLING,
            "2_Asym/config.json": {"types": {"query_0_Dense": f"{OLD}Dense"}, "structure": {}},
            "2_Asym/query_0_Dense/config.json": {},
            "2_Asym/query_0_Dense/model.safetensors": W,
        },
    ),
    "weights for onnx alone": Shape(
        EMBEDDING,
        {**without_weights(dense("BertModel")), "onnx/model.onnx": W},
        refused=("no safetensors weights in its root; it has onnx/model.onnx",),
    ),
    "shards without their index": Shape(
        EMBEDDING,
        {**without_weights(dense("MistralModel")), "model-1-of-2.safetensors": W, "model-2-of-2.safetensors": W},
        refused=("no safetensors weights in its root; it has model-1-of-2.safetensors, model-2-of-2.safetensors",),
    ),
    "weights where no module opens them": Shape(
        EMBEDDING,
        {**bare("BertModel"), "modules.json": parts("1_Pooling=Pooling"), "1_Pooling/config.json": OLD_POOLING},
        refused=("no safetensors weights in the folders of its modules; it has model.safetensors",),
    ),
    "a PEFT adapter": Shape(
        EMBEDDING,
        {**dense("BertModel"), "adapter_config.json": {}, "adapter_model.safetensors": W},
        refused=("PEFT adapter", "merge it"),
    ),
    "uploaded without its folders": Shape(
        EMBEDDING,
        {path: what for path, what in dense("BertModel").items() if "/" not in path},
        refused=("modules.json names a Pooling, and there is no 1_Pooling/config.json: ask the owner to upload it",),
    ),
    "copied without its folders": Shape(
        replace(EMBEDDING, path="model"),
        {path: what for path, what in dense("BertModel", "Transformer", "Pooling", "Dense").items() if "/" not in path},
        refused=("there is no 1_Pooling/config.json: copy the directory whole", "there is no 2_Dense/config.json"),
    ),
    "a modules.json without modules": Shape(
        EMBEDDING, {**bare("BertModel"), "modules.json": []}, refused=("modules.json names no module",)
    ),
    "a notebook's own class": Shape(
        EMBEDDING, dense("BertModel", "__main__.Mine", "Pooling"), refused=("__main__.Mine",)
    ),
    # the newest schema
    "saved by version 6": Shape(
        EMBEDDING,
        {**bare("BertModel"), **saved("SentenceTransformer"), "modules.json": NEWEST}
        | {"1_Pooling/config.json": NEW_POOLING},
        note=("only sentence-transformers 6 and later read the schema of 1_Pooling/config.json, modules.json",),
    ),
    "saved by version 5.4, without normalising": Shape(
        EMBEDDING,
        {**bare("BertModel"), "modules.json": NEWEST[:2], "1_Pooling/config.json": NEW_POOLING},
        note=("5.4 and later read the schema of 1_Pooling/config.json, modules.json", "text-embeddings-inference"),
    ),
    "a pooling file of today below modules.json of old": Shape(
        EMBEDDING,
        {**dense("BertModel"), "1_Pooling/config.json": NEW_POOLING},
        note=("5.4 and later read the schema of 1_Pooling/config.json;",),
    ),
    "a pooling file that says it in both ways": Shape(
        EMBEDDING, {**dense("BertModel"), "1_Pooling/config.json": {**OLD_POOLING, **NEW_POOLING}}
    ),
    "a Router of today": Shape(
        EMBEDDING,
        {
            "modules.json": parts(f"={NEW}router.Router"),
            "router_config.json": {"types": {"query_0_StaticEmbedding": f"{SCORE}sentence_transformer.modules.X"}},
            "query_0_StaticEmbedding/model.safetensors": W,
        },
        note=("5.4 and later read the schema of modules.json, router_config.json",),
    ),
    # words and tables instead of a transformer
    "potion-base-8M": Shape(
        EMBEDDING,
        {"modules.json": parts("=StaticEmbedding", "Normalize"), "tokenizer.json": W, "model.safetensors": W}
        | {"config.json": {"model_type": "model2vec", "architectures": ["StaticModel"]}, "onnx/model.onnx": W},
        left="onnx/model.onnx",
    ),
    "a model2vec model without modules.json": Shape(
        EMBEDDING,
        {"config.json": {"model_type": "model2vec", "architectures": ["StaticModel"]}, "model.safetensors": W},
        refused=("static model of model2vec", "pooling does not apply"),
    ),
    "static-retrieval-mrl-en-v1": Shape(
        EMBEDDING,
        {"modules.json": parts("0_StaticEmbedding=StaticEmbedding"), "0_StaticEmbedding/model.safetensors": W}
        | {"0_StaticEmbedding/tokenizer.json": Large(5 << 20), **saved("SentenceTransformer")},
    ),
    "average_word_embeddings_glove.6B.300d": Shape(
        replace(EMBEDDING, allow_pickle=True),
        {**GLOVE, "0_WordEmbeddings/pytorch_model.bin": W, "1_WordWeights/pytorch_model.bin": W},
        left="0_WordEmbeddings/pytorch_model.bin 1_WordWeights/pytorch_model.bin",
        pickles="0_WordEmbeddings/pytorch_model.bin",
    ),
    "the same with safetensors, a pickle left where it is not opened": Shape(
        EMBEDDING,
        {**GLOVE, "0_WordEmbeddings/model.safetensors": W, "1_WordWeights/pytorch_model.bin": W},
        left="1_WordWeights/pytorch_model.bin",
    ),
    "word embeddings without weights": Shape(EMBEDDING, GLOVE, refused=("no safetensors weights in 0_WordEmbeddings",)),
    "a bag of words": Shape(
        EMBEDDING, {"modules.json": parts("0_BoW=BoW"), "0_BoW/config.json": Large(LARGEST_TEXT + 1), "README.md": W}
    ),
    "a bag of words before a Dense without weights": Shape(
        EMBEDDING,
        {"modules.json": parts("0_BoW=BoW", "Dense"), "0_BoW/config.json": {}, "1_Dense/config.json": {}},
        refused=("no safetensors weights in 1_Dense",),
    ),
    # texts and pictures
    "clip-ViT-B-32": Shape(
        EMBEDDING,
        {"modules.json": parts("0_CLIPModel=CLIPModel"), "0_CLIPModel/config.json": {"model_type": "clip"}}
        | {"0_CLIPModel/model.safetensors": W, "0_CLIPModel/preprocessor_config.json": {}, "0_CLIPModel/merges.txt": W},
    ),
    "clip-vit-base-patch32 of OpenAI": Shape(
        POOLED, bare("CLIPModel"), refused=("texts and pictures", "pooling does not apply to it")
    ),
    # code
    "jina-embeddings-v3": Shape(
        EMBEDDING,
        {
            **dense("XLMRobertaLoRA", "custom_st.Transformer", "Pooling", "Normalize", auto_map=JINA),
            "custom_st.py": W,
        },
        refused=("custom_st.Transformer", "jinaai/flash--modeling_lora", "trust_remote_code = true"),
    ),
    "nomic-embed-text-v1.5": Shape(
        replace(EMBEDDING, trust_remote_code=False),
        dense("NomicBertModel", "Transformer", "Pooling", auto_map=NOMIC),
        code=RemoteCode.OMITTED,
    ),
    "jina-reranker-v2-base-multilingual": Shape(
        replace(RERANKER, trust_remote_code=True),
        {**bare("XLMRobertaForSequenceClassification", auto_map=HEADS), "modeling_xlm_roberta.py": W},
        left="modeling_xlm_roberta.py",
        code=RemoteCode.VENDORED,
    ),
    "a reranker of a custom class": Shape(
        replace(RERANKER, trust_remote_code=True),
        bare("ScoringModel", auto_map={"AutoModelForSequenceClassification": "modeling_x.ScoringModel"}),
        code=RemoteCode.VENDORED,
    ),
    # encoders without modules.json
    "legal-bert-base-uncased": Shape(EMBEDDING, bare("BertForPreTraining"), refused=("no modules.json", "pooling")),
    "legal-bert-base-uncased, pooled": Shape(
        POOLED, bare("BertForPreTraining"), note=("BertForPreTraining", "make sure that its card")
    ),
    "sup-simcse-bert-base-uncased, pooled": Shape(POOLED, bare("BertModel")),
    "contriever, pooled": Shape(POOLED, bare("Contriever")),
    "GritLM-7B, pooled": Shape(POOLED, bare("MistralForCausalLM"), note=("MistralForCausalLM", "a language model")),
    "a file without architectures, pooled": Shape(
        POOLED, {**bare("X"), "config.json": {"model_type": "bert", "hidden_size": 8}}
    ),
    "all-mpnet-base-v2, pooled twice": Shape(POOLED, dense("MPNetModel"), refused=("says how", "take out pooling")),
    "roberta-base-squad2": Shape(POOLED, bare("RobertaForQuestionAnswering"), refused=("another task", "thrown away")),
    "bert-base-NER": Shape(POOLED, bare("BertForTokenClassification"), refused=("another task", "thrown away")),
    # cross-encoders
    "ms-marco-MiniLM-L6-v2": Shape(
        RERANKER,
        {**bare("BertForSequenceClassification", sbert_ce_default_activation_function="torch.nn.Identity"), **FORMATS},
        left=" ".join(FORMATS),
    ),
    "ms-marco-MiniLM-L6-v2, saved by version 4": Shape(
        RERANKER, bare("BertForSequenceClassification", sentence_transformers={"activation_fn": "torch.nn.Identity"})
    ),
    "ms-marco-MiniLM-L6-v2 as an embedding model": Shape(
        EMBEDDING,
        bare("BertForSequenceClassification"),
        refused=("a cross-encoder (config.json names BertForSequenceClassification)", "list it under [[reranker]]"),
    ),
    "the same, pooled": Shape(POOLED, bare("BertForSequenceClassification"), refused=("[[reranker]]",)),
    "a cross-encoder that only its activation tells": Shape(
        POOLED,
        {**bare("X"), "config.json": {"sentence_transformers": {"version": "4.0.1"}}},
        refused=("a cross-encoder (config.json has sentence_transformers)", "[[reranker]]"),
    ),
    "bge-reranker-base": Shape(RERANKER, bare("XLMRobertaForSequenceClassification")),
    "nli-deberta-v3-base": Shape(RERANKER, bare("DebertaV2ForSequenceClassification", id2label={"0": "no"})),
    "mxbai-rerank-large-v1": Shape(RERANKER, bare("DebertaV2ForSequenceClassification")),
    "a cross-encoder saved by version 6": Shape(
        RERANKER,
        {**bare("BertForSequenceClassification"), **saved("CrossEncoder"), "modules.json": LOGIT[:1]},
    ),
    "the same as an embedding model": Shape(
        EMBEDDING,
        {**bare("BertForSequenceClassification"), **saved("CrossEncoder"), "modules.json": LOGIT[:1]},
        refused=("saved as a CrossEncoder", "[[reranker]]"),
    ),
    "an encoder as a reranker": Shape(
        RERANKER,
        bare("MPNetModel"),
        refused=("MPNetModel", "a head of random numbers", "[[embedding]], with pooling"),
    ),
    "bert-base-uncased as a reranker": Shape(
        RERANKER, bare("BertForMaskedLM"), refused=("BertForMaskedLM", "a head of random numbers")
    ),
    "all-MiniLM-L6-v2 as a reranker": Shape(RERANKER, dense("BertModel"), refused=("list it under [[embedding]]",)),
    "bert-base-NER as a reranker": Shape(
        RERANKER, bare("BertForTokenClassification"), refused=("random numbers: use a cross-encoder",)
    ),
    "contriever as a reranker": Shape(RERANKER, bare("Contriever"), refused=("Contriever", "a head of random numbers")),
    "jina-reranker-v3, which scores by a method of its own": Shape(
        replace(RERANKER, trust_remote_code=True),
        {**bare("JinaForRanking", auto_map={"AutoModel": "modeling.JinaForRanking"}), "modeling.py": W},
        refused=("a custom class (config.json names JinaForRanking)", "use a cross-encoder"),
    ),
    "a cross-encoder of a custom class that version 4 saved": Shape(
        RERANKER, bare("JinaForRanking", sentence_transformers={"version": "4.1.0"})
    ),
    "a cross-encoder without architectures": Shape(RERANKER, {**bare("X"), "config.json": {"model_type": "bert"}}),
    # language models that score
    "Qwen3-Reranker-0.6B": Shape(
        RERANKER, bare("Qwen3ForCausalLM"), refused=("Qwen3ForCausalLM", '"yes" and "no"', "LogitScore")
    ),
    "Qwen3-Reranker-0.6B as an embedding model": Shape(
        replace(POOLED, pooling=Pooling.LAST),
        {**bare("Qwen3ForCausalLM"), "README.md": CARD % (b"text-ranking", b"qwen")},
        refused=("its card says that it ranks texts", "[[reranker]]"),
    ),
    "Qwen3-Reranker-0.6B with a head": Shape(RERANKER, bare("Qwen3ForSequenceClassification")),
    "Qwen3-Reranker-0.6B that says its tokens": Shape(
        RERANKER,
        {**bare("Qwen3ForCausalLM"), **saved("CrossEncoder"), "modules.json": LOGIT}
        | {"1_LogitScore/config.json": {"true_token_id": 9693, "false_token_id": 2152}, "chat_template.jinja": W},
        note=("5.4 and later read the schema of modules.json",),
    ),
    "Qwen3-Reranker-0.6B that says half of it": Shape(
        RERANKER,
        {**bare("Qwen3ForCausalLM"), **saved("CrossEncoder"), "modules.json": LOGIT, "1_LogitScore/config.json": {}},
        refused=("1_LogitScore/config.json has no true_token_id",),
    ),
    "the modules of a cross-encoder without its type": Shape(
        RERANKER,
        {**bare("Qwen3ForCausalLM"), "modules.json": LOGIT, "1_LogitScore/config.json": {"true_token_id": 1}},
        refused=("LogitScore", "no config_sentence_transformers.json says CrossEncoder"),
    ),
    "mxbai-rerank-base-v2": Shape(RERANKER, bare("Qwen2ForCausalLM"), refused=('"yes" and "no"',)),
    "bge-reranker-v2-gemma": Shape(RERANKER, bare("GemmaForCausalLM"), refused=('"yes" and "no"',)),
    "bge-reranker-v2-minicpm-layerwise": Shape(
        RERANKER,
        bare("LayerWiseMiniCPMForCausalLM", auto_map={"AutoModelForCausalLM": "modeling_minicpm_reranker.X"}),
        refused=('"yes" and "no"', "modeling_minicpm_reranker.X"),
    ),
    "monot5-base-msmarco": Shape(RERANKER, bare("T5ForConditionalGeneration"), refused=("a head of random numbers",)),
    "monot5-base-msmarco as an embedding model": Shape(
        POOLED,
        {**bare("T5ForConditionalGeneration"), "README.md": CARD % (b"text-ranking", b"t5")},
        refused=("its card says that it ranks texts: use an embedding model",),
    ),
    # multi-vector models
    "colbertv2.0": Shape(
        MULTI_VECTOR,
        {**bare("HF_ColBERT"), **METADATA, "pytorch_model.bin": W, "onnx/model.onnx": W},
        left="pytorch_model.bin onnx/model.onnx",
    ),
    "colbertv2.0, not pooled": Shape(
        EMBEDDING, {**bare("HF_ColBERT"), **METADATA}, refused=("multi-vector", "HF_ColBERT", "[[multi_vector]]")
    ),
    "colbertv2.0, pooled": Shape(POOLED, bare("HF_ColBERT"), refused=("multi-vector", "[[multi_vector]]")),
    "colbertv2.0 before safetensors": Shape(
        replace(MULTI_VECTOR, allow_pickle=True),
        {**without_weights(bare("HF_ColBERT")), **METADATA, "pytorch_model.bin": W},
        left="pytorch_model.bin",
        pickles="pytorch_model.bin",
    ),
    "a ColBERT in shards": Shape(
        MULTI_VECTOR,
        {**without_weights(bare("HF_ColBERT")), **METADATA, "model-1.safetensors": W}
        | {"model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors"}}},
        refused=("its loader reads the projection from model.safetensors alone",),
    ),
    "answerai-colbert-small-v1": Shape(
        MULTI_VECTOR, {**bare("HF_ColBERT"), **METADATA, "vespa_colbert.onnx": W}, left="vespa_colbert.onnx"
    ),
    "answerai-colbert-small-v1, by another name": Shape(
        MULTI_VECTOR,
        {**bare("BertModel"), **METADATA},
        refused=("it has artifact.metadata", "a projection of random numbers", "HF_ColBERT", "`path`"),
    ),
    "jina-colbert-v2": Shape(
        replace(MULTI_VECTOR, trust_remote_code=True),
        {**bare("HF_ColBERT", auto_map={"AutoModel": "jinaai/xlm--modeling_xlm_roberta.XLMRobertaModel"}), **METADATA},
        code=RemoteCode.VENDORED,
    ),
    "GTE-ModernColBERT-v1": Shape(
        MULTI_VECTOR,
        {**bare("ModernBertModel"), **PYLATE, **saved("ColBERT", **PYLATE_KEYS), "sentence_bert_config.json": {}},
    ),
    "GTE-ModernColBERT-v1 before PyLate saved a type": Shape(
        MULTI_VECTOR, {**bare("ModernBertModel"), **PYLATE, **saved(None, **PYLATE_KEYS)}
    ),
    "GTE-ModernColBERT-v1 as an embedding model": Shape(
        EMBEDDING,
        {**bare("ModernBertModel"), **PYLATE, **saved(None, **PYLATE_KEYS)},
        refused=("multi-vector", "has query_length", "[[multi_vector]]"),
    ),
    "GTE-ModernColBERT-v1 as a reranker": Shape(
        RERANKER, {**bare("ModernBertModel"), **PYLATE, **saved("ColBERT")}, refused=("saved as a ColBERT",)
    ),
    "a PyLate model in whose settings PyLate's are missing": Shape(
        MULTI_VECTOR, {**dense("ModernBertModel"), **PYLATE}, refused=("pylate.models.Dense.Dense", "says ColBERT")
    ),
    "a PyLate model without a Dense": Shape(
        MULTI_VECTOR,
        {**dense("BertModel", "Transformer"), **saved(None, **PYLATE_KEYS)},
        refused=("no module projects its vectors", "a projection of random numbers"),
    ),
    "a PyLate model that calls itself Stanford's, too": Shape(
        MULTI_VECTOR, {**bare("HF_ColBERT"), **PYLATE, **saved(None, **PYLATE_KEYS)}, refused=("says ColBERT",)
    ),
    "saved by PyLate, its Dense renamed": Shape(
        MULTI_VECTOR,
        {**bare("BertModel"), **PYLATE, **saved(None, query_length=32)}
        | {"modules.json": parts("Transformer", "1_Dense=Dense")},
    ),
    "a PyLate model whose Dense has lost its settings": Shape(
        MULTI_VECTOR,
        {path: what for path, what in PYLATE.items() if path != "1_Dense/config.json"}
        | {**bare("BertModel"), **saved("ColBERT", **PYLATE_KEYS)},
        refused=("there is no 1_Dense/config.json",),
    ),
    "LFM2-ColBERT-350M": Shape(MULTI_VECTOR, {**bare("Lfm2Model"), **PYLATE, **saved("ColBERT", **PYLATE_KEYS)}),
    "a multi-vector model of version 6": Shape(
        MULTI_VECTOR, {**bare("BertModel"), **MULTI, **saved("MultiVectorEncoder")}
    ),
    "a multi-vector model of version 6 without its type": Shape(
        MULTI_VECTOR, {**bare("BertModel"), **MULTI, **saved(None)}, refused=("says MultiVectorEncoder", "`path`")
    ),
    "a multi-vector model whose Normalize has lost its settings": Shape(
        MULTI_VECTOR,
        {**bare("BertModel"), **MULTI, **saved("MultiVectorEncoder"), "3_Normalize/config.json": {}},
        refused=("3_Normalize/config.json does not say that vectors of tokens are normalized",),
    ),
    "colqwen2-v1.0-hf": Shape(MULTI_VECTOR, {**bare("ColQwen2ForRetrieval"), "preprocessor_config.json": {}}),
    "colqwen2-v1.0-hf, pooled": Shape(POOLED, bare("ColQwen2ForRetrieval"), refused=("multi-vector", "ColQwen2")),
    "LaBSE as a multi-vector model": Shape(
        MULTI_VECTOR,
        {**dense("BertModel", "Transformer", "Pooling", "Dense", "Normalize")}
        | {"2_Dense/config.json": {}, "2_Dense/model.safetensors": W},
        refused=("saved as a SentenceTransformer", "list it under [[embedding]]"),
    ),
    "bert-base-uncased as a multi-vector model": Shape(
        MULTI_VECTOR, bare("BertForMaskedLM"), refused=("a projection of random numbers", "[[embedding]]", "[[sparse]]")
    ),
    # sparse models
    "splade-v3": Shape(
        SPARSE,
        {**bare("BertForMaskedLM"), **SPLADE, **saved("SparseEncoder"), "pytorch_model.bin": W},
        left="pytorch_model.bin",
    ),
    "splade-v3, of version 6": Shape(SPARSE, {**bare("BertForMaskedLM"), **NEW_SPLADE, **saved("SparseEncoder")}),
    "splade-v3 without its head": Shape(
        SPARSE,
        {**bare("BertModel"), **SPLADE, **saved("SparseEncoder")},
        refused=("config.json names BertModel", "one of random numbers", "with the head"),
    ),
    "splade-v3 without its head, of version 6": Shape(
        SPARSE, {**bare("BertModel"), **NEW_SPLADE, **saved("SparseEncoder")}, refused=("one of random numbers",)
    ),
    "splade-v3 without its type": Shape(
        SPARSE, {**bare("BertForMaskedLM"), **SPLADE, **saved(None)}, refused=("says SparseEncoder", "`path`")
    ),
    "splade-v3 whose pooling has lost its settings": Shape(
        SPARSE,
        {path: what for path, what in SPLADE.items() if not path.startswith("1_")}
        | {**bare("BertForMaskedLM"), **saved("SparseEncoder")},
        refused=("there is no 1_SpladePooling/config.json",),
    ),
    "splade-v3 before version 5": Shape(
        SPARSE, {**bare("BertForMaskedLM"), "README.md": CARD % (b"fill-mask", b"splade")}
    ),
    "efficient-splade-VI-BT-large-doc": Shape(
        replace(SPARSE, allow_pickle=True),
        {**without_weights(bare("BertForMaskedLM")), "pytorch_model.bin": W}
        | {"README.md": CARD % (b"fill-mask", b"splade")},
        left="pytorch_model.bin",
        pickles="pytorch_model.bin",
    ),
    "splade-v3, pooled": Shape(
        POOLED,
        {**bare("BertForMaskedLM"), "README.md": CARD % (b"fill-mask", b"splade")},
        refused=("a sparse encoder (its card has the tag splade)", "list it under [[sparse]]"),
    ),
    "splade-v3, not pooled": Shape(
        EMBEDDING,
        {**bare("BertForMaskedLM"), "README.md": (CARD % (b"fill-mask", b"learned sparse")).replace(b"\n", b"\r\n")},
        refused=("its card has the tag learned sparse", "[[sparse]]"),
    ),
    "a masked language model whose weights were pruned": Shape(
        POOLED,
        {**bare("BertForMaskedLM"), "README.md": CARD % (b"fill-mask", b"sparse")},
        note=("BertForMaskedLM", "a sparse encoder and a reranker can look the same"),
    ),
    "a masked language model that is said to be sparse": Shape(
        SPARSE, bare("BertForMaskedLM"), note=("BertForMaskedLM", "its card calls it a sparse encoder")
    ),
    "a masked language model that ranks": Shape(
        SPARSE,
        {**bare("BertForMaskedLM"), "README.md": CARD % (b"text-ranking", b"bert")},
        refused=("its card says that it ranks texts: use a sparse encoder",),
    ),
    "a language model of SPLADE that fills no masks": Shape(
        SPARSE,
        {**bare("Qwen3ForCausalLM"), "README.md": CARD % (b"feature-extraction", b"splade")},
        refused=("Qwen3ForCausalLM, so its loader would add a layer of random numbers", "ForMaskedLM"),
    ),
    "an encoder as a sparse encoder": Shape(
        SPARSE, bare("MPNetModel"), refused=("a layer of random numbers: list it under [[embedding]], with pooling",)
    ),
    "all-MiniLM-L6-v2 as a sparse encoder": Shape(SPARSE, dense("BertModel"), refused=("list it under [[embedding]]",)),
    "splade-cocondenser-ensembledistil": Shape(
        EMBEDDING,
        {**bare("BertForMaskedLM"), **SPLADE, **saved("SparseEncoder")},
        refused=("a sparse encoder", "saved as a SparseEncoder", "[[sparse]]"),
    ),
    "opensearch-neural-sparse-encoding-doc-v2-distill": Shape(
        SPARSE, {**bare("DistilBertForMaskedLM"), **ROUTES, **saved("SparseEncoder")}
    ),
    "opensearch-neural-sparse-encoding-doc-v2-distill before version 5": Shape(
        SPARSE,
        {**bare("DistilBertForMaskedLM"), "idf.json": Large(1 << 20), "README.md": CARD % (b"fill-mask", b"splade")},
        refused=("it has idf.json", "without modules.json the loader does not read idf.json", "a Router", "`path`"),
    ),
    "a sparse encoder whose table of words is elsewhere": Shape(
        SPARSE,
        {
            **bare("DistilBertForMaskedLM"),
            **ROUTES,
            **saved("SparseEncoder"),
            f"{QUERY}/config.json": {"path": "x.json"},
        },
        refused=(f"{QUERY}/config.json names x.json, which the loader looks for outside of the model",),
    ),
    "a sparse encoder whose table of words has no weights": Shape(
        SPARSE,
        {path: what for path, what in ROUTES.items() if path != f"{QUERY}/model.safetensors"}
        | {**bare("DistilBertForMaskedLM"), **saved("SparseEncoder")},
        refused=(f"no safetensors weights in {QUERY}",),
    ),
    "csr-mxbai-embed-large-v1-nq": Shape(SPARSE, {**bare("BertModel"), **CSR, **saved("SparseEncoder")}),
    "a CSR without its layer": Shape(
        SPARSE,
        {path: what for path, what in CSR.items() if path != "2_SparseAutoEncoder/model.safetensors"}
        | {**bare("BertModel"), **saved("SparseEncoder")},
        refused=("no safetensors weights in 2_SparseAutoEncoder",),
    ),
}


def listed(files: Mapping[str, Any]) -> tuple[list[ListedFile], dict[str, bytes]]:
    """Return a listing, and what of it may be read."""
    contents = {
        path: what if isinstance(what, bytes) else json.dumps(what).encode()
        for path, what in files.items()
        if not isinstance(what, Large)
    }
    sizes = {path: what.size if isinstance(what, Large) else len(contents[path]) for path, what in files.items()}
    return [ListedFile(path, size) for path, size in sizes.items()], contents


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(name: str) -> None:
    """It is shipped with exactly these files and notes, or refused in these words."""
    shape = SHAPES[name]
    listing, contents = listed(shape.files)
    if shape.refused:
        with pytest.raises(PolicyError) as caught:
            choose(shape.wanted, listing, lambda file: contents[file.path])
        assert not [words for words in shape.refused if words not in caught.value.message], caught.value.message
        return
    choice = choose(shape.wanted, listing, lambda file: contents[file.path])
    assert {file.path for file in choice.files} == shape.files.keys() - set(shape.left.split())
    assert " ".join(file.path for file in choice.pickles) == shape.pickles
    assert choice.remote_code is shape.code
    told = "\n".join(choice.notes)
    assert not [words for words in shape.note if words not in told], told
    assert len(choice.notes) == (1 if shape.note else 0), told


# The tables under which a repository is shipped; none for those that every loader would change.
TABLES = {
    "all-MiniLM-L6-v2": "embedding",
    "LaBSE as a multi-vector model": "embedding",
    "an encoder as a reranker": "embedding",
    "bge-reranker-base": "reranker",
    "a cross-encoder saved by version 6": "reranker",
    "a cross-encoder that only its activation tells": "reranker",
    "Qwen3-Reranker-0.6B that says its tokens": "reranker",
    "a masked language model whose weights were pruned": "embedding sparse",
    "a masked language model that ranks": "",
    "colbertv2.0": "multi_vector",
    "colbertv2.0 before safetensors": "multi_vector",
    "a ColBERT in shards": "",
    "answerai-colbert-small-v1": "multi_vector",
    "answerai-colbert-small-v1, by another name": "",
    "GTE-ModernColBERT-v1": "multi_vector",
    "GTE-ModernColBERT-v1 before PyLate saved a type": "multi_vector",
    "a PyLate model in whose settings PyLate's are missing": "",
    "a PyLate model without a Dense": "",
    "a PyLate model that calls itself Stanford's, too": "",
    "saved by PyLate, its Dense renamed": "multi_vector",
    "LFM2-ColBERT-350M": "multi_vector",
    "a multi-vector model of version 6": "multi_vector",
    "a multi-vector model of version 6 without its type": "",
    "a multi-vector model whose Normalize has lost its settings": "",
    "colqwen2-v1.0-hf": "multi_vector",
    "splade-v3": "sparse",
    "splade-v3, of version 6": "sparse",
    "splade-v3 without its head": "",
    "splade-v3 without its type": "",
    "splade-v3 before version 5": "sparse",
    "efficient-splade-VI-BT-large-doc": "sparse",
    "a language model of SPLADE that fills no masks": "",
    "opensearch-neural-sparse-encoding-doc-v2-distill": "sparse",
    "opensearch-neural-sparse-encoding-doc-v2-distill before version 5": "",
    "csr-mxbai-embed-large-v1-nq": "sparse",
}


@pytest.mark.parametrize("kind", LOADED)
@pytest.mark.parametrize("name", TABLES)
def test_a_model_in_the_wrong_table_is_refused_with_the_right_one_named(name: str, kind: Kind) -> None:
    """In every direction; where no table is right, the refusal names none, and has another way out."""
    right = TABLES[name].split()
    told = refusal_of(as_kind(kind, name), SHAPES[name].files)
    assert (told == "") is (kind in right), told
    assert not told or {one for one in LOADED if f"[[{one}]]" in told} == set(right), told


@pytest.mark.parametrize("kind", LOADED)
@pytest.mark.parametrize("name", SHAPES)
def test_no_refusal_leads_back(name: str, kind: Kind) -> None:
    """Whoever follows the advice to list a model under another table is not sent to a third one, or back."""
    told = refusal_of(as_kind(kind, name), SHAPES[name].files)
    for other in LOADED:
        if f"list it under [[{other}]]" in told or f"under [[{other}]]; or" in told:
            assert "list it under" not in refusal_of(as_kind(other, name), SHAPES[name].files)


def as_kind(kind: Kind, name: str) -> WantedModel:
    """Want a repository as a kind, with what that kind has to be told of it."""
    shape = SHAPES[name]
    pooled = kind is Kind.EMBEDDING and "modules.json" not in shape.files
    told = {"pooling": Pooling.MEAN, "normalize": True} if pooled else {"pooling": None, "normalize": None}
    return replace(shape.wanted, kind=kind, allow_pickle=True, **told)


def refusal_of(wanted: WantedModel, files: Files) -> str:
    """Return why a model is not shipped, empty where it is."""
    listing, contents = listed(files)
    try:
        choose(wanted, listing, lambda file: contents[file.path])
    except PolicyError as error:
        return error.message
    return ""
