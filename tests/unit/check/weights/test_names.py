"""Names of parameters against names of tensors: what is random, what is unexpected, and what is only a head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelcache.check.weights.coverage import missing_folders
from modelcache.check.weights.names import Network

Found = tuple[list[str], list[str], list[str]]
BERT = ["embeddings.word_embeddings.weight", "encoder.layer.0.output.LayerNorm.weight", "pooler.dense.weight"]


def fits(*, missing: tuple[str, ...] = (), unexpected: tuple[str, ...] = (), unused: tuple[str, ...] = ()) -> Found:
    """A comparison in which nothing differs but what is named."""
    return list(missing), list(unexpected), list(unused)


def compare(parameters: list[str], tensors: list[str], *, buffers: tuple[str, ...] = (), prefix: str = "") -> Found:
    """What does not fit."""
    network = Network(parameters, buffers, prefix)
    return network.missing_keys(tensors), *network.unexpected_keys(tensors)


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
        pytest.param(BERT, BERT[:2], "bert", fits(missing=(BERT[2],)), id="a weight is missing"),
        pytest.param(BERT, [], "", fits(missing=tuple(sorted(BERT))), id="all are missing"),
        pytest.param(
            BERT,
            [*BERT, "encoder.layer.1.output.LayerNorm.weight"],
            "bert",
            fits(unexpected=("encoder.layer.1.output.LayerNorm.weight",)),
            id="a layer too many",
        ),
        pytest.param(
            BERT,
            [*(f"bert.{name}" for name in BERT), "bert.encoder.layer.1.x", "cls.predictions.bias"],
            "bert",
            fits(unexpected=("bert.encoder.layer.1.x",), unused=("cls.predictions",)),
            id="a layer too many below a prefix, and a head",
        ),
        pytest.param(
            [*(f"bert.{name}" for name in BERT), "classifier.weight"],
            [*BERT, "encoder.layer.1.x", "classifier.weight"],
            "bert",
            fits(unexpected=("encoder.layer.1.x",)),
            id="a layer too many, loaded with a head",
        ),
        pytest.param(BERT, [*BERT, "lm_head.weight", "lm_head.bias"], "bert", fits(unused=("lm_head",)), id="a head"),
        pytest.param(
            ["linear.weight"], ["linear.weight", "linear.bias"], "", fits(unexpected=("linear.bias",)), id="a bias"
        ),
        pytest.param(
            ["model.a.weight"], ["encoder.a.weight"], "model",
            fits(missing=("model.a.weight",), unexpected=("encoder.a.weight",)), id="under another name",
        ),
        pytest.param(
            ["a.weight"], ["b.a.weight"], "", fits(missing=("a.weight",), unexpected=("b.a.weight",)), id="too deep"
        ),
    ],
)  # fmt: skip
def test_what_fits_and_what_does_not(parameters: list[str], tensors: list[str], prefix: str, expected: Found) -> None:
    assert compare(parameters, tensors, prefix=prefix) == expected
    assert compare(parameters, tensors[::-1], prefix=prefix) == expected


# What files hold beside the network that is loaded, as transformers' own classes call it and repositories have it.
NO_LOSS: dict[str, tuple[str, list[str]]] = {
    "BERT, masked words and next sentences": (
        "cls.predictions cls.seq_relationship",
        [
            "cls.predictions.bias",
            "cls.predictions.transform.dense.weight",
            "cls.predictions.transform.LayerNorm.gamma",
            "cls.predictions.decoder.weight",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
        ],
    ),
    "RoBERTa, XLM-R, MPNet, CamemBERT": (
        "lm_head",
        ["lm_head.bias", "lm_head.dense.weight", "lm_head.layer_norm.bias", "lm_head.decoder.weight"],
    ),
    "a causal language model": ("lm_head", ["lm_head.weight"]),
    "DistilBERT": (
        "vocab_layer_norm vocab_projector vocab_transform",
        ["vocab_transform.weight", "vocab_layer_norm.bias", "vocab_projector.weight"],
    ),
    "ALBERT": (
        "predictions sop_classifier",
        ["predictions.dense.weight", "predictions.bias", "sop_classifier.classifier.weight"],
    ),
    "ELECTRA": (
        "discriminator_predictions generator_lm_head generator_predictions",
        ["discriminator_predictions.dense.weight", "generator_predictions.LayerNorm.bias", "generator_lm_head.bias"],
    ),
    "DeBERTa": (
        "lm_predictions mask_predictions",
        ["lm_predictions.lm_head.dense.weight", "mask_predictions.classifier.weight"],
    ),
    "XLNet": ("lm_loss", ["lm_loss.weight", "lm_loss.bias"]),
    "XLM": ("pred_layer", ["pred_layer.proj.weight"]),
    "ModernBERT": (
        "decoder.bias decoder.weight head.dense head.norm",
        ["head.dense.weight", "head.norm.weight", "decoder.weight", "decoder.bias"],
    ),
    "a pooler": ("pooler", ["pooler.dense.weight", "bert.pooler.dense.bias"]),
    "what is computed": (
        "inv_freq num_batches_tracked position_ids",
        ["bert.embeddings.position_ids", "layers.3.rotary_emb.inv_freq", "norm.num_batches_tracked"],
    ),
}
LOST: dict[str, list[str]] = {
    "a classifier": ["classifier.weight", "classifier.bias"],
    "a classifier of two layers": ["classifier.dense.weight", "classifier.out_proj.weight"],
    "a classifier of DistilBERT": ["pre_classifier.weight", "classifier.weight"],
    "a score of a causal language model": ["score.weight"],
    "a score of BART": ["classification_head.dense.weight", "classification_head.out_proj.weight"],
    "answers to questions": ["qa_outputs.weight"],
    "a projection of ColBERT": ["linear.weight"],
    "a projection of CLIP": ["text_projection.weight", "visual_projection.weight"],
    "the other half of CLIP": ["vision_model.encoder.layers.0.layer_norm1.weight"],
    "a decoder": ["decoder.block.0.layer.0.SelfAttention.q.weight"],
    "a head of a model's own": ["head.out_proj.weight"],
    "a layer too many": ["encoder.layer.7.output.dense.weight"],
    "the same model twice": ["student.encoder.layer.0.output.dense.weight"],
}
BARE = [name for name in BERT if "pooler" not in name]


@pytest.mark.parametrize("shape", NO_LOSS)
def test_a_part_that_is_known_to_be_no_loss_is_named(shape: str) -> None:
    """Pre-training comes after the vectors; it is told in a note."""
    parts, tensors = NO_LOSS[shape]
    assert compare(BARE, [*BARE, *tensors], prefix="bert") == fits(unused=tuple(parts.split()))


@pytest.mark.parametrize("shape", LOST)
def test_any_other_part_is_lost(shape: str) -> None:
    """Whatever it is called: the numbers of the model were trained to go through it."""
    assert compare(BARE, [*BARE, *LOST[shape]], prefix="bert") == fits(unexpected=tuple(sorted(LOST[shape])))


def test_a_head_that_is_loaded_is_no_spare_part() -> None:
    """A weight that it does not take is unexpected; so is another layer of a pooler."""
    masked = [*BARE, "lm_head.dense.weight"]
    assert compare(masked, [*masked, "lm_head.extra.weight"]) == fits(unexpected=("lm_head.extra.weight",))
    assert compare(BERT, [*BERT, "pooler.extra.weight"]) == fits(unexpected=("pooler.extra.weight",))
    sentences = [*BARE, "cls.predictions.bias"]
    more = [*sentences, "cls.seq_relationship.bias"]
    assert compare(sentences, more) == fits(unused=("cls.seq_relationship",))


def test_labels_of_single_tokens_are_spare_where_that_is_said() -> None:
    """And nowhere else."""
    tensors = [*BARE, "classifier.weight", "score.weight"]
    said = Network(BARE, optional_parts=("classifier",))
    assert said.unexpected_keys(tensors) == (["score.weight"], ["classifier"])


@pytest.mark.parametrize(
    ("tensor", "buffer", "name"),
    [
        ("embeddings.position_ids", "embeddings.position_ids", "position_ids"),
        ("encoder.layers.0.rotary_emb.inv_freq", "rotary_emb.inv_freq", "inv_freq"),
        ("bert.embeddings.position_ids", "embeddings.position_ids", "position_ids"),
        ("transformer.h.3.attn.bias", "h.0.attn.bias", "attn.bias"),
        ("bert.scale", "scale", "scale"),
    ],
)
def test_what_a_model_computes_for_itself_is_not_lost(tensor: str, buffer: str, name: str) -> None:
    """Files of old hold buffers, also where the model of today keeps them elsewhere."""
    assert compare(BERT, [*BERT, tensor], buffers=(buffer,), prefix="bert") == fits(unused=(name,))


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("decoder.block.0.layer.0.SelfAttention.q.weight", "decoder"),
        ("bert.embeddings.more_embeddings.weight", "embeddings.more_embeddings"),
        ("cls.predictions.bias", "cls.predictions"),
        ("bert.embeddings.position_ids", "position_ids"),
    ],
)
def test_a_part_has_a_short_name_that_is_not_the_name_of_another(tensor: str, part: str) -> None:
    """A network has embeddings: that those are not needed would be a false note."""
    assert Network(BERT, prefix="bert").part_of(tensor) == part


def test_a_buffer_excuses_no_weight_of_the_same_last_name() -> None:
    """GPT-2 calls its mask `attn.bias`; a bias elsewhere is a weight."""
    unexpected = fits(unexpected=("extra.bias",))
    assert compare(BERT, [*BERT, "extra.bias"], buffers=("h.0.attn.bias",)) == unexpected


def test_a_counter_that_is_saved_is_taken_and_not_asked_for() -> None:
    """A SparseAutoEncoder counts how long each of its numbers has been zero."""
    network = Network(["encoder.weight"], counters=("stats_last_nonzero",))
    for tensors in (["encoder.weight"], ["encoder.weight", "stats_last_nonzero"]):
        assert (network.missing_keys(tensors), network.unexpected_keys(tensors)) == ([], ([], []))
    assert network.unexpected_keys(["decoder.stats_last_nonzero"]) == (["decoder.stats_last_nonzero"], [])


def test_a_buffer_is_not_asked_for() -> None:
    """It need not be in a file."""
    assert compare(BERT, BERT, buffers=("embeddings.position_ids",)) == fits()


@pytest.mark.parametrize(
    ("path", "type_", "absent"),
    [
        pytest.param("0_Here", "sentence_transformers.models.Transformer", False, id="it is there"),
        pytest.param("1_Gone", "sentence_transformers.models.Dense", True, id="it is not there"),
        pytest.param("2_Normalize", "sentence_transformers.models.Normalize", False, id="one that saves nothing"),
        pytest.param("1_Gone", "custom.Dense", False, id="another library's own business"),
        pytest.param("x" * 300, "sentence_transformers.models.Dense", True, id="a name that no file system has"),
        pytest.param("a\0b", "sentence_transformers.models.Dense", True, id="a character that no path has"),
        pytest.param("../other", "sentence_transformers.models.Dense", True, id="outside of the model"),
        pytest.param("/", "sentence_transformers.models.Dense", True, id="the root of the machine"),
    ],
)
def test_folders_that_modules_name_are_looked_for(tmp_path: Path, path: str, type_: str, *, absent: bool) -> None:
    """Also where a model was published before `lock` refused such names."""
    (tmp_path / "model/0_Here").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "model/modules.json").write_text(json.dumps([{"path": path, "type": type_}]))
    assert missing_folders(tmp_path / "model") == [path] * absent
