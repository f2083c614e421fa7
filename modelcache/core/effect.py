"""The effect of a change on an index: the same sentence wherever two versions of a model are compared."""

from __future__ import annotations

from enum import IntEnum

from modelcache.core.kinds import Output


class Effect(IntEnum):
    """How a change of a model affects its outputs; the larger one counts."""

    NONE = 0
    """Its inputs are equal, or its outputs were measured to be."""
    POSSIBLE = 1
    """Something has changed that outputs may depend on."""
    CERTAIN = 2
    """Weights or settings have changed that outputs depend on, or the outputs were measured to differ."""


_VECTORS = (
    "vectors stay as they are",
    "vectors may differ: compare with `check`, or re-index",
    "vectors will differ: re-index",
)
_SCORES = ("scores stay as they are", "scores may differ: compare with `check`", "scores will differ")
_FILES = ("files stay as they are", "files differ", "files differ")


def effect_sentence(effect: Effect, output: Output) -> str:
    """Return the effect on the outputs of a model in words."""
    sentences = {Output.SCORE: _SCORES, Output.NONE: _FILES}
    return sentences.get(output, _VECTORS)[effect]
