"""The names that torch.save writes into a pickle, and the values that stand for them here.

None of them is an object of Python or torch: a name stands for a type or for one of four functions, and these make a
dictionary or a view of bytes in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelcache.convert.torch_file import RefusedError, Span
from modelcache.core.safetensors_header import BITS
from modelcache.core.text import quote


class Function(Enum):
    """A function that a pickle may call, by the opcode REDUCE."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
    TENSOR_V3 = "torch._utils._rebuild_tensor_v3"
    PARAMETER = "torch._utils._rebuild_parameter"


@dataclass(frozen=True, slots=True)
class StorageType:
    """The type of the numbers in a storage."""

    dtype: str | None
    """None for bytes whose type only the tensor names."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """The type of a tensor's numbers, where its storage does not say."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes that tensors are views of."""

    dtype: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as the pickle describes it, unchecked."""

    storage: Storage
    dtype: str
    offset: object
    shape: object
    stride: object


_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}
# Types without a storage class of their own: torch writes them as untyped bytes and names the type beside.
_DTYPES = {
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
NAMES: dict[str, object] = {
    **{function.value: function for function in Function},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": Dtype(dtype) for name, dtype in _DTYPES.items()},
    "torch.storage.UntypedStorage": StorageType(None),
}
"""Every name that a pickle may use."""


class Storages:
    """The storages of one file: entries of the zip file, each of the size that its id says."""

    def __init__(self, entries: Mapping[str, Span]) -> None:
        self._entries = entries
        self._found: dict[str, Storage] = {}

    def by_id(self, persistent_id: object) -> Storage:
        """Return the storage that a persistent id of torch names."""
        match persistent_id:
            case ("storage", StorageType(dtype=dtype), str(key), str(), int(count)):
                pass
            case _:
                raise RefusedError("its pickle refers to something outside that is not a storage")
        span = self._entries.get(f"data/{key}")
        if span is None:
            raise RefusedError(f"it has no data for the storage {quote(key)}")
        if count * size_of(dtype) != span.size:
            raise RefusedError(f"its storage {quote(key)} has {span.size} bytes, not {count} of {dtype or 'bytes'}")
        storage = self._found.setdefault(key, Storage(dtype, span))
        if storage.dtype != dtype:
            raise RefusedError(f"its storage {quote(key)} is said to be of two types")
        return storage


def call(function: Function, arguments: tuple[object, ...]) -> object:
    """Return the result of a function; hooks and requires_grad are left out, since weights need neither."""
    match function, arguments:
        case Function.ORDERED_DICT, ():
            return {}
        case Function.PARAMETER, (View() as data, _, _):
            return data
        case Function.TENSOR_V2, (Storage(dtype=str(dtype)) as storage, offset, shape, stride, _, _):
            return View(storage, dtype, offset, shape, stride)
        case Function.TENSOR_V3, (Storage(dtype=None) as storage, offset, shape, stride, _, _, Dtype(name=dtype)):
            return View(storage, dtype, offset, shape, stride)
    raise RefusedError(f"its pickle calls {function.value} with what torch.save does not give it")


def size_of(dtype: str | None) -> int:
    """Return how many bytes one number of this type takes."""
    return BITS[dtype] // 8 if dtype else 1


def describe(value: object) -> str:
    """Return the type of a value for people: `a storage type`."""
    if isinstance(value, Function):
        return value.value
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(value).__name__).lower()
    return {"none type": "None", "view": "a tensor", "int": "an int"}.get(words, f"a {words}")
