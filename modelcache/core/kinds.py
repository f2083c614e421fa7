"""The kinds of models: how each is loaded, and where it is kept."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """How a model is loaded; also the name of its table in models.toml."""

    EMBEDDING = "embedding"
    RERANKER = "reranker"


_COLLECTIONS = {Kind.EMBEDDING: "cached_embedding_models", Kind.RERANKER: "cached_reranker_models"}


_DEFAULT_OWNERS = {Kind.EMBEDDING: "sentence-transformers", Kind.RERANKER: "cross-encoder"}
