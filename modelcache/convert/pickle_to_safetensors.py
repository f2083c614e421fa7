"""Turn a pickled state dict (`pytorch_model.bin`) into safetensors: without torch, and without running anything.

`torch_file` finds where the bytes lie, and `pickle_vm` reads how the pickle describes them. Here the two are compared,
tensor by tensor; when all agree, the bytes are copied as they lie.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcache.convert.pickle_vm import MAX_PICKLE, unpickle
from modelcache.convert.torch_file import Entry, RefusedError, Span, TorchFile, checking_crcs, entries_of, read_entry
from modelcache.convert.torch_values import Storages, View, describe, size_of
from modelcache.core.errors import PolicyError
from modelcache.core.safetensors_header import MAX_HEADER, header_of
from modelcache.core.text import quote, size_in_words
from modelcache.system.files import copy_range, create_file

_MAX_DIMENSIONS = 64
# Tied weights are written once for each name; more copies than this are not a model but a bomb.
_MAX_GROWTH = 8
_LARGEST = 1 << 63


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor whose bytes are known to be there, in one piece and in order."""

    dtype: str
    shape: tuple[int, ...]
    span: Span


def convert(source: Path, target: Path, *, name: str = "") -> None:
    """Write the tensors of a pickled state dict as safetensors; `name` is the source's name in messages.

    The bytes are those of `torch.load(weights_only=True)`, a clone of each tensor, and `safetensors.torch.save_file`.
    Everything but the CRCs of the numbers is checked before the first byte is written; they are checked during the
    copy. A refused file leaves no target. The caller takes care of OSError.

    Raises:
        PolicyError: the file is, or asks for, anything other than plain dense tensors by name, or it is damaged.

    """
    try:
        with TorchFile(source) as file:
            entries = entries_of(file)
            tensors = _read_tensors(file, entries)
            header, order = header_of({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
            if len(header) > MAX_HEADER:
                raise RefusedError("the names of its tensors take more room than a safetensors header has")
            flags = os.O_WRONLY | os.O_TRUNC
            with checking_crcs(file, entries.values()), open(create_file(target, flags), "wb") as out:
                out.write(header)
                out.flush()
                for tensor in order:
                    _append(file.fileno(), out.fileno(), tensors[tensor].span)
    except RefusedError as refusal:
        target.unlink(missing_ok=True)
        raise PolicyError(
            f"{name or source} is not converted: {refusal}",
            hint="Ask its author for safetensors, or convert it with torch where it can do no harm and use `path`.",
        ) from None


def refuse_more_than_tensors(source: Path, *, name: str = "") -> None:
    """Read a pickled state dict that is shipped as it is; raises as `convert`, and writes nothing."""
    try:
        with TorchFile(source) as file:
            _read_tensors(file, entries_of(file))
    except RefusedError as refusal:
        raise PolicyError(
            f"{name or source} is a pickle, and is not shipped: {refusal}",
            hint="Leave it out of include, or name it in exclude, or ask its author for safetensors.",
        ) from None


def _read_tensors(file: TorchFile, entries: Mapping[str, Entry]) -> dict[str, _Tensor]:
    """Return every tensor by its name, checked against the bytes that are there."""
    state = unpickle(read_entry(file, entries["data.pkl"], MAX_PICKLE), Storages(entries))
    if type(state) is not dict:
        raise RefusedError(f"it holds not a state dict but {describe(state)}")
    tensors = {name: _checked_tensor(name, value) for name, value in state.items()}
    written = sum(tensor.span.size for tensor in tensors.values())
    if written > _MAX_GROWTH * file.seek(0, os.SEEK_END):
        raise RefusedError(f"its names share storages, and written out they would take {size_in_words(written)}")
    return tensors


def _checked_tensor(name: str, view: object) -> _Tensor:
    """Return a tensor that can be copied as it lies.

    torch's own clone keeps other strides as they are, and save_file then refuses them as well.
    """
    if not isinstance(view, View):
        raise RefusedError(f"{quote(name)} is not a tensor but {describe(view)}")
    if not name.isprintable() or name == "__metadata__":
        raise RefusedError(f"a tensor cannot have the name {quote(name)}")
    shape, stride, offset = _sizes(name, view.shape), _sizes(name, view.stride), _sizes(name, (view.offset,))
    if len(shape) != len(stride):
        raise RefusedError(f"the tensor {quote(name)} has {len(shape)} sizes and {len(stride)} strides")
    # Beside a size of 0 the others still count: their product must be a number that torch can hold.
    if math.prod(max(size, 1) for size in shape) >= _LARGEST:
        raise RefusedError(f"the tensor {quote(name)} is larger than torch allows")
    if not _contiguous(shape, stride):
        raise RefusedError(f"the tensor {quote(name)} is not contiguous")
    size = size_of(view.dtype)
    span = Span(view.storage.span.start + offset[0] * size, math.prod(shape) * size)
    if span.start + span.size > view.storage.span.start + view.storage.span.size:
        raise RefusedError(f"the tensor {quote(name)} reaches beyond its storage")
    return _Tensor(view.dtype, shape, span)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the numbers lie in order and without gaps; the stride of a dimension of one does not matter."""
    step = 1
    for size, actual in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and actual != step:
            return 0 in shape
        step *= size
    return True


def _sizes(name: str, numbers: object) -> tuple[int, ...]:
    """Return sizes, strides or an offset, which are natural numbers."""
    if type(numbers) is not tuple or len(numbers) > _MAX_DIMENSIONS:
        raise RefusedError(f"the tensor {quote(name)} has sizes or strides that are not a short tuple")
    # bool is an int to isinstance, and is no size.
    found = tuple(number for number in numbers if type(number) is int and 0 <= number < _LARGEST)
    if len(found) < len(numbers):
        raise RefusedError(f"the tensor {quote(name)} has a size, a stride or an offset that is not a natural number")
    return found


def _append(source: int, target: int, span: Span) -> None:
    """Append the bytes of a tensor to the target."""
    end = span.start + span.size
    if sum(done - start for start, done in copy_range(source, target, span.start, end, append=True)) < span.size:
        raise RefusedError("it became shorter while it was read")
