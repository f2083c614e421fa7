"""The kinds of models, a row each.

A new kind is a row here, a class in `check.adapters`, rules in `resolver.model_type` and `resolver.model_modules`, a
loader in `cache_models`, and an endpoint in scripts/serve.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Output(StrEnum):
    """The output of a model for one input; recorded numbers are compared accordingly."""

    VECTOR = "vector"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class KindSpec:
    """The differences between one kind and the others."""

    noun: str
    """In messages: `a cross-encoder`; a value of `resolver.model_type.ModelType`."""
    collection: str
    """The directory of its models below a root."""
    default_owner: str
    """The owner that is suggested for an id without one."""
    model_class: str
    """The class of sentence-transformers that loads it; also the `model_type` that this class saves."""
    pools: bool
    """Whether its loader pools token vectors, so that `pooling` and `normalize` apply."""
    output: Output


class Kind(StrEnum):
    """How a model is loaded; also the name of its table in models.toml."""

    EMBEDDING = "embedding"
    RERANKER = "reranker"

    @property
    def spec(self) -> KindSpec:
        """The row of this kind."""
        return _SPECS[self]


_SPECS = {
    Kind.EMBEDDING: KindSpec(
        noun="an embedding model",
        collection="cached_embedding_models",
        default_owner="sentence-transformers",
        model_class="SentenceTransformer",
        pools=True,
        output=Output.VECTOR,
    ),
    Kind.RERANKER: KindSpec(
        noun="a cross-encoder",
        collection="cached_reranker_models",
        default_owner="cross-encoder",
        model_class="CrossEncoder",
        pools=False,
        output=Output.SCORE,
    ),
}
