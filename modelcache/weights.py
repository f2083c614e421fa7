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
class Comparison:
    """What does not fit, each sorted."""

    unfilled: tuple[str, ...]
    """Parameters that no tensor has the name of."""
    lost: tuple[str, ...]
    """Tensors of a part that the model has, which has no such parameter."""
    unused: tuple[str, ...]
    """Parts that the files have and the model has not, by their first name: a head that is not needed here."""


def compare(
    parameters: Collection[str], tensors: Iterable[str], *, buffers: Collection[str] = (), prefix: str = ""
) -> Comparison:
    """Compare by name; `prefix` is what the weights of a base model are called below in a larger one (`bert`).

    `buffers` are what the model computes for itself: files may hold them or not.
    """
    filled: set[str] = set()
    lost, unused = set(), set()
    parts = {name.partition(".")[0] for name in (*parameters, *buffers)}
    computed = {name.rpartition(".")[2] for name in buffers}
    for tensor in tensors:
        spellings = list(_spellings(tensor, prefix))
        found = [name for name in spellings if name in parameters]
        filled.update(found)
        if found or tensor.rpartition(".")[2] in computed:
            continue
        bare = tensor.removeprefix(f"{prefix}.") if prefix else tensor
        part = bare.partition(".")[0]
        if part in parts:
            lost.add(tensor)
        else:
            unused.add(part)
    return Comparison(tuple(sorted(set(parameters) - filled)), tuple(sorted(lost)), tuple(sorted(unused)))


def _spellings(tensor: str, prefix: str) -> Iterator[str]:
    names = [tensor]
    for old, new in _OLD_NAMES.items():
        if tensor.endswith(old):
            names.append(tensor.removesuffix(old) + new)
    for name in names:
        yield name
        if prefix:
            yield f"{prefix}.{name}"
            yield name.removeprefix(f"{prefix}.")
