"""The effect of a change in words: a table."""

from __future__ import annotations

import pytest

from modelcache.core.effect import Effect, effect_sentence
from modelcache.core.kinds import Kind

WORDS = {
    Kind.EMBEDDING: ("vectors stay as they are", "vectors may differ", "vectors will differ: re-index"),
    Kind.SPARSE: ("vectors stay as they are", "vectors may differ", "vectors will differ: re-index"),
    Kind.MULTI_VECTOR: ("vectors stay as they are", "vectors may differ", "vectors will differ: re-index"),
    Kind.RERANKER: ("scores stay as they are", "scores may differ", "scores will differ"),
    Kind.OTHER: ("files stay as they are", "files differ", "files differ"),
}


@pytest.mark.parametrize("kind", Kind)
def test_the_effect_depends_on_what_a_model_gives(kind: Kind) -> None:
    """An index holds vectors; scores are in none."""
    for effect, words in zip(Effect, WORDS[kind], strict=True):
        assert effect_sentence(effect, kind.spec.output).startswith(words)


def test_the_larger_effect_counts() -> None:
    """Several changes of one model have one effect."""
    assert max(Effect.POSSIBLE, Effect.CERTAIN, Effect.NONE) is Effect.CERTAIN
