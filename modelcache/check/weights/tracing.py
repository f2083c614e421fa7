"""Find out by loading again, with another seed and with spoiled tensors, what a loader read. Imports torch.

Some loaders compute a parameter from tensors of other names, or from a word list, as model2vec's tables are folded out
of `embeddings`, `mapping` and `weights`. So the rules look at the loaded model, for any loader:

- a parameter is random if it differs under another seed;
- a tensor was read if the model differs when the tensor is spoiled.

Each question costs a load, and is asked only where names leave a module unclear.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelcache.check.weights.coverage import Comparison, UnclearModule

_MOST_SINGLE_LOADS = 16
"""Tensors that are spoiled one by one; of more, each counts as read if all of them together were."""

State = Mapping[str, bytes]
"""A digest for each parameter and buffer by its name in the model."""


def resolve_by_reloading(comparison: Comparison, model: Any, load_again: Callable[[], Any]) -> None:
    """Decide about every unclear module of a comparison; `load_again` loads the same model once more."""
    if not comparison.unclear:
        return
    modules = [unclear.name for unclear in comparison.unclear]

    def state(spoiled: Collection[tuple[str, Path]] = ()) -> State | None:
        """Return the state after a load with some tensors spoiled; None if that load fails, so that they were read."""
        try:
            with _seeded(), _spoiling(spoiled):
                return _state(load_again(), modules)
        except Exception:
            if not spoiled:
                raise
            return None

    before, again = _state(model, modules), state() or {}
    deterministic = {name for name, digest in again.items() if before.get(name) == digest}
    for unclear in comparison.unclear:
        for name in (f"{unclear.name}.{parameter}" for parameter in unclear.parameters):
            (comparison.computed if name in deterministic else comparison.missing).append(name)

    def were_read(tensors: Mapping[str, Path]) -> bool:
        now = state(tensors.items())
        return now is None or any(now.get(name) != again[name] for name in deterministic)

    for unclear in comparison.unclear:
        comparison.add_unmatched(_unread_tensors(unclear, were_read), unclear.networks)


def _unread_tensors(unclear: UnclearModule, were_read: Callable[[Mapping[str, Path]], bool]) -> list[str]:
    """Return the tensors that the loader did not read."""
    if not unclear.tensors or not were_read(unclear.tensors):
        return list(unclear.tensors)
    if len(unclear.tensors) == 1 or len(unclear.tensors) > _MOST_SINGLE_LOADS:
        return []
    return [tensor for tensor, file in unclear.tensors.items() if not were_read({tensor: file})]


def _state(model: Any, modules: Collection[str]) -> State:
    return {
        f"{name}.{one}": hashlib.sha256(_bytes_of(value)).digest()
        for name in modules
        for part in [model.get_submodule(name)]
        for one, value in [*part.named_parameters(), *part.named_buffers()]
    }


def _bytes_of(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed all sources of random numbers with a number that no library has by default.

    Uninitialised memory is random, too, and often the same; torch fills it in its deterministic mode.
    """
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    random.seed(20_011)
    np.random.seed(20_011)
    torch.manual_seed(20_011)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextmanager
def _spoiling(spoiled: Collection[tuple[str, Path]]) -> Iterator[None]:
    """Replace these tensors, for every reader, by NaN, or by zeros where their type has no NaN.

    A model's own code may have imported safetensors' functions by name, so they are replaced in every module.
    """
    import safetensors

    plain: Any = safetensors.safe_open
    plain_bytes: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
    names = {(os.path.realpath(file), tensor) for tensor, file in spoiled}

    class Spoiling:
        def __init__(self, filename: Any, *words: Any, **more: Any) -> None:
            self._path = os.path.realpath(filename)
            self._file: Any = plain(filename, *words, **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Spoiling:
            self._file.__enter__()
            return self

        def __exit__(self, *words: object) -> None:
            self._file.__exit__(*words)

        def get_slice(self, name: str) -> Any:
            plain_slice = self._file.get_slice(name)
            return _SpoiledSlice(plain_slice) if (self._path, name) in names else plain_slice

        def get_tensor(self, name: str) -> Any:
            return self._spoil(name, self._file.get_tensor(name))

        def get_tensors(self) -> dict[str, Any]:
            return {name: self._spoil(name, tensor) for name, tensor in self._file.get_tensors().items()}

        def _spoil(self, name: str, tensor: Any) -> Any:
            return _spoiled(tensor) if (self._path, name) in names else tensor

    def deserialize(content: bytes) -> list[tuple[str, dict[str, Any]]]:
        """Read bytes from an unknown file: every tensor with the name of a spoiled one is spoiled."""
        found = plain_bytes(content)
        for name, tensor in found:
            if any(name == spoiled for _, spoiled in names):
                byte = b"\xff" if "F" in tensor["dtype"] else b"\x00"  # a float with all bits set is NaN
                tensor["data"] = bytearray(byte * len(tensor["data"]))
        return found

    with _replaced(plain, Spoiling), _replaced(plain_bytes, deserialize):
        yield


class _SpoiledSlice:
    """A spoiled tensor that is read in parts."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __getitem__(self, where: Any) -> Any:
        return _spoiled(self._plain[where])


@contextmanager
def _replaced(plain: object, other: object) -> Iterator[None]:
    """Replace an object in every module, whatever its name there."""
    places = [
        (names, name)
        for module in list(sys.modules.values())
        if isinstance(names := getattr(module, "__dict__", None), dict)
        for name, value in list(names.items())
        if value is plain
    ]
    try:
        for names, name in places:
            names[name] = other
        yield
    finally:
        for names, name in places:
            names[name] = plain


def _spoiled(tensor: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(tensor, np.ndarray):
        return _spoiled(torch.from_numpy(tensor)).numpy()
    wide = tensor.is_floating_point() and tensor.dtype.itemsize > 1  # types of eight bits need not have a NaN
    return torch.full_like(tensor, float("nan")) if wide else torch.zeros_like(tensor)
