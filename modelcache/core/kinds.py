"""The kinds of models, a row each.

A new kind is a row here, a class in `check.adapters`, rules in `resolver.model_type`, `resolver.kind_rules` and
`resolver.model_modules`, and a loader in `cache_models`; a kind that the reference API serves needs an endpoint in
`scripts.serve`. For one that is never loaded see `resolver.other_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Output(StrEnum):
    """The output of a model for one input; recorded numbers are compared accordingly."""

    VECTOR = "vector"
    SCORE = "score"
    SPARSE_VECTOR = "sparse vector"
    MATRIX = "matrix"
    """One vector for each token that takes part in the score."""
    NONE = "none"
    """It is never loaded."""


@dataclass(frozen=True, slots=True)
class KindSpec:
    """The differences between one kind and the others."""

    noun: str
    """In messages: `a cross-encoder`; a value of `resolver.model_type.ModelType`."""
    collection: str
    """The directory of its models below a root."""
    default_owner: str
    """The owner that is suggested for an id without one; empty where the models are of many."""
    model_class: str
    """The class of sentence-transformers that loads it; also the `model_type` that this class saves.

    Empty where no class does: such a repository is published, and never loaded.
    """
    loader: str
    """The function of `cache_models` that loads it; empty where none does."""
    pools: bool
    """Whether its loader pools token vectors, so that `pooling` and `normalize` apply."""
    output: Output

    @property
    def loads(self) -> bool:
        """Whether a class of sentence-transformers loads it."""
        return bool(self.model_class)


class Kind(StrEnum):
    """How a model is loaded; also the name of its table in models.toml."""

    EMBEDDING = "embedding"
    RERANKER = "reranker"
    SPARSE = "sparse"
    MULTI_VECTOR = "multi_vector"
    OTHER = "other"

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
        loader="load_embedding_model",
        pools=True,
        output=Output.VECTOR,
    ),
    Kind.RERANKER: KindSpec(
        noun="a cross-encoder",
        collection="cached_reranker_models",
        default_owner="cross-encoder",
        model_class="CrossEncoder",
        loader="load_reranker",
        pools=False,
        output=Output.SCORE,
    ),
    Kind.SPARSE: KindSpec(
        noun="a sparse encoder",
        collection="cached_sparse_models",
        default_owner="",
        model_class="SparseEncoder",
        loader="load_sparse_encoder",
        pools=False,
        output=Output.SPARSE_VECTOR,
    ),
    Kind.MULTI_VECTOR: KindSpec(
        noun="a multi-vector model",
        collection="cached_multi_vector_models",
        default_owner="",
        model_class="MultiVectorEncoder",
        loader="load_multi_vector_encoder",
        pools=False,
        output=Output.MATRIX,
    ),
    Kind.OTHER: KindSpec(
        noun="a repository that is never loaded",
        collection="cached_other_models",
        default_owner="",
        model_class="",
        loader="",
        pools=False,
        output=Output.NONE,
    ),
}

COLLECTIONS = frozenset(kind.spec.collection for kind in Kind)
"""The directories of the models below a root."""
