"""Turn a pickled state dict (`pytorch_model.bin`) into safetensors: without torch, and without running anything.

`torch_zip` finds where the bytes lie, `pickle_machine` reads what the pickle says of them. Here the two are compared,
tensor by tensor; when all agree, the bytes are copied as they lie.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcache.convert.pickle_vm import MAX_PICKLE, value_of
from modelcache.convert.torch_file import Entry, RefusedError, Span, TorchFile, checked, content, entries_of
from modelcache.convert.torch_values import Storages, View, kind, size_of
from modelcache.core.errors import PolicyError
from modelcache.core.safetensors_header import MAX_HEADER, header_of
from modelcache.core.text import quoted
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
    """Write the tensors of a pickled state dict as safetensors; `name` is what people know the source by.

    The bytes are those of `torch.load(weights_only=True)`, a clone of each tensor, and `safetensors.torch.save_file`.
    Nothing is written before everything is checked but the CRCs of the numbers, which are while they are copied; of a
    file that is refused nothing stays. OSError is the caller's.

    Raises:
        PolicyError: the file is, or asks for, anything other than plain dense tensors by name, or it is damaged.

    """
    try:
        with TorchFile(source) as file:
            entries = entries_of(file)
            tensors = _tensors(file, entries)
            header, order = header_of({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
            if len(header) > MAX_HEADER:
                raise RefusedError("the names of its tensors take more room than a safetensors header has")
            flags = os.O_WRONLY | os.O_TRUNC
            with checked(file, entries.values()), open(create_file(target, flags), "wb") as out:
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


def _tensors(file: TorchFile, entries: Mapping[str, Entry]) -> dict[str, _Tensor]:
    """Return every tensor by its name, each checked against the bytes that are there."""
    tensors = _named(value_of(content(file, entries["data.pkl"], MAX_PICKLE), Storages(entries)))
    written = sum(tensor.span.size for tensor in tensors.values())
    if written > _MAX_GROWTH * file.seek(0, os.SEEK_END):
        raise RefusedError(f"its names share storages, and written out they would take {written} bytes")
    return tensors


def _named(state: object) -> dict[str, _Tensor]:
    """Return the tensors of a plain state dict."""
    if type(state) is not dict:
        raise RefusedError(f"it holds not a state dict but {kind(state)}")
    return {name: _checked(name, value) for name, value in state.items()}


def _checked(name: str, view: object) -> _Tensor:
    """Return a tensor that can be copied as it lies.

    torch's own clone keeps other strides as they are, and save_file then refuses them as well.
    """
    if not isinstance(view, View):
        raise RefusedError(f"{quoted(name)} is not a tensor but {kind(view)}")
    if not name.isprintable() or name == "__metadata__":
        raise RefusedError(f"a tensor cannot have the name {quoted(name)}")
    shape, stride, offset = _naturals(name, view.shape), _naturals(name, view.stride), _naturals(name, (view.offset,))
    if len(shape) != len(stride):
        raise RefusedError(f"the tensor {quoted(name)} has {len(shape)} sizes and {len(stride)} strides")
    # Beside a size of 0 the others still count: their product must be a number that torch can hold.
    if math.prod(max(size, 1) for size in shape) >= _LARGEST:
        raise RefusedError(f"the tensor {quoted(name)} is larger than can be")
    if not _contiguous(shape, stride):
        raise RefusedError(f"the tensor {quoted(name)} is not contiguous")
    size = size_of(view.dtype)
    span = Span(view.storage.span.start + offset[0] * size, math.prod(shape) * size)
    if span.start + span.size > view.storage.span.start + view.storage.span.size:
        raise RefusedError(f"the tensor {quoted(name)} reaches beyond its storage")
    return _Tensor(view.dtype, shape, span)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the numbers lie in order and without gaps; a dimension of one takes no step."""
    step = 1
    for size, told in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and told != step:
            return 0 in shape
        step *= size
    return True


def _naturals(name: str, numbers: object) -> tuple[int, ...]:
    if type(numbers) is not tuple or len(numbers) > _MAX_DIMENSIONS:
        raise RefusedError(f"the tensor {quoted(name)} has sizes or strides that are none")
    # bool is an int to isinstance, and is no size.
    found = tuple(number for number in numbers if type(number) is int and 0 <= number < _LARGEST)
    if len(found) < len(numbers):
        raise RefusedError(f"the tensor {quoted(name)} has a size, a stride or an offset that is none")
    return found


def _append(source: int, target: int, span: Span) -> None:
    """Copy the bytes of a tensor to where the target stands."""
    end = span.start + span.size
    if sum(done - start for start, done in copy_range(source, target, span.start, end, append=True)) < span.size:
        raise RefusedError("it became shorter while it was read")
