"""The table of changes: for each model those that move a vector, and those that move none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import models, tiny
from tests.support.index_id.edits import (
    CONFIG,
    MODEL,
    MODULES,
    POOLING,
    SENTENCE,
    Change,
    all_of,
    appended,
    case_kept,
    file,
    inner,
    order,
    other_weights,
    other_words,
    read,
    setting,
    turned_around,
    types,
    without,
)


@dataclass(frozen=True)
class Case:
    """A model, and changes of it by their names; a text in place of one is what the manifest says instead."""

    make: Callable[[Path], object]
    moves: dict[str, Change | str]
    moves_none: dict[str, Change | str] = field(default_factory=dict)
    kind: str = "embedding"
    says: str = ""


def plain(folder: Path) -> None:
    """Transformer, Pooling and Normalize, with a prompt for queries."""
    tiny.tiny_embedding(folder)
    setting(MODEL, prompts={"query": "read the book "}, default_prompt_name=None)(folder)
    setting(CONFIG, torch_dtype="float32")(folder)
    file("onnx/model.onnx", bytes(2000))(folder)
    file("onnx/config.json", "{}")(folder)
    other = folder / "adapters" / "law"
    other.mkdir(parents=True)
    for name in ("adapters/law/adapter_model.safetensors", "model.fp16.safetensors"):
        (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    file("adapters/law/adapter_config.json", "{}")(folder)
    file("words.csv", "a,b\n")(folder)


def normalized(folder: Path) -> None:
    """Transformer, Pooling, two Dense modules and Normalize."""
    models.dense_embedding(folder)
    appended("4_Normalize", "sentence_transformers.models.Normalize")(folder)


def static(folder: Path) -> None:
    """A table of words."""
    models.static_embedding(folder)


def bag(folder: Path) -> None:
    """Counted words: no tensor at all."""
    module = {"idx": 0, "name": "0", "path": "0_BoW", "type": "sentence_transformers.models.BoW"}
    tiny.write_json(folder / MODULES, [module])
    words = ["the", "cat", "sun", "rain", "river"]
    weights = {word: 1 + number / 10 for number, word in enumerate(words)}
    config = {"vocab": words, "word_weights": weights, "unknown_word_weight": 0.5, "cumulative_term_frequency": True}
    tiny.write_json(folder / "0_BoW/config.json", config)


def tasks(folder: Path) -> None:
    """A model whose code reads a file of weights that nothing but `include` may name."""
    models.tasks_embedding(folder)
    file("onnx/model.onnx", bytes(2000))(folder)


def pooled(folder: Path) -> None:
    """A multi-vector model that joins the tokens of a document that are alike."""
    models.saved_multi_vector(folder)
    module_type = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    appended("4_HierarchicalTokenPooling", module_type)(folder)
    setting("4_HierarchicalTokenPooling/config.json", pool_factor=2)(folder)


def splade(folder: Path) -> None:
    """MLMTransformer and SpladePooling."""
    models.splade_sparse(folder)


def route(default: str | None, *routes: str) -> Change:
    """Set the default route of a Router, and the order of its routes."""

    def change(folder: Path) -> None:
        config = read(folder / "router_config.json")
        config["parameters"]["default_route"] = default
        config["structure"] = {name: config["structure"][name] for name in routes}
        tiny.write_json(folder / "router_config.json", config)

    return change


NO_PROMPTS = {"query": "", "document": ""}
SIX = "sentence_transformers.sentence_transformer.modules"
OLD = "sentence_transformers.models"
LAST = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
LOGITS = {"text": {"method": "forward", "method_output_name": "logits"}}
MEAN_AND_FIRST = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
FIRST = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
LARGEST = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
FLAGS = {"pooling_mode_cls_token": ..., "pooling_mode_mean_tokens": ...}
TRUST = "trust_remote_code = true"

CASES = {
    "plain": Case(
        plain,
        moves={
            "weights": other_weights(),
            "a word": other_words(),
            "lower-casing": case_kept,
            "the length": setting(SENTENCE, max_seq_length=16),
            "the first token": setting(POOLING, **FIRST),
            "the largest": setting(POOLING, **LARGEST),
            "two modes": setting(POOLING, **MEAN_AND_FIRST),
            "another mode by its name": setting(POOLING, **FLAGS, pooling_mode="cls"),
            "tokens of a prompt do not count": setting(POOLING, include_prompt=False),
            "no Normalize": order(0, 1),
            "another prompt": setting(MODEL, prompts={"query": "sell the book "}),
            "one more prompt": setting(MODEL, prompts={"query": "read the book ", "document": "paper "}),
            "no prompt": setting(MODEL, prompts={}),
            "a default prompt": setting(MODEL, default_prompt_name="query"),
            "hidden_act": setting(CONFIG, hidden_act="relu"),
            "layer_norm_eps": setting(CONFIG, layer_norm_eps=0.1),
            "attention heads": setting(CONFIG, num_attention_heads=4),
            "dtype": setting(CONFIG, torch_dtype="float16"),
            "truncate_dim": setting(MODEL, truncate_dim=8),
            "arguments of the tokenizer": setting(SENTENCE, processing_kwargs={"text": {"max_length": 8}}),
        },
        moves_none={
            "README": file("README.md", "# Another card\n"),
            "no README": without("README.md"),
            "LICENSE": file("LICENSE", "Apache License\n"),
            "no LICENSE": without("LICENSE"),
            "one more document": all_of(file("USAGE.md", "# How to\n"), file("NOTICE", "By the authors\n")),
            "ONNX": 'include = ["onnx/*"]',
            "adapters": 'include = ["adapters/**"]',
            "weights of another precision": 'include = ["model.fp16.safetensors"]',
            "a list of words": 'include = ["words.csv"]',
            "all there is": 'include = ["**"]',
            "a file that is there anyway": 'include = ["1_Pooling/config.json", "config.json"]',
            "versions": setting(MODEL, __version__={"sentence_transformers": "5.1.0"}),
            "no versions": setting(MODEL, __version__=...),
            "transformers_version": setting(CONFIG, transformers_version="4.50.0"),
            "_name_or_path": setting(CONFIG, _name_or_path="/home/author/bert"),
            "generation_config.json": file("generation_config.json", '{"max_new_tokens": 20}'),
            "notes of the tokenizer": setting("tokenizer_config.json", name_or_path="/home/author/bert", is_local=True),
            "keys in another order": turned_around,
            "torch_dtype is dtype": setting(CONFIG, torch_dtype=..., dtype="float32"),
            "modules as in 5.4": types(OLD, SIX),
            "modules as in 6": all_of(
                types(f"{OLD}.Transformer", "sentence_transformers.base.modules.transformer.Transformer"),
                types(f"{OLD}.Pooling", f"{SIX}.pooling.Pooling"),
                types(f"{OLD}.Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
            ),
            "the mode by its name": setting(POOLING, **FLAGS, pooling_mode="mean"),
            "the mode in a list": setting(POOLING, **FLAGS, pooling_mode=["mean"]),
            "all flags": setting(POOLING, pooling_mode_max_tokens=False, pooling_mode_lasttoken=False),
            "no flag": setting(POOLING, **FLAGS),
            "embedding_dimension": setting(POOLING, word_embedding_dimension=..., embedding_dimension=32),
            "empty prompts": setting(MODEL, prompts={"query": "read the book ", "document": "", "other": ""}),
            "defaults of the model": setting(
                MODEL, model_type="SentenceTransformer", similarity_fn_name="dot", truncate_dim=None
            ),
            "defaults of the Transformer": setting(
                SENTENCE,
                transformer_task="feature-extraction",
                modality_config=LAST,
                module_output_name="token_embeddings",
            ),
            "an output that is not read": setting(SENTENCE, module_output_name="sentence_embedding"),
            "defaults of the Pooling": setting(POOLING, include_prompt=True),
            "defaults of Normalize": setting(
                "2_Normalize/config.json",
                module_input_name="sentence_embedding",
                module_output_name="sentence_embedding",
            ),
        },
    ),
    "renamed": Case(
        all_of(plain, without(SENTENCE), file("sentence_roberta_config.json", '{"max_seq_length": 8}')),
        moves={"a configuration of today hides it": file(SENTENCE, '{"do_lower_case": false}')},
    ),
    "cased": Case(
        all_of(plain, case_kept),
        moves={"do_lower_case": setting(SENTENCE, do_lower_case=True)},
        moves_none={"do_lower_case is not said": setting(SENTENCE, do_lower_case=...)},
    ),
    "dense": Case(
        normalized,
        moves={
            "activation": setting("2_Dense/config.json", activation_function="torch.nn.modules.activation.ReLU"),
            "weights": other_weights("3_Dense/model.safetensors"),
            "the length": setting("tokenizer_config.json", model_max_length=16),
            "the order of modules": order(0, 1, 2, 4, 3),
            "no last Dense": order(0, 1, 2, 4),
        },
        moves_none={
            "modules as in 3": types("sentence_transformers.base.modules.dense.Dense", f"{OLD}.Dense"),
            "names of inputs and outputs are not said": setting(
                "2_Dense/config.json", module_input_name=..., module_output_name=...
            ),
            "use_residual": setting("2_Dense/config.json", use_residual=False),
        },
    ),
    "sharded": Case(
        models.sharded_embedding,
        moves={"weights of one file": other_weights("model-00002-of-00003.safetensors")},
        moves_none={"one of them is included": 'include = ["model-00002-of-00003.safetensors"]'},
    ),
    "custom": Case(
        models.custom_module_embedding,
        says=TRUST,
        moves={
            "weights of its module": other_weights("2_Tilt/model.safetensors"),
            "its code": types("+ self.tilt", "- self.tilt", "custom_tilt.py"),
        },
        moves_none={
            "README": file("README.md", "# Another card\n"),
            "modules as in 5.4": types(f"{OLD}.Pooling", f"{SIX}.Pooling"),
            "versions": setting(MODEL, __version__=...),
        },
    ),
    "no_modules": Case(
        models.no_modules_embedding,
        says='pooling = "mean"\nnormalize = false',
        moves={"pooling": 'pooling = "cls"\nnormalize = false', "normalize": 'pooling = "mean"\nnormalize = true'},
        moves_none={"README": file("README.md", "# Another card\n")},
    ),
    "static": Case(
        static,
        moves={
            "weights": other_weights(),
            "a word": other_words(),
        },
        moves_none={"the module as in 3": types(f"{SIX}.static_embedding.StaticEmbedding", f"{OLD}.StaticEmbedding")},
    ),
    "bag": Case(
        bag,
        moves={
            "the order of words": setting("0_BoW/config.json", vocab=["cat", "the", "sun", "rain", "river"]),
            "a weight": inner("0_BoW/config.json", "word_weights", cat=7),
            "each word once": setting("0_BoW/config.json", cumulative_term_frequency=False),
        },
        moves_none={"keys in another order": turned_around},
    ),
    "router": Case(
        models.router_embedding,
        moves={
            "the default route": route("query", "query", "document"),
            "the first route is the default": route(None, "query", "document"),
            "weights of one route": other_weights("query_0_StaticEmbedding/model.safetensors"),
        },
        moves_none={
            "the default route is not said": route(None, "document", "query"),
            "routes in another order": route("document", "document", "query"),
            "classes as in 5": types("static_embedding.StaticEmbedding", "StaticEmbedding", "router_config.json"),
            "the Router as in 5": types("sentence_transformers.base.modules.router.Router", f"{OLD}.Router"),
        },
    ),
    "code": Case(
        models.remote_code_embedding,
        says=TRUST,
        moves={"code": types("SCALE = 1.5", "SCALE = 2.5", "tiny_scale.py"), "weights": other_weights()},
        moves_none={"README": file("README.md", "# Another card\n")},
    ),
    "tasks": Case(
        tasks,
        says=f'{TRUST}\ninclude = ["tasks/*"]',
        moves={"weights that code reads": other_weights("tasks/retrieval.safetensors")},
        moves_none={"ONNX": f'{TRUST}\ninclude = ["tasks/*", "onnx/*.onnx"]'},
    ),
    "splade": Case(
        splade,
        kind="sparse",
        moves={
            "weights": other_weights(),
            "strategy": setting("1_SpladePooling/config.json", pooling_strategy="sum"),
            "activation": setting("1_SpladePooling/config.json", activation_function="log1p_relu"),
            "max_active_dims": setting(MODEL, max_active_dims=4),
            "the length": setting(SENTENCE, max_seq_length=16),
            "a prompt": setting(MODEL, prompts={"query": "read the book "}),
        },
        moves_none={
            "README": file("README.md", "# Another card\n"),
            "modules as in 6": all_of(
                types("models.MLMTransformer", "modules.mlm_transformer.MLMTransformer"),
                types("models.SpladePooling", "modules.splade_pooling.SpladePooling"),
            ),
            "defaults of the MLMTransformer": setting(
                SENTENCE, transformer_task="fill-mask", modality_config=LOGITS, module_output_name="token_embeddings"
            ),
            "embedding_dimension": setting(
                "1_SpladePooling/config.json", word_embedding_dimension=..., embedding_dimension=len(tiny.VOCABULARY)
            ),
            "defaults of the model": setting(MODEL, max_active_dims=None, prompts={}, similarity_fn_name=None),
        },
    ),
    "csr": Case(
        models.csr_sparse,
        kind="sparse",
        moves={
            "k": all_of(setting("2_SparseAutoEncoder/config.json", k=4), setting(MODEL, max_active_dims=...)),
            "max_active_dims": setting(MODEL, max_active_dims=4),
        },
    ),
    "sparse_routes": Case(
        models.routes_sparse,
        kind="sparse",
        moves={
            "the default route": types('"default_route": "document"', '"default_route": "query"', "router_config.json"),
            "weights of words": other_weights("query_0_SparseStaticEmbedding/model.safetensors"),
        },
        moves_none={
            "classes as in 6": all_of(
                types("models.MLMTransformer", "modules.mlm_transformer.MLMTransformer", "router_config.json"),
                types("models.SpladePooling", "modules.splade_pooling.SpladePooling", "router_config.json"),
            ),
        },
    ),
    "multi_vector": Case(
        models.saved_multi_vector,
        kind="multi_vector",
        moves={
            "query_length": setting(SENTENCE, query_length=8),
            "document_length": setting(SENTENCE, document_length=8),
            "query_expansion": setting(SENTENCE, query_expansion={"strategy": "fixed", "length": 32}),
            "words to skip": setting("2_MultiVectorMask/config.json", skiplist_words=["."]),
            "no words to skip": setting("2_MultiVectorMask/config.json", skiplist_words=[]),
            "tasks that skip": setting("2_MultiVectorMask/config.json", skiplist_tasks=["query", "document"]),
            "a prompt": setting(MODEL, prompts={"query": "read: ", "document": "text: "}),
            "no Normalize": order(0, 1, 2),
            "weights of the projection": other_weights("1_Dense/model.safetensors"),
        },
        moves_none={
            "README": file("README.md", "# Another card\n"),
            "names of inputs and outputs are not said": setting(
                "1_Dense/config.json", module_input_name=..., module_output_name=...
            ),
            "defaults of the mask": setting(
                "2_MultiVectorMask/config.json", skiplist_tasks=..., keep_only_token_ids=...
            ),
            "the score": setting(MODEL, similarity_fn_name="meanmaxsim"),
        },
    ),
    "pooled": Case(
        pooled,
        kind="multi_vector",
        moves={
            "pool_factor": setting("4_HierarchicalTokenPooling/config.json", pool_factor=4),
            "vectors of one length": setting("4_HierarchicalTokenPooling/config.json", normalize_embeddings=True),
            "tasks": setting("4_HierarchicalTokenPooling/config.json", tasks=["query", "document"]),
            "no protected token": setting("4_HierarchicalTokenPooling/config.json", num_protected_tokens=0),
        },
        moves_none={
            "defaults": setting(
                "4_HierarchicalTokenPooling/config.json",
                num_protected_tokens=1,
                normalize_embeddings=False,
                tasks=["document"],
            ),
        },
    ),
    "pylate": Case(
        models.pylate_multi_vector,
        kind="multi_vector",
        moves={
            "query_length": setting(MODEL, query_length=12),
            "document_length": setting(MODEL, document_length=12),
            "no expansion": setting(MODEL, do_query_expansion=False),
            "no expansion, by null": setting(MODEL, query_expansion=None),
            "attention to expansion": setting(MODEL, attend_to_expansion_tokens=True),
            "no words to skip": setting(MODEL, skiplist_words=[]),
            "the mark of queries": setting(MODEL, query_prefix="[D] "),
        },
        moves_none={
            "the Dense of sentence-transformers": types("pylate.models.Dense.Dense", f"{OLD}.Dense"),
            "names of inputs and outputs": setting(
                "1_Dense/config.json", module_input_name="token_embeddings", module_output_name="token_embeddings"
            ),
            "versions": setting(MODEL, __version__={"sentence_transformers": "5.1.0"}),
        },
    ),
    "stanford": Case(
        models.stanford_multi_vector,
        kind="multi_vector",
        moves={
            "query_maxlen": types('"query_maxlen": 32', '"query_maxlen": 16', "artifact.metadata"),
            "mask_punctuation": types('"mask_punctuation": true', '"mask_punctuation": false', "artifact.metadata"),
        },
        moves_none={"README": file("README.md", "# Another card\n")},
    ),
}


def table(case: Case, says: str, model_id: str, path: str) -> str:
    """Return the table of models.toml for one version of a case."""
    return f'[[{case.kind}]]\nid = "{model_id}"\npath = "{path}"\n{says}\n'
