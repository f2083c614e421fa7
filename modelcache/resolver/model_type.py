"""The type of a model (embedding, cross-encoder, sparse …), by its configurations. Rules only; no network, no disk.

With modules.json the loaders go by the `model_type` beside it (sentence_transformers/base/model.py, _get_model_type).
Without it each loader builds its default modules (…/model.py, _load_default_modules): it drops weights that fit none of
them, and fills those without weights with random numbers, both with a line in a log at most. So `architectures` of
config.json, the class whose weights were saved, decides what the model can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.resolver.model_modules import SENTENCE_TRANSFORMERS_CONFIG, Module, ReadJson


class ModelType(StrEnum):
    """The type of a model, in words."""

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
    CUSTOM = "a model of a custom class"
    UNKNOWN = "a model of unknown type"


_TABLES = {ModelType(kind.spec.noun): kind for kind in Kind}
"""The table that a model belongs in, where its files alone say so."""

_SAVED_TYPES = {
    **{kind.spec.model_class: model_type for model_type, kind in _TABLES.items()},
    "SparseEncoder": ModelType.SPARSE,
    "MultiVectorEncoder": ModelType.MULTI_VECTOR,
    "ColBERT": ModelType.MULTI_VECTOR,  # PyLate
}
_MODULE_TYPES = {
    "pylate.": ModelType.MULTI_VECTOR,
    "sentence_transformers.multi_vector_encoder.": ModelType.MULTI_VECTOR,
    "sentence_transformers.sparse_encoder.": ModelType.SPARSE,
}
# Keys that PyLate wrote before it wrote its model_type (multi_vector_encoder/model.py, _parse_model_config).
_PYLATE_KEYS = ("query_length", "document_length", "skiplist_words", "attend_to_expansion_tokens")

_OTHER_TASKS = """
    AudioClassification AudioFrameClassification CTC DepthEstimation DocumentQuestionAnswering ImageClassification
    ImageSegmentation InstanceSegmentation MaskedImageModeling MultipleChoice NextSentencePrediction ObjectDetection
    QuestionAnswering QuestionAnsweringSimple SemanticSegmentation SpeechClassification TableQuestionAnswering
    TokenClassification UniversalSegmentation VideoClassification VisualQuestionAnswering ZeroShotImageClassification
"""
# The type by the name of a class of transformers, which ends in the task of its head. The first match counts.
_ARCHITECTURES = (
    (r"HF_ColBERT|.*ForRetrieval", ModelType.MULTI_VECTOR),
    (r".*ForSequenceClassification", ModelType.CROSS_ENCODER),
    (r".*ForCausalLM", ModelType.CAUSAL),
    (r".*(For(MaskedLM|PreTraining|ConditionalGeneration)|LMHeadModel)", ModelType.LANGUAGE),
    (rf".*For({'|'.join(_OTHER_TASKS.split())})", ModelType.OTHER),
    (r"StaticModel", ModelType.STATIC),
    (r".*(CLIP|Siglip|Siglip2|Align|Blip)Model", ModelType.TWO_TOWERS),
    (r".*(Model|Encoder)", ModelType.ENCODER),
    (r".*", ModelType.CUSTOM),
)
_CARD_ENTRY = re.compile(r"(?m)^[ \t]*(?:-|pipeline_tag:)(.*)$")
# Not `sparse` alone, which is also a tag of models with pruned weights.
_SPARSE_TAG = re.compile(
    r"splade.*|(learned|neural)[ -]sparse.*|sparse[ -](encoder|retrieval|representation|embedding)s?"
)

_OTHER_MODEL = "use an embedding model or a cross-encoder"
_NO_TABLE = f"no table fits it yet; {_OTHER_MODEL}"
_SCORE_BY_TOKENS = (
    "use a repository or a revision whose modules.json has a LogitScore module, or save the model with one by"
    " sentence-transformers, with the tokens that its card names, and take that directory as `path`"
)


@dataclass(frozen=True, slots=True)
class DetectedType:
    """The type of a model, and where it was found."""

    type: ModelType
    evidence: str
    """A clause: `config.json names BertForSequenceClassification`."""
    ranks: bool = False
    """Whether the card of a language model names the task `text-ranking`."""


def detect_type(
    files: Mapping[str, object],
    modules: Sequence[Module],
    read_json: ReadJson,
    read_card: Callable[[], str],
) -> DetectedType:
    """Return the type of the model in a repository.

    `files` are its paths, `read_json` returns one as a mapping, and `read_card` its README.md, which is read only where
    the other files leave two answers.
    """
    if "modules.json" in files:
        return _saved_type(modules, read_json(SENTENCE_TRANSFORMERS_CONFIG))
    found = _transformers_type(files, read_json("config.json"))
    return _by_card(found, read_card()) if found.type in (ModelType.CAUSAL, ModelType.LANGUAGE) else found


def problem_with_kind(found: DetectedType, kind: Kind) -> tuple[str, str] | None:
    """Say why a model does not belong into this table, and what to do; or None."""
    fact = f"it is {found.type} ({found.evidence})"
    if found.type in (ModelType.SPARSE, ModelType.MULTI_VECTOR):
        return fact, _NO_TABLE
    if (table := _TABLES.get(found.type)) and table is not kind:
        lost = ", and its head would be thrown away" if kind.spec.pools else ""
        return f"{fact}{lost}", f"list it under [[{table}]]"
    return _PROBLEMS[kind](found, fact)


def note_on_kind(found: DetectedType, kind: Kind) -> str | None:
    """Say what the user has to make sure of, or None."""
    if kind.spec.pools and found.type in (ModelType.CAUSAL, ModelType.LANGUAGE):
        return (
            f"{found.evidence}, a language model, and its head takes no part in vectors: make sure that its card calls"
            " it an embedding model; a sparse encoder and a reranker can look the same"
        )
    return None


def _problem_as_embedding(found: DetectedType, fact: str) -> tuple[str, str] | None:
    if found.ranks:
        hint = f"list it under [[reranker]]; {_SCORE_BY_TOKENS}" if found.type is ModelType.CAUSAL else _OTHER_MODEL
        return f"{fact}, and its card says that it ranks texts", hint
    if found.type is ModelType.OTHER:
        return f"{fact}, and its head would be thrown away", "use an embedding model"
    if found.type in (ModelType.TWO_TOWERS, ModelType.STATIC):
        return (
            f"{fact} without modules.json, and pooling does not apply to it",
            "use a repository or a revision that sentence-transformers saved",
        )
    return None


def _problem_as_reranker(found: DetectedType, fact: str) -> tuple[str, str] | None:
    if found.type is ModelType.CAUSAL:
        guess = 'the loader would take "yes" and "no"'
        return f"{fact}, and nothing says which tokens make its score; {guess}", _SCORE_BY_TOKENS
    if found.type in (ModelType.CROSS_ENCODER, ModelType.UNKNOWN):
        return None
    can_be_pooled = found.type in (ModelType.ENCODER, ModelType.LANGUAGE) and not found.ranks
    pooled = "list it under [[embedding]], with pooling and normalize, or " if can_be_pooled else ""
    reason = f"{fact}, and nothing in it scores pairs; the loader would add a head of random numbers"
    return reason, f"{pooled}use a cross-encoder"


_PROBLEMS = {Kind.EMBEDDING: _problem_as_embedding, Kind.RERANKER: _problem_as_reranker}
"""The rule of each kind."""


def _saved_type(modules: Sequence[Module], saved: Mapping[str, Any]) -> DetectedType:
    """Return the type that sentence-transformers, or PyLate, has saved."""
    name = saved.get("model_type", "SentenceTransformer")
    for module in modules:
        for beginning, model_type in _MODULE_TYPES.items():
            if module.type.startswith(beginning):
                return DetectedType(model_type, f"{module.named_in} names {escape(module.type)}")
    if keys := [key for key in _PYLATE_KEYS if key in saved]:
        return DetectedType(ModelType.MULTI_VECTOR, f"{SENTENCE_TRANSFORMERS_CONFIG} has {keys[0]}")
    model_type = _SAVED_TYPES.get(name, ModelType.OTHER) if isinstance(name, str) else ModelType.OTHER
    scores = [module for module in modules if module.type.startswith("sentence_transformers.cross_encoder.")]
    if model_type is ModelType.EMBEDDING and scores:
        return DetectedType(
            ModelType.OTHER,
            f"modules.json names {escape(scores[0].type)}, and no {SENTENCE_TRANSFORMERS_CONFIG} says CrossEncoder",
        )
    return DetectedType(model_type, f"saved as a {escape(str(name))}")


def _transformers_type(files: Mapping[str, object], config: Mapping[str, Any]) -> DetectedType:
    """Return the type by what transformers saves, and cross-encoders before version 6 add to it."""
    named = config.get("architectures")
    architectures = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    found = [DetectedType(_type_of(one), f"config.json names {escape(one)}") for one in architectures]
    if several := [one for one in found if one.type is ModelType.MULTI_VECTOR]:
        return several[0]
    if "artifact.metadata" in files:
        return DetectedType(ModelType.MULTI_VECTOR, "it has artifact.metadata")
    if found and found[0].type in (ModelType.CAUSAL, ModelType.CROSS_ENCODER):
        return found[0]
    code = config.get("auto_map")
    scorer = str(code.get("AutoModelForSequenceClassification")) if isinstance(code, dict) else ""
    if architectures and scorer.endswith(f".{architectures[0]}"):
        return DetectedType(ModelType.CROSS_ENCODER, f"config.json names {escape(scorer)}")
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        if config.get(key):
            return DetectedType(ModelType.CROSS_ENCODER, f"config.json has {key}")
    return found[0] if found else DetectedType(ModelType.UNKNOWN, "config.json names no architecture")


def _type_of(architecture: str) -> ModelType:
    return next(model_type for form, model_type in _ARCHITECTURES if re.fullmatch(form, architecture, re.DOTALL))


def _by_card(found: DetectedType, card: str) -> DetectedType:
    """Refine the type of a language model by the head of its card."""
    head = card.partition("---\n")[2].partition("\n---")[0]
    entries = {entry.strip(" \t\"'").lower() for entry in _CARD_ENTRY.findall(head)}
    if tags := [entry for entry in entries if _SPARSE_TAG.fullmatch(entry)]:
        return DetectedType(ModelType.SPARSE, f"its card has the tag {escape(min(tags), 100)}")
    return DetectedType(found.type, found.evidence, ranks="text-ranking" in entries)
