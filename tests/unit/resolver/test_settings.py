"""Settings by their meaning: what several versions of sentence-transformers write in several ways is the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.resolver.derived import LEGACY_POOLING
from modelcache.resolver.model_modules import Module
from modelcache.resolver.settings import module_names, settings_of
from tests.support.faults.fuzz import BUDGET, json_values
from tests.support.versions import BASE, OLD

TRANSFORMER, POOLING, DENSE = (Module("", f"{OLD}{name}") for name in ("Transformer", "Pooling", "Dense"))
CUSTOM = Module("", "my.Pooling")
SCORE = Module("", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore")
ST, ST_JSON = "sentence_bert_config.json", "config_sentence_transformers.json"
CLASS = "SentenceTransformer"
NEW_POOLING = Module("", "sentence_transformers.sentence_transformer.modules.pooling.Pooling")
WORDS = (
    "prompts",
    "dtype",
    "torch_dtype",
    "pooling_mode",
    "pooling_mode_cls_token",
    "",
    "a.b",
    '"',
    "include_prompt",
    "modules",
)


def flat(path: str, document: object, *modules: Module) -> dict[str, object]:
    """The settings of a document, as values."""
    return {key: json.loads(value) for key, value in settings_of(path, document, modules, CLASS).items()}


@pytest.mark.parametrize(
    ("path", "modules", "one", "other"),
    [
        ("config.json", [TRANSFORMER], {"torch_dtype": "float32"}, {"dtype": "float32"}),
        ("config.json", [TRANSFORMER], {"a": 1, "transformers_version": "4", "_name_or_path": "x"}, {"a": 1}),
        ("config.json", [TRANSFORMER], {"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}),
        (ST, [TRANSFORMER], {"max_seq_length": 8, "do_lower_case": False}, {"max_seq_length": 8}),
        (ST, [TRANSFORMER], {"module_output_name": "token_embeddings"}, {}),
        (ST_JSON, [TRANSFORMER], {"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, {}),
        (ST_JSON, [TRANSFORMER], {"model_type": CLASS, "__version__": {"pytorch": "2"}}, {}),
        ("config.json", [POOLING], {"pooling_mode_mean_tokens": True}, {"pooling_mode": "mean"}),
        ("config.json", [POOLING], {"pooling_mode_mean_tokens": True}, {}),
        ("config.json", [POOLING], {"pooling_mode": ["cls"]}, {"pooling_mode": "cls"}),
        (
            "config.json",
            [POOLING],
            {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            {"embedding_dimension": 8, "pooling_mode": ["cls", "max"], "include_prompt": True},
        ),
        ("config.json", [DENSE], {"use_residual": False, "in_features": 3}, {"in_features": 3}),
        ("config.json", [DENSE], {"module_output_name": None, "module_input_name": "sentence_embedding"}, {}),
        (ST, [TRANSFORMER], {"query_length": None, "document_length": None}, {}),
        ("config.json", [DENSE], {"module_input_name": "x", "module_output_name": "x"}, {"module_input_name": "x"}),
    ],
)
def test_the_same_meaning_is_the_same_setting(path: str, modules: list[Module], one: object, other: object) -> None:
    """Old keys, defaults that are written down, notes on versions."""
    assert flat(path, one, *modules) == flat(path, other, *modules)


@pytest.mark.parametrize(
    ("path", "modules", "one", "other"),
    [
        ("config.json", [TRANSFORMER], {"pad_token_id": None}, {}),
        ("config.json", [TRANSFORMER], {"hidden_act": "gelu"}, {"hidden_act": "relu"}),
        ("config.json", [TRANSFORMER], {"torch_dtype": "a", "dtype": "b"}, {"torch_dtype": "c", "dtype": "b"}),
        ("config.json", [TRANSFORMER], {"a": {"b": 1}}, {"a.b": 1}),
        ("config.json", [TRANSFORMER], {"a": {"b": 1}, "a.b": 2}, {"a": {"b": 3}, "a.b": 2}),
        ("config.json", [TRANSFORMER], {"": 1}, {}),
        ("config.json", [TRANSFORMER], {"": {"a": 1}}, {"a": 1}),
        ("config.json", [TRANSFORMER], {"a": {}}, {}),
        ("config.json", [TRANSFORMER], {"a": [1, 2]}, {"a": [2, 1]}),
        ("config.json", [TRANSFORMER], {"use_residual": False}, {}),
        ("config.json", [CUSTOM], {"pooling_mode_mean_tokens": True}, {}),
        ("config.json", [POOLING, CUSTOM], {"include_prompt": True}, {}),
        ("config.json", [], {"include_prompt": True}, {}),
        ("config.json", [POOLING], {"pooling_mode_cls_token": True}, {"pooling_mode_max_tokens": True}),
        ("config.json", [POOLING], {"include_prompt": False}, {}),
        ("config.json", [DENSE], {"bias": None}, {}),
        ("config.json", [SCORE], {"module_input_name": "sentence_embedding"}, {}),
        ("config.json", [SCORE], {"module_output_name": "sentence_embedding"}, {}),
        ("config.json", [DENSE], {"module_output_name": "token_embeddings"}, {}),
        ("config.json", [POOLING], {"do_lower_case": False}, {}),
        (ST_JSON, [TRANSFORMER], {"prompts": {"query": "q: "}}, {"prompts": {"query": "q:"}}),
        (ST_JSON, [TRANSFORMER], {"model_type": "SparseEncoder"}, {}),
        (ST_JSON, [TRANSFORMER], {"prompts": ["q: "]}, {}),
        ("config.json", [TRANSFORMER], [1], {}),
        ("config.json", [TRANSFORMER], [1], [2]),
        ("config.json", [TRANSFORMER], "a", "b"),
    ],
)
def test_whatever_is_not_known_to_be_without_effect_counts(
    path: str, modules: list[Module], one: object, other: object
) -> None:
    """Of modules that the library does not make, and of transformers, no default is known."""
    assert settings_of(path, one, modules, CLASS) != settings_of(path, other, modules, CLASS)


@pytest.mark.parametrize("mode", LEGACY_POOLING)
def test_every_mode_of_pooling_has_its_old_key(mode: str) -> None:
    """As the library reads it."""
    old = {key: one == mode for one, key in LEGACY_POOLING.items()}
    assert flat("config.json", old, POOLING) == flat("config.json", {"pooling_mode": mode}, NEW_POOLING)


def test_a_class_of_the_library_has_one_name_and_a_folder() -> None:
    """Its module has moved twice; a class of others keeps its whole name."""
    old = [Module("", f"{OLD}Transformer"), Module("1_Pooling", f"{OLD}Pooling")]
    new = [Module("", f"{BASE}transformer.Transformer"), Module("1_Pooling", NEW_POOLING.type)]
    assert module_names(old, []) == module_names(new, []) == {"modules": '["Transformer", "Pooling (1_Pooling)"]'}
    assert module_names([CUSTOM], []) == {"modules": '["my.Pooling"]'}
    assert module_names(old[::-1], []) != module_names(old, [])


@given(document=json_values(*WORDS), path=st.sampled_from([ST, ST_JSON, "config.json", "tokenizer_config.json"]),
       modules=st.lists(st.sampled_from([TRANSFORMER, POOLING, DENSE, CUSTOM])))  # fmt: skip
@BUDGET
def test_any_json_has_settings_that_are_json(document: object, path: str, modules: list[Module]) -> None:
    """Of whatever type; also NaN, huge numbers and halves of surrogates."""
    settings = settings_of(path, document, modules, CLASS)
    for value in settings.values():
        json.loads(value)
    json.dumps(settings).encode()
