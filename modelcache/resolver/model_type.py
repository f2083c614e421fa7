"""The type of a model (embedding, cross-encoder, sparse …), by its configurations. Rules only; no network, no disk.

With modules.json the loaders go by the `model_type` beside it (sentence_transformers/base/model.py, _get_model_type).
Without it each loader builds its default modules (…/model.py, _load_default_modules): it drops weights that fit none of
them, and fills those without weights with random numbers, both with a line in a log at most. So `architectures` of
config.json, the class whose weights were saved, decides what the model can be.

A model of another type than the loader's own is changed by it as well (_load_converted_modules), with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from modelcache.core.kinds import Kind
from modelcache.core.text import escape
from modelcache.resolver.model_modules import SENTENCE_TRANSFORMERS_CONFIG, Module, ReadJson, join


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


TABLES = {ModelType(kind.spec.noun): kind for kind in Kind if kind.spec.loads}
"""The table that a model belongs in, where its files alone say so; `kind_rules` has the rules for the other types."""

_SAVED_TYPES = {
    **{kind.spec.model_class: model_type for model_type, kind in TABLES.items()},
    "ColBERT": ModelType.MULTI_VECTOR,  # PyLate
}
# The `model_type` that has to be saved beside such a module.
_MODULE_TYPES = {
    "pylate.": "ColBERT",
    "sentence_transformers.multi_vector_encoder.": Kind.MULTI_VECTOR.spec.model_class,
    "sentence_transformers.sparse_encoder.": Kind.SPARSE.spec.model_class,
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

_STANFORD = "HF_ColBERT"
_MASKED = "ForMaskedLM"  # the end of the names of classes that a SparseEncoder takes as they are
# The weights of words in queries, where the model itself reads documents only (opensearch-project's repositories).
_QUERY_WORDS = "idf.json"

_OWN_COPY = "correct a copy of the repository and name its directory as `path`"
_NO_WAY_OF_QUERIES = (
    f"without modules.json the loader does not read {_QUERY_WORDS}",
    "use a repository or a revision whose modules.json has a Router, or save the model with one by"
    " sentence-transformers, and take that directory as `path`",
)
_IN_SHARDS = (
    "its loader reads the projection from model.safetensors alone",
    "ask the owner to save the weights as that one file",
)
_NOT_STANFORD = (
    f"config.json does not name {_STANFORD}, so its loader would add a projection of random numbers",
    f'ask the owner to set "architectures": ["{_STANFORD}"] there, or {_OWN_COPY}',
)


@dataclass(frozen=True, slots=True)
class DetectedType:
    """The type of a model, and where it was found."""

    type: ModelType
    evidence: str
    """A clause: `config.json names BertForSequenceClassification`."""
    ranks: bool = False
    """Whether the card of a language model names the task `text-ranking`."""
    masked: bool = False
    """Whether a SparseEncoder takes it with the head it has, where there is no modules.json."""
    problem: tuple[str, str] | None = None
    """Why the loader of this type would change it, too: a clause, and what to do."""


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
    config = read_json("config.json")
    if "modules.json" in files:
        return _saved_type(modules, read_json, config)
    found = _transformers_type(files, config)
    return _by_card(found, files, read_card()) if found.type in (ModelType.CAUSAL, ModelType.LANGUAGE) else found


def _saved_type(modules: Sequence[Module], read_json: ReadJson, config: Mapping[str, Any]) -> DetectedType:
    """Return the type that sentence-transformers, or PyLate, has saved."""
    saved = read_json(SENTENCE_TRANSFORMERS_CONFIG)
    name = saved.get("model_type", "SentenceTransformer")
    model_type = _SAVED_TYPES.get(name, ModelType.OTHER) if isinstance(name, str) else ModelType.OTHER
    as_saved = f"saved as a {escape(str(name))}"
    if model_type is ModelType.SPARSE:
        return DetectedType(model_type, as_saved, problem=_problem_with_filling(modules, read_json))
    if model_type is ModelType.MULTI_VECTOR:
        # To PyLate's the loader adds a Normalize of its own.
        problem = None if name == "ColBERT" else _problem_with_normalize(modules, read_json)
        return DetectedType(model_type, as_saved, problem=problem)
    if keys := [key for key in _PYLATE_KEYS if key in saved]:
        problem = _problem_with_old_pylate(modules, config, is_of_no_type=model_type is ModelType.EMBEDDING)
        evidence = f"{SENTENCE_TRANSFORMERS_CONFIG} has {keys[0]}"
        return DetectedType(ModelType.MULTI_VECTOR, evidence, problem=problem)
    for module in modules:
        for beginning, missing in _MODULE_TYPES.items():
            if module.type.startswith(beginning):
                evidence = f"{module.named_in} names {escape(module.type)}"
                return DetectedType(_SAVED_TYPES[missing], evidence, problem=_problem_with_no_type(missing))
    scores = [module for module in modules if module.type.startswith("sentence_transformers.cross_encoder.")]
    if model_type is ModelType.EMBEDDING and scores:
        return DetectedType(
            ModelType.OTHER,
            f"modules.json names {escape(scores[0].type)}, and no {SENTENCE_TRANSFORMERS_CONFIG} says CrossEncoder",
        )
    return DetectedType(model_type, as_saved)


def _problem_with_no_type(missing: str) -> tuple[str, str]:
    return (
        f"no {SENTENCE_TRANSFORMERS_CONFIG} says {missing}, so its loader would put it together in another way",
        f'ask the owner to set "model_type": "{missing}" there, or {_OWN_COPY}',
    )


def _problem_with_old_pylate(
    modules: Sequence[Module], config: Mapping[str, Any], *, is_of_no_type: bool
) -> tuple[str, str] | None:
    """Say whether a model that PyLate saved before it saved a type is changed when it is loaded.

    The loader gives it the modules that PyLate did without (multi_vector_encoder/model.py, _load_converted_modules),
    but not where it takes a HF_ColBERT for one of its own (_get_model_type).
    """
    if not is_of_no_type or _STANFORD in _architectures(config):
        return _problem_with_no_type("ColBERT")
    if not any(module.name == "Dense" for module in modules):
        return (
            "no module projects its vectors; the loader would add a projection of random numbers",
            "use a repository or a revision whose modules.json has a Dense module",
        )
    return None


def _problem_with_normalize(modules: Sequence[Module], read_json: ReadJson) -> tuple[str, str] | None:
    """Say whether a Normalize has lost its settings; it would look for one vector of a text, and do nothing."""
    for module in modules:
        path = join(module.folder, "config.json")
        if module.is_library("Normalize") and "module_input_name" not in read_json(path):
            hint = "copy the repository whole, or ask the owner to upload that file"
            return f"{path} does not say that vectors of tokens are normalized, so none would be", hint
    return None


def _problem_with_filling(modules: Sequence[Module], read_json: ReadJson) -> tuple[str, str] | None:
    """Say whether a module that fills masks has no head for it, and would get a random one."""
    for module in modules:
        settings = read_json(join(module.folder, "sentence_bert_config.json")) if module.name == "Transformer" else {}
        if module.name != "MLMTransformer" and settings.get("transformer_task") != "fill-mask":
            continue
        path = join(module.folder, "config.json")
        for architecture in _architectures(read_json(path))[:1]:
            if _type_of(architecture) is ModelType.ENCODER:
                return (
                    f"{path} names {escape(architecture)}, which has no head over the vocabulary; the loader would add"
                    " one of random numbers",
                    "ask the owner to upload the weights with the head",
                )
    return None


def _transformers_type(files: Mapping[str, object], config: Mapping[str, Any]) -> DetectedType:
    """Return the type by what transformers saves, and cross-encoders before version 6 add to it."""
    architectures = _architectures(config)
    found = [
        DetectedType(_type_of(one), f"config.json names {escape(one)}", masked=one.endswith(_MASKED))
        for one in architectures
    ]
    if several := [one for one in found if one.type is ModelType.MULTI_VECTOR]:
        in_shards = _STANFORD in architectures and _are_in_shards(files)
        return replace(several[0], problem=_IN_SHARDS if in_shards else None)
    if "artifact.metadata" in files:
        return DetectedType(ModelType.MULTI_VECTOR, "it has artifact.metadata", problem=_NOT_STANFORD)
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


def _are_in_shards(files: Container[str]) -> bool:
    """Whether the weights that are shipped are not one file (`resolver.weights`)."""
    if "model.safetensors" in files:
        return False
    return "model.safetensors.index.json" in files or "pytorch_model.bin" not in files


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _type_of(architecture: str) -> ModelType:
    return next(model_type for form, model_type in _ARCHITECTURES if re.fullmatch(form, architecture, re.DOTALL))


def _by_card(found: DetectedType, files: Mapping[str, object], card: str) -> DetectedType:
    """Refine the type of a language model by the head of its card."""
    head = card.partition("---\n")[2].partition("\n---")[0]
    entries = {entry.strip(" \t\"'").lower() for entry in _CARD_ENTRY.findall(head)}
    tags = [entry for entry in entries if _SPARSE_TAG.fullmatch(entry)]
    if _QUERY_WORDS in files:
        return DetectedType(ModelType.SPARSE, f"it has {_QUERY_WORDS}", problem=_NO_WAY_OF_QUERIES)
    if tags:
        unmasked = (
            f"{found.evidence}, so its loader would add a layer of random numbers",
            f"use a repository or a revision whose class ends in {_MASKED}, or that sentence-transformers saved",
        )
        evidence = f"its card has the tag {escape(min(tags), 100)}"
        return DetectedType(ModelType.SPARSE, evidence, problem=None if found.masked else unmasked)
    return replace(found, ranks="text-ranking" in entries)
