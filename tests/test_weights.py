"""Names of parameters against names of tensors: what is random, what is lost, and what is only a head."""

from __future__ import annotations

import pytest

from modelcache.weights import Network

Found = tuple[list[str], list[str], list[str]]
BERT = ["embeddings.word_embeddings.weight", "encoder.layer.0.output.LayerNorm.weight", "pooler.dense.weight"]


def fits(*, unfilled: tuple[str, ...] = (), lost: tuple[str, ...] = (), unused: tuple[str, ...] = ()) -> Found:
    """A comparison in which nothing differs but what is named."""
    return list(unfilled), list(lost), list(unused)


def compare(parameters: list[str], tensors: list[str], *, buffers: tuple[str, ...] = (), prefix: str = "") -> Found:
    """What does not fit."""
    network = Network(parameters, buffers, prefix)
    return network.unfilled(tensors), *network.left_over(tensors)


@pytest.mark.parametrize(
    ("parameters", "tensors", "prefix", "expected"),
    [
        pytest.param(BERT, BERT, "bert", fits(), id="the same"),
        pytest.param(BERT, [f"bert.{name}" for name in BERT], "bert", fits(), id="saved with a head"),
        pytest.param([f"bert.{name}" for name in BERT], BERT, "bert", fits(), id="loaded with a head"),
        pytest.param(
            BERT, [name.replace("LayerNorm.weight", "LayerNorm.gamma") for name in BERT], "bert", fits(), id="gamma"
        ),
        pytest.param(["a.LayerNorm.bias"], ["x.a.LayerNorm.beta"], "x", fits(), id="beta below a prefix"),
        pytest.param(BERT, BERT[:2], "bert", fits(unfilled=(BERT[2],)), id="a weight is missing"),
        pytest.param(BERT, [], "", fits(unfilled=tuple(sorted(BERT))), id="all are missing"),
        pytest.param(
            BERT,
            [*BERT, "encoder.layer.1.output.LayerNorm.weight"],
            "bert",
            fits(lost=("encoder.layer.1.output.LayerNorm.weight",)),
            id="a layer too many",
        ),
        pytest.param(
            BERT,
            [*(f"bert.{name}" for name in BERT), "bert.encoder.layer.1.x", "cls.predictions.bias"],
            "bert",
            fits(lost=("bert.encoder.layer.1.x",), unused=("cls",)),
            id="a layer too many below a prefix, and a head",
        ),
        pytest.param(
            [*(f"bert.{name}" for name in BERT), "classifier.weight"],
            [*BERT, "encoder.layer.1.x", "classifier.weight"],
            "bert",
            fits(lost=("encoder.layer.1.x",)),
            id="a layer too many, loaded with a head",
        ),
        pytest.param(BERT, [*BERT, "lm_head.weight", "lm_head.bias"], "bert", fits(unused=("lm_head",)), id="a head"),
        pytest.param(["linear.weight"], ["linear.weight", "linear.bias"], "", fits(lost=("linear.bias",)), id="a bias"),
        pytest.param(
            ["model.a.weight"], ["encoder.a.weight"], "model", fits(unfilled=("model.a.weight",), unused=("encoder",)),
            id="under another name",
        ),
        pytest.param(["a.weight"], ["b.a.weight"], "", fits(unfilled=("a.weight",), unused=("b",)), id="too deep"),
    ],
)  # fmt: skip
def test_what_fits_and_what_does_not(parameters: list[str], tensors: list[str], prefix: str, expected: Found) -> None:
    assert compare(parameters, tensors, prefix=prefix) == expected
    assert compare(parameters, tensors[::-1], prefix=prefix) == expected


@pytest.mark.parametrize(
    ("tensor", "buffer"),
    [
        ("embeddings.position_ids", "embeddings.position_ids"),
        ("encoder.layers.0.rotary_emb.inv_freq", "rotary_emb.inv_freq"),
        ("bert.embeddings.position_ids", "embeddings.position_ids"),
    ],
)
def test_what_a_model_computes_for_itself_is_not_lost(tensor: str, buffer: str) -> None:
    """Files of old hold buffers, also where the model of today keeps them elsewhere."""
    assert compare(BERT, [*BERT, tensor], buffers=(buffer,), prefix="bert") == fits()
    assert compare(BERT, [*BERT, tensor], prefix="bert") != fits()


def test_a_buffer_is_not_asked_for() -> None:
    """It need not be in a file."""
    assert compare(BERT, BERT, buffers=("embeddings.position_ids",)) == fits()
