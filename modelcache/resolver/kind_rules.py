"""The tables of models.toml under which a model of a type is shipped, and what to do about it elsewhere. Rules only.

It is shipped where the loader of that table takes it as it is: with no part of random numbers, and not converted.
"""

from __future__ import annotations

from modelcache.core.kinds import Kind
from modelcache.resolver.model_type import TABLES, DetectedType, ModelType

_OTHER_MODEL = "use an embedding model or a cross-encoder"
_SCORE_BY_TOKENS = (
    "use a repository or a revision whose modules.json has a LogitScore module, or save the model with one by"
    " sentence-transformers, with the tokens that its card names, and take that directory as `path`"
)


def problem_with_kind(found: DetectedType, kind: Kind) -> tuple[str, str] | None:
    """Say why a model does not belong into this table, and what to do; or None."""
    fact = f"it is {found.type} ({found.evidence})"
    if found.problem:
        reason, hint = found.problem
        return f"{fact}, and {reason}", hint
    if table := TABLES.get(found.type):
        lost = ", and its head would be thrown away" if kind.spec.pools else ""
        return None if table is kind else (f"{fact}{lost}", f"list it under [[{table}]]")
    return _PROBLEMS[kind](found, fact)


def possible_kinds(found: DetectedType) -> list[Kind]:
    """Return the kinds as which a model of this type is shipped."""
    return [kind for kind in Kind if kind.spec.loads and not problem_with_kind(found, kind)]


def note_on_kind(found: DetectedType, kind: Kind) -> str | None:
    """Say what the user has to make sure of, or None."""
    if found.type not in (ModelType.CAUSAL, ModelType.LANGUAGE):
        return None
    if kind.spec.pools:
        return (
            f"{found.evidence}, a language model, and its head takes no part in vectors: make sure that its card calls"
            " it an embedding model; a sparse encoder and a reranker can look the same"
        )
    if kind is Kind.SPARSE:
        return (
            f"{found.evidence}, a language model: make sure that its card calls it a sparse encoder, as SPLADE is;"
            " an embedding model and one that was never trained for search can look the same"
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
        return f"{fact}, and its files do not say which tokens make its score; {guess}", _SCORE_BY_TOKENS
    if found.type in (ModelType.CROSS_ENCODER, ModelType.UNKNOWN):
        return None
    reason = f"{fact}, and nothing in it scores pairs; the loader would add a head of random numbers"
    return reason, f"{_other_tables(found)}use a cross-encoder"


def _problem_as_sparse(found: DetectedType, fact: str) -> tuple[str, str] | None:
    if found.masked and not found.ranks:
        return None
    hint = f"{_other_tables(found)}use a sparse encoder"
    if found.masked:
        return f"{fact}, and its card says that it ranks texts", hint
    return f"{fact}, and nothing in it weighs words; the loader would add a layer of random numbers", hint


def _problem_as_multi_vector(found: DetectedType, fact: str) -> tuple[str, str] | None:
    return (
        f"{fact}, and nothing in it makes vectors of tokens; the loader would add a projection of random numbers",
        f"{_other_tables(found)}use a multi-vector model",
    )


def _other_tables(found: DetectedType) -> str:
    """Name the tables under which a model that says no type is shipped, as the beginning of a hint."""
    if found.ranks or found.type not in (ModelType.ENCODER, ModelType.LANGUAGE, ModelType.CAUSAL):
        return ""
    sparse = " or, where its card calls it a sparse encoder, under [[sparse]]" if found.masked else ""
    return f"list it under [[embedding]], with pooling and normalize{sparse}; or "


_PROBLEMS = {
    Kind.EMBEDDING: _problem_as_embedding,
    Kind.RERANKER: _problem_as_reranker,
    Kind.SPARSE: _problem_as_sparse,
    Kind.MULTI_VECTOR: _problem_as_multi_vector,
}
"""The rule of each kind."""
