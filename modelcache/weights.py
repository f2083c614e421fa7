"""Parameters of a loaded model against the tensors that its weight files name. Names only; no torch, no disk.

A loader that does not find a weight fills the parameter with random numbers and goes on; one that does not know what
to do with a weight leaves it out. Both only warn. So the names are compared here, as transformers spells them: a base
model's prefix may be there or not, and LayerNorm had other names once (modeling_utils.py, core_model_loading.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}


@dataclass(frozen=True, slots=True)
class Network:
    """The names of one network."""

    parameters: Collection[str]
    """What it needs from the files: parameters, and what is saved with them."""
    buffers: Collection[str] = ()
    """What it computes for itself: files may hold it or not."""
    prefix: str = ""
    """What the weights of a base model are called below in a larger one (`bert`)."""

    def unfilled(self, tensors: Iterable[str]) -> list[str]:
        """Return the parameters that no tensor has the name of, sorted."""
        filled = {name for tensor in tensors for name in self._spellings(tensor)}
        return sorted(set(self.parameters) - filled)

    def left_over(self, tensors: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the tensors without a parameter: lost ones of parts that the network has, and other parts' names.

        A part that only the files have, as a head, is not needed here; a layer that only they have is one too few.
        """
        lost, unused = set(), set()
        parts = {self._part(name) for name in (*self.parameters, *self.buffers)}
        computed = {name.rpartition(".")[2] for name in self.buffers}
        for tensor in tensors:
            known = any(name in self.parameters for name in self._spellings(tensor))
            if known or tensor.rpartition(".")[2] in computed:
                continue
            if (part := self._part(tensor)) in parts:
                lost.add(tensor)
            else:
                unused.add(part)
        return sorted(lost), sorted(unused)

    def _part(self, name: str) -> str:
        return self._bare(name).partition(".")[0]

    def _bare(self, name: str) -> str:
        return name.removeprefix(f"{self.prefix}.") if self.prefix else name

    def _spellings(self, tensor: str) -> Iterator[str]:
        names = [tensor, *(tensor.removesuffix(old) + new for old, new in _OLD_NAMES.items() if tensor.endswith(old))]
        for name in names:
            yield name
            if self.prefix:
                yield f"{self.prefix}.{name}"
                yield self._bare(name)
