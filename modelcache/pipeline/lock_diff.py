"""The difference of two locks, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelcache.core.changes import Difference
from modelcache.core.kinds import Kind
from modelcache.core.pin_change import pin_change
from modelcache.core.types import LockedModel
from modelcache.pipeline.contents import Contents
from modelcache.pipeline.context import RunContext
from modelcache.resolver.changes import compare

DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class PinDifference:
    """One model in two locks; it is in one of them at least."""

    old: LockedModel | None
    new: LockedModel | None
    difference: Difference | None = None
    """None where only one of them has the model."""

    @property
    def kind(self) -> Kind:
        """The kind, which is the same in both."""
        return self._pin.kind

    @property
    def id(self) -> str:
        """The id, which is the same in both."""
        return self._pin.id

    @property
    def word(self) -> str:
        """New, moved, changed, unchanged or dropped."""
        return DROPPED if self.new is None else str(pin_change(self.old, self.new))

    @property
    def _pin(self) -> LockedModel:
        pin = self.new or self.old
        assert pin is not None
        return pin


def compare_locks(old: Sequence[LockedModel], new: Sequence[LockedModel], context: RunContext) -> list[PinDifference]:
    """Return the models of both locks: those of the new one in its order, then those that it does not have.

    The Hub is asked for configurations that differ and are not at hand; where it does not answer, they differ as a
    whole.
    """
    contents = Contents(context)
    before, after = ({(pin.kind, pin.id): pin for pin in pins} for pins in (old, new))
    found = []
    for name, pin in after.items():
        then = before.get(name)
        if then is None:
            difference = None
        elif then == pin:  # no configuration of it is asked for
            difference = Difference()
        else:
            difference = compare(then, pin, contents.of(then), contents.of(pin))
        found.append(PinDifference(then, pin, difference))
    return found + [PinDifference(pin, None) for name, pin in before.items() if name not in after]
