"""Activations that a loader would replace are refused."""

from __future__ import annotations

import json

import pytest

from modelcache.core.kinds import Kind
from modelcache.core.types import RemoteCode, WantedModel
from tests.support.choosing import BERT, CODE, MODULES, WHOLE, among, refusal

ODD = {"sentence_transformers": {"activation_fn": "mylib.Swish"}}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"config.json": {**BERT, **ODD}}, "config.json names the activation mylib.Swish"),
        ({"config.json": {**BERT, "sbert_ce_default_activation_function": "mylib.Swish"}}, "config.json names the"),
        (
            {"config_sentence_transformers.json": {"activation_fn": "mylib.Swish"}},
            "config_sentence_transformers.json names",
        ),
        (
            {
                "modules.json": [*MODULES, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}],
                "2_Dense/config.json": {"activation_function": "mylib.Swish"},
                "2_Dense/model.safetensors": b"",
            },
            "2_Dense/config.json names the activation mylib.Swish",
        ),
    ],
)
def test_an_activation_that_would_be_replaced_is_refused(files: dict[str, object], told: str) -> None:
    """The loaders put a default of their own in its place, unless the model is trusted; torch's own are taken."""
    assert told in refusal({**WHOLE, **files})[0]
    known = json.loads(
        json.dumps({path: value for path, value in files.items() if value != b""}).replace("mylib.", "torch.nn.")
    )
    among({**WHOLE, **files, **known})


def test_what_other_configurations_call_an_activation_is_the_models_own() -> None:
    """GPT-2, BART and OPT have a key of that name, which transformers reads; only a Dense module is read so."""
    config = {**BERT, "model_type": "gpt2", "activation_function": "gelu_new"}
    pooling = {"pooling_mode": "mean", "activation_function": "of nobody's"}
    among({**WHOLE, "config.json": config, "1_Pooling/config.json": pooling})


def test_an_activation_of_a_model_with_code_is_its_own() -> None:
    """With trust the loader takes it as it is named."""
    wanted = WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=True)
    assert among({**WHOLE, "config.json": {**CODE, **ODD}}, wanted).remote_code is RemoteCode.VENDORED
