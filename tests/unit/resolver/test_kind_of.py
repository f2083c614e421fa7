"""The kind that a repository says it has, or that it does not say so: tables of configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from modelcache.core.errors import PolicyError, UnclearKindError
from modelcache.core.kinds import Kind
from modelcache.core.types import ListedFile, WantedModel
from modelcache.resolver.files import choose
from modelcache.resolver.kind_of import kind_of
from tests.support.choosing import BERT, CODE, EMBEDDING, LOADED, MODULES, SCORER, WHOLE, among

SAVED = "config_sentence_transformers.json"
SPLADE = b"---\ntags:\n- splade\n---\n"
RANKS = b"---\npipeline_tag: text-ranking\n---\n"


def bare(architecture: str | None, **files: object) -> dict[str, object]:
    """Return a repository without modules.json whose weights are of this class; None for a config that names none."""
    named = {} if architecture is None else {"architectures": [architecture]}
    return {"config.json": {"model_type": "bert", **named}, "model.safetensors": b"", **files}


def kind(files: Mapping[str, object], wanted: WantedModel = EMBEDDING) -> Kind:
    """Read the kind of files given as JSON values or bytes."""
    contents = {path: what if isinstance(what, bytes) else json.dumps(what).encode() for path, what in files.items()}
    listing = {path: ListedFile(path, len(content)) for path, content in contents.items()}
    return kind_of(wanted, listing, lambda file: contents[file.path])


def refused_for(files: Mapping[str, object], wanted: WantedModel) -> tuple[str, ...] | None:
    """Return the keys that a refusal has; None where the model is shipped."""
    try:
        among(files, wanted)
    except PolicyError as error:
        return error.settings
    return None


CERTAIN = {
    "saved by an old version": (WHOLE, Kind.EMBEDDING),
    "saved as an embedding model": ({**WHOLE, SAVED: {"model_type": "SentenceTransformer"}}, Kind.EMBEDDING),
    "saved as a cross-encoder": ({**WHOLE, SAVED: {"model_type": "CrossEncoder"}}, Kind.RERANKER),
    "saved, and a head in config.json": ({**WHOLE, "config.json": SCORER}, Kind.EMBEDDING),
    "a head for pairs": (bare("BertForSequenceClassification"), Kind.RERANKER),
    "a head for pairs, in code": (
        bare("NewScorer", **{"config.json": {
            "architectures": ["NewScorer"], "auto_map": {"AutoModelForSequenceClassification": "modeling.NewScorer"}
        }}),
        Kind.RERANKER,
    ),
    "a cross-encoder before version 6": (
        {"config.json": {**BERT, "sentence_transformers": {"version": "4.0"}}, "model.safetensors": b""},
        Kind.RERANKER,
    ),
    "no head, so its vectors are pooled": (bare("BertModel"), Kind.EMBEDDING),
    "saved as a sparse encoder": ({**WHOLE, SAVED: {"model_type": "SparseEncoder"}}, Kind.SPARSE),
    "a sparse encoder by its card": (bare("BertForMaskedLM", **{"README.md": SPLADE}), Kind.SPARSE),
    "saved as a multi-vector model": ({**WHOLE, SAVED: {"model_type": "MultiVectorEncoder"}}, Kind.MULTI_VECTOR),
    "saved by PyLate": ({**WHOLE, SAVED: {"model_type": "ColBERT"}}, Kind.MULTI_VECTOR),
    "a ColBERT of Stanford": (bare("HF_ColBERT"), Kind.MULTI_VECTOR),
    "code": ({**WHOLE, "config.json": CODE}, Kind.EMBEDDING),
    "pickles": ({"modules.json": MODULES, "config.json": BERT, "pytorch_model.bin": b""}, Kind.EMBEDDING),
}  # fmt: skip
POOLED = ("pooling",)
CODE_MODULE = {**WHOLE, "modules.json": [{"path": "", "type": "custom.Module"}]}
UNCLEAR = {
    "a masked language model": (bare("BertForMaskedLM"), {Kind.EMBEDDING: POOLED, Kind.SPARSE: ()}),
    "a language model": (bare("T5ForConditionalGeneration"), {Kind.EMBEDDING: POOLED}),
    "a causal language model": (bare("Qwen3ForCausalLM"), {Kind.EMBEDDING: POOLED}),
    "no class": (bare(None), {Kind.EMBEDDING: POOLED, Kind.RERANKER: ()}),
    "no class, and pickles": (
        {"config.json": {"model_type": "bert"}, "pytorch_model.bin": b""},
        {Kind.EMBEDDING: ("pooling", "allow_pickle"), Kind.RERANKER: ("allow_pickle",)},
    ),
    "no class, and code": (
        {"config.json": {"auto_map": {"AutoModel": "m.X"}}, "m.py": b"", "model.safetensors": b""},
        {Kind.EMBEDDING: ("pooling", "trust_remote_code"), Kind.RERANKER: ("trust_remote_code",)},
    ),
}
REFUSED = {
    "the words of queries": (bare("BertForMaskedLM", **{"idf.json": {}}), "the loader does not read idf.json"),
    "a sparse encoder that is no masked language model": (
        bare("Qwen3ForCausalLM", **{"README.md": SPLADE}), "would add a layer of random numbers",
    ),
    "a ColBERT without its name": (bare("BertModel", **{"artifact.metadata": {}}), "does not name HF_ColBERT"),
    "another task": (bare("BertForQuestionAnswering"), "its head would be thrown away"),
    "a language model that ranks": (bare("Qwen3ForCausalLM", **{"README.md": RANKS}), "it ranks texts"),
    "nothing": ({"README.md": b"x"}, "it holds no model"),
    "no class, and weights of another format": ({"config.json": {}, "model.gguf": b""}, "no safetensors weights"),
    "no JSON": ({**bare(None), "config.json": b"{"}, "is not JSON"),
    "no JSON beside modules": ({**WHOLE, SAVED: b"{"}, "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), CERTAIN.values(), ids=CERTAIN)
def test_a_kind_that_is_certain(files: Mapping[str, object], expected: Kind) -> None:
    """What is wanted so far does not count; `lock` ships the model as this kind, or asks for a permission only."""
    for before in LOADED:
        assert kind(files, replace(EMBEDDING, kind=before)) is expected
    assert refused_for(files, replace(EMBEDDING, kind=expected)) != ()


@pytest.mark.parametrize(("files", "choices"), UNCLEAR.values(), ids=UNCLEAR)
def test_a_kind_that_is_not_certain(files: Mapping[str, object], choices: Mapping[Kind, tuple[str, ...]]) -> None:
    """The error has the kinds that are possible, each with the keys with which the model is shipped as that kind."""
    with pytest.raises(UnclearKindError) as caught:
        kind(files)
    assert caught.value.choices == choices
    assert caught.value.exit_code == 2
    assert "owner/name" in caught.value.message
    keys: dict[str, object] = {"pooling": "mean", "allow_pickle": True, "trust_remote_code": True}
    for one, needed in choices.items():
        given = replace(EMBEDDING, kind=one, **{key: keys[key] for key in needed})  # type: ignore[arg-type]
        assert refused_for(files, given) is None


@pytest.mark.parametrize(("files", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_of_no_kind_is_left_to_the_rule_that_refuses_it(files: Mapping[str, object], reason: str) -> None:
    """`--kind` would not help, so it is not asked for; no key helps either."""
    found = kind(files)
    with pytest.raises(PolicyError, match=reason) as caught:
        among(files, replace(EMBEDDING, kind=found))
    assert caught.value.settings == ()


def test_a_link_in_the_place_of_a_configuration_is_left_to_the_rule_that_refuses_it() -> None:
    """A link is not followed, so it says no kind."""
    listing = {
        "config.json": ListedFile("config.json", 5, entry="symlink"),
        "model.safetensors": ListedFile("model.safetensors", 0),
    }
    found = kind_of(EMBEDDING, listing, lambda file: b"")
    with pytest.raises(PolicyError, match="only plain files are shipped"):
        choose(replace(EMBEDDING, kind=found), list(listing.values()), lambda file: b"")


@pytest.mark.parametrize(
    ("files", "wanted", "settings"),
    [
        (bare("BertForSequenceClassification"), EMBEDDING, ("kind",)),
        (WHOLE, replace(EMBEDDING, kind=Kind.RERANKER), ("kind",)),
        ({**WHOLE, "config.json": CODE, "modeling_x.py": b""}, EMBEDDING, ("trust_remote_code",)),
        ({"modules.json": MODULES, "config.json": BERT, "pytorch_model.bin": b""}, EMBEDDING, ("allow_pickle",)),
        (bare("BertModel"), EMBEDDING, ("pooling",)),
        ({**WHOLE, "config.json": CODE}, EMBEDDING, ("trust_remote_code = false",)),
        (CODE_MODULE, EMBEDDING, ()),
        ({**WHOLE, SAVED: {"model_type": "SparseEncoder"}}, EMBEDDING, ("kind",)),
        (bare("BertModel", **{"artifact.metadata": {}}), EMBEDDING, ()),
        ({"config.json": BERT, "model.gguf": b""}, EMBEDDING, ()),
    ],
    ids=[
        "reranker",
        "embedding",
        "code",
        "pickle",
        "pooling",
        "code that is missing",
        "a module that is missing",
        "sparse",
        "a multi-vector model that no loader takes as it is",
        "no weights",
    ],
)
def test_a_refusal_has_the_keys_that_permit_the_model(
    files: Mapping[str, object], wanted: WantedModel, settings: tuple[str, ...]
) -> None:
    """None where one of the reasons cannot be removed by a key."""
    assert refused_for(files, wanted) == settings
