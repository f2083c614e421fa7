"""What kind of model a repository holds, as far as its configurations tell. Rules only; no network, no disk.

With modules.json the loaders go by the `model_type` beside it (sentence_transformers/base/model.py, _get_model_type).
Without it each loader puts together what it takes for usual (…/model.py, _load_default_modules): weights that find no
place are thrown away, and places without weights are filled with random numbers, both with a line in a log at most. So
`architectures` of config.json, the class whose weights were saved, decides what the model can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.resolver.model_modules import Module

SAVED = "config_sentence_transformers.json"
"""What sentence-transformers saves beside modules.json; its `model_type` is absent where it says nothing new."""


class Nature(StrEnum):
    """What a repository holds, in words."""

    EMBEDDING = "an embedding model"
    CROSS_ENCODER = "a cross-encoder"
    SPARSE = "a sparse encoder"
    MULTI_VECTOR = "a multi-vector model"
    CAUSAL = "a causal language model"
    LANGUAGE = "a language model"
    ENCODER = "an encoder without a head"
    TWO_TOWERS = "a model of texts and pictures"
    STATIC = "a static model of model2vec"
    OTHER = "a model for another task"
    UNUSUAL = "a model of a class of its own"
    UNKNOWN = "a model of a kind that its files do not tell"


_TABLES = {Nature(kind.spec.noun): kind for kind in Kind}
"""The table that a model belongs in, where its files alone say so."""

_MODEL_TYPES = {
    **{kind.spec.model_class: nature for nature, kind in _TABLES.items()},
    "SparseEncoder": Nature.SPARSE,
    "MultiVectorEncoder": Nature.MULTI_VECTOR,
    "ColBERT": Nature.MULTI_VECTOR,  # PyLate
}
_MODULE_TYPES = {
    "pylate.": Nature.MULTI_VECTOR,
    "sentence_transformers.multi_vector_encoder.": Nature.MULTI_VECTOR,
    "sentence_transformers.sparse_encoder.": Nature.SPARSE,
}
# What PyLate wrote before it wrote its model_type (multi_vector_encoder/model.py, _parse_model_config).
_PYLATE_KEYS = ("query_length", "document_length", "skiplist_words", "attend_to_expansion_tokens")

_OTHER_TASKS = """
    AudioClassification AudioFrameClassification CTC DepthEstimation DocumentQuestionAnswering ImageClassification
    ImageSegmentation InstanceSegmentation MaskedImageModeling MultipleChoice NextSentencePrediction ObjectDetection
    QuestionAnswering QuestionAnsweringSimple SemanticSegmentation SpeechClassification TableQuestionAnswering
    TokenClassification UniversalSegmentation VideoClassification VisualQuestionAnswering ZeroShotImageClassification
"""
# How a class of transformers ends, by what its head is for. The first that fits counts.
_ARCHITECTURES = (
    (r"HF_ColBERT|.*ForRetrieval", Nature.MULTI_VECTOR),
    (r".*ForSequenceClassification", Nature.CROSS_ENCODER),
    (r".*ForCausalLM", Nature.CAUSAL),
    (r".*(For(MaskedLM|PreTraining|ConditionalGeneration)|LMHeadModel)", Nature.LANGUAGE),
    (rf".*For({'|'.join(_OTHER_TASKS.split())})", Nature.OTHER),
    (r"StaticModel", Nature.STATIC),
    (r".*(CLIP|Siglip|Siglip2|Align|Blip)Model", Nature.TWO_TOWERS),
    (r".*(Model|Encoder)", Nature.ENCODER),
)
_CARD_ENTRY = re.compile(r"(?m)^[ \t]*(?:-|pipeline_tag:)(.*)$")
# Not `sparse` alone: so are models called whose weights have been pruned.
_SPARSE_TAG = re.compile(
    r"splade.*|(learned|neural)[ -]sparse.*|sparse[ -](encoder|retrieval|representation|embedding)s?"
)

_OTHER_MODEL = "use an embedding model or a cross-encoder"
_NO_TABLE = f"no table fits it yet; {_OTHER_MODEL}"
_SAY_THE_TOKENS = (
    "use a repository or a revision whose modules.json has a LogitScore module, or save the model with one by"
    " sentence-transformers, with the tokens that its card names, and take that directory as `path`"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a repository holds."""

    nature: Nature
    why: str
    """Where that stands: `config.json names BertForSequenceClassification`."""
    ranks: bool = False
    """Whether the card of a language model says that it ranks texts."""


def kind_of(
    files: Mapping[str, object],
    modules: Sequence[Module],
    document: Callable[[str], Mapping[str, Any]],
    card: Callable[[], str],
) -> Found:
    """Tell what a repository holds.

    `files` are its paths, `document` gives one as a mapping, and `card` its README.md; that is asked for only where the
    files alone leave two answers.
    """
    if "modules.json" in files:
        return _saved(modules, document(SAVED))
    found = _bare(files, document("config.json"))
    return _by_card(found, card()) if found.nature in (Nature.CAUSAL, Nature.LANGUAGE) else found


def problem_with_kind(found: Found, kind: Kind) -> tuple[str, str] | None:
    """Say why a model does not belong into this table, and the way out; or None."""
    what = f"it is {found.nature} ({found.why})"
    if found.nature in (Nature.SPARSE, Nature.MULTI_VECTOR):
        return what, _NO_TABLE
    if (table := _TABLES.get(found.nature)) and table is not kind:
        lost = ", and its head would be thrown away" if kind.spec.pools else ""
        return f"{what}{lost}", f"list it under [[{table}]]"
    return _not_pooled(found, what) if kind.spec.pools else _not_scored(found, what)


def note_on_kind(found: Found, kind: Kind) -> str | None:
    """Say what people should make sure of, or None."""
    if kind.spec.pools and found.nature in (Nature.CAUSAL, Nature.LANGUAGE):
        return (
            f"{found.why}, a language model, and its head takes no part in vectors: make sure that its card calls it"
            " an embedding model; a sparse encoder and a reranker can look the same"
        )
    return None


def _not_pooled(found: Found, what: str) -> tuple[str, str] | None:
    if found.ranks:
        way_out = f"list it under [[reranker]]; {_SAY_THE_TOKENS}" if found.nature is Nature.CAUSAL else _OTHER_MODEL
        return f"{what}, and its card says that it ranks texts", way_out
    if found.nature is Nature.OTHER:
        return f"{what}, and its head would be thrown away", "use an embedding model"
    if found.nature in (Nature.TWO_TOWERS, Nature.STATIC):
        return (
            f"{what} without modules.json, and pooling does not apply to it",
            "use a repository or a revision that sentence-transformers saved",
        )
    return None


def _not_scored(found: Found, what: str) -> tuple[str, str] | None:
    if found.nature is Nature.CAUSAL:
        guess = 'nothing says which tokens make its score; the loader would take "yes" and "no"'
        return f"{what}, and {guess}", _SAY_THE_TOKENS
    if found.nature in (Nature.CROSS_ENCODER, Nature.UNKNOWN):
        return None
    can_be_pooled = found.nature in (Nature.ENCODER, Nature.LANGUAGE) and not found.ranks
    pooled = "list it under [[embedding]], with pooling and normalize, or " if can_be_pooled else ""
    told = f"{what}, and nothing in it scores pairs as the loader does it, which would add a head of random numbers"
    return told, f"{pooled}use a cross-encoder"


def _saved(modules: Sequence[Module], saved: Mapping[str, Any]) -> Found:
    """Tell by what sentence-transformers, or PyLate, saved."""
    model_type = saved.get("model_type", "SentenceTransformer")
    for module in modules:
        for beginning, nature in _MODULE_TYPES.items():
            if module.type.startswith(beginning):
                return Found(nature, f"{module.named_in} names {escape(module.type)}")
    if keys := [key for key in _PYLATE_KEYS if key in saved]:
        return Found(Nature.MULTI_VECTOR, f"{SAVED} has {keys[0]}")
    nature = _MODEL_TYPES.get(model_type, Nature.OTHER) if isinstance(model_type, str) else Nature.OTHER
    scores = [module for module in modules if module.type.startswith("sentence_transformers.cross_encoder.")]
    if nature is Nature.EMBEDDING and scores:
        return Found(Nature.OTHER, f"modules.json names {escape(scores[0].type)}, and no {SAVED} says CrossEncoder")
    return Found(nature, f"saved as a {escape(str(model_type))}")


def _bare(files: Mapping[str, object], config: Mapping[str, Any]) -> Found:
    """Tell by what transformers saved, and by what the cross-encoders of before version 6 added to it."""
    named = config.get("architectures")
    architectures = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    found = [Found(_nature_of(one), f"config.json names {escape(one)}") for one in architectures]
    if several := [one for one in found if one.nature is Nature.MULTI_VECTOR]:
        return several[0]
    if "artifact.metadata" in files:
        return Found(Nature.MULTI_VECTOR, "it has artifact.metadata")
    if found and found[0].nature in (Nature.CAUSAL, Nature.CROSS_ENCODER):
        return found[0]
    code = config.get("auto_map")
    scorer = str(code.get("AutoModelForSequenceClassification")) if isinstance(code, dict) else ""
    if architectures and scorer.endswith(f".{architectures[0]}"):
        return Found(Nature.CROSS_ENCODER, f"config.json names {escape(scorer)}")
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        if config.get(key):
            return Found(Nature.CROSS_ENCODER, f"config.json has {key}")
    return found[0] if found else Found(Nature.UNKNOWN, "config.json names no architecture")


def _nature_of(architecture: str) -> Nature:
    return next((nature for form, nature in _ARCHITECTURES if re.fullmatch(form, architecture)), Nature.UNUSUAL)


def _by_card(found: Found, card: str) -> Found:
    """Ask the head of the card what a language model is for."""
    head = card.partition("---\n")[2].partition("\n---")[0]
    entries = {entry.strip(" \t\"'").lower() for entry in _CARD_ENTRY.findall(head)}
    if tags := [entry for entry in entries if _SPARSE_TAG.fullmatch(entry)]:
        return Found(Nature.SPARSE, f"its card has the tag {escape(min(tags), 100)}")
    return Found(found.nature, found.why, ranks="text-ranking" in entries)
