"""The settings in a configuration: what is the same in two spellings, and what is not though it looks so."""

from __future__ import annotations

import pytest

from modelcache.core.kinds import Kind
from modelcache.resolver.model_modules import Module
from modelcache.resolver.settings import module_names, settings_of

LIBRARY = "sentence_transformers.models"
EMBEDDING, SPARSE, MULTI_VECTOR = (kind.spec.model_class for kind in (Kind.EMBEDDING, Kind.SPARSE, Kind.MULTI_VECTOR))
TRANSFORMER, MASKED = Module("", f"{LIBRARY}.Transformer"), Module("", f"{LIBRARY}.MLMTransformer")
DENSE, OWN = Module("1_Dense", f"{LIBRARY}.Dense"), Module("1_Own", "own.Layer")
ROUTED_DENSE = Module("1_Dense", f"{LIBRARY}.Dense", "router_config.json")
MODEL, SENTENCE = "config_sentence_transformers.json", "sentence_bert_config.json"
SENTENCE_VECTOR = {"module_input_name": "sentence_embedding"}
LOGITS = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "token_embeddings",
}

DIFFERENT = [
    ("config.json", [TRANSFORMER], EMBEDDING, {"pad_token_id": None}, {}),
    ("config.json", [TRANSFORMER], EMBEDDING, {"a.b": 1}, {"a": {"b": 1}}),
    ("config.json", [TRANSFORMER], EMBEDDING, {"": 1}, {}),
    ("config.json", [TRANSFORMER], EMBEDDING, {"a": {}}, {}),
    ("config.json", [TRANSFORMER], EMBEDDING, {"dtype": "float16", "torch_dtype": "float32"}, {"dtype": "float32"}),
    ("config.json", [TRANSFORMER], EMBEDDING, {"torchscript": True}, {}),
    ("1_Own/config.json", [OWN], EMBEDDING, {"use_cache": True}, {"use_cache": False}),
    ("1_Own/config.json", [OWN], EMBEDDING, {"word_embedding_dimension": 8}, {"embedding_dimension": 8}),
    ("1_Pooling/config.json", [Module("1_Pooling", f"{LIBRARY}.Pooling")], EMBEDDING, {"include_prompt": None}, {}),
    ("1_Dense/config.json", [DENSE], MULTI_VECTOR, SENTENCE_VECTOR, {}),
    ("1_Dense/config.json", [ROUTED_DENSE], MULTI_VECTOR, {"module_input_name": "token_embeddings"}, {}),
    (SENTENCE, [MASKED], SPARSE, {"transformer_task": "feature-extraction"}, {}),
    (SENTENCE, [TRANSFORMER], SPARSE, {"transformer_task": "fill-mask"}, {}),
    (SENTENCE, [TRANSFORMER], EMBEDDING, LOGITS, {}),
    (SENTENCE, [TRANSFORMER], MULTI_VECTOR, {"query_expansion": None}, {}),
    (MODEL, [TRANSFORMER], SPARSE, {"model_type": "SparseEncoder"}, {}),
    (MODEL, [TRANSFORMER], MULTI_VECTOR, {"model_type": "MultiVectorEncoder"}, {}),
    (MODEL, [TRANSFORMER], MULTI_VECTOR, {"skiplist_words": None}, {}),
]
SAME = [
    ("config.json", [TRANSFORMER], EMBEDDING, {"torch_dtype": "float16"}, {"dtype": "float16"}),
    (
        "config.json",
        [Module("", "own.Transformer")],
        EMBEDDING,
        {"model_type": "x", "use_cache": True},
        {"model_type": "x"},
    ),
    ("1_Dense/config.json", [DENSE], MULTI_VECTOR, {"module_input_name": "token_embeddings"}, {}),
    ("1_Dense/config.json", [DENSE], EMBEDDING, {**SENTENCE_VECTOR, "module_output_name": None}, {}),
    ("1_Dense/config.json", [ROUTED_DENSE], MULTI_VECTOR, SENTENCE_VECTOR, {}),
    (SENTENCE, [MASKED], SPARSE, {**LOGITS, "transformer_task": "fill-mask"}, {}),
    (SENTENCE, [TRANSFORMER], SPARSE, {**LOGITS, "transformer_task": "fill-mask"}, {"transformer_task": "fill-mask"}),
    (SENTENCE, [TRANSFORMER], EMBEDDING, {"query_expansion": None, "processing_kwargs": {}}, {}),
    (MODEL, [], EMBEDDING, {"model_type": "SentenceTransformer", "prompts": {"query": ""}}, {}),
    (MODEL, [Module("", "own.Transformer")], EMBEDDING, {"__version__": {"pytorch": "2.1"}}, {}),
]


@pytest.mark.parametrize(("path", "modules", "model_class", "one", "other"), DIFFERENT)
def test_settings_that_load_another_model_differ(
    path: str, modules: list[Module], model_class: str, one: object, other: object
) -> None:
    """A loader takes these for different values, or no loader takes both."""
    assert settings_of(path, one, modules, model_class) != settings_of(path, other, modules, model_class)


@pytest.mark.parametrize(("path", "modules", "model_class", "one", "other"), SAME)
def test_settings_that_load_the_same_model_are_the_same(
    path: str, modules: list[Module], model_class: str, one: object, other: object
) -> None:
    """A default is the same whether it is written or not."""
    assert settings_of(path, one, modules, model_class) == settings_of(path, other, modules, model_class)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"name": "0", "kwargs": ["task"]}, {"name": "1"}], [{"name": "0"}, {"name": "1"}]),
        ([{"name": "0"}, {"name": "0"}], [{"name": "0"}, {"name": "1"}]),
    ],
)
def test_arguments_and_equal_names_of_modules_count(one: object, other: object) -> None:
    """`kwargs` go to the module with each text; of two modules with one name the library keeps the last."""
    modules = [TRANSFORMER, DENSE]
    assert module_names(modules, one) != module_names(modules, other)


@pytest.mark.parametrize("document", [[], None, "text", 5, {"structure": 1}, {"types": {"": 3}, "structure": {}}])
@pytest.mark.parametrize("path", ["router_config.json", MODEL, SENTENCE, "config.json", "modules.json"])
def test_odd_documents_are_settings_too(path: str, document: object) -> None:
    """A configuration that no loader takes is compared all the same."""
    odd = {"prompts": document, "modality_config": document, "parameters": document, "pooling_mode": document}
    for modules in ([], [TRANSFORMER], [Module("", f"{LIBRARY}.Router")], [Module("", f"{LIBRARY}.Pooling")]):
        assert settings_of(path, document, modules, EMBEDDING) is not None
        assert settings_of(path, odd, modules, MULTI_VECTOR)
    assert module_names([TRANSFORMER], document)
