"""Turn a pickled state dict (`pytorch_model.bin`) into safetensors: without torch, and without running anything.

It knows the zip files that torch has written since 1.6, and the opcodes their `data.pkl` is made of.

The pickle is read by a stack machine of our own and not by `pickle.Unpickler` with a guarded `find_class`: that one
cannot be bounded (a memo index of 2^31 takes 16 GB, a nested tuple as a key is hashed for ever), and its BUILD sets
attributes on whatever may be named. Here the only things that exist are texts, numbers, tuples, lists, dictionaries,
storages and tensors; there is nothing that could be called. torch's own weights_only unpickler is made the same way.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from modelcache.errors import PolicyError
from modelcache.safetensors_header import BITS, MAX_HEADER, header_of

# A tensor takes some 45 opcodes and 200 bytes, so these are for 20,000 tensors in one file.
_MAX_OPCODES = 1_000_000
_MAX_PICKLE = 8 << 20
_MAX_DIRECTORY = 2 << 20
_MAX_DIMENSIONS = 64
# Tied weights are written once for each name; more copies than this are not a model but a bomb.
_MAX_GROWTH = 8
_LARGEST = 1 << 63
_CHUNK = 1 << 20

_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EACCES}
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# Bit 3 (sizes follow the data) and bit 11 (names are UTF-8) are what torch sets.
_FLAGS = 0x0808


class _RefusedError(Exception):
    """Why a file is not converted, told without its name."""


class _Function(Enum):
    """What a pickle may ask for by REDUCE; none of it is Python's or torch's own."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
    TENSOR_V3 = "torch._utils._rebuild_tensor_v3"
    PARAMETER = "torch._utils._rebuild_parameter"


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str | None
    """None for bytes whose type only the tensor tells."""


@dataclass(frozen=True, slots=True)
class _Dtype:
    name: str


@dataclass(frozen=True, slots=True)
class _Span:
    """Where the bytes of a zip entry lie in the file."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str | None
    span: _Span


@dataclass(frozen=True, slots=True)
class _View:
    """What a pickle says of a tensor, unchecked."""

    storage: _Storage
    dtype: str
    offset: object
    shape: object
    stride: object


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor whose bytes are known to be there, in one piece and in order."""

    dtype: str
    shape: tuple[int, ...]
    span: _Span


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
_GLOBALS: dict[str, object] = {
    **{function.value: function for function in _Function},
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": _Dtype(dtype) for name, dtype in _DTYPES.items()},
    "torch.storage.UntypedStorage": _StorageType(None),
}


def convert(source: Path, target: Path) -> None:
    """Write the tensors of a pickled state dict as safetensors.

    The bytes are those of `torch.load(weights_only=True)`, a clone of each tensor, and `safetensors.torch.save_file`.
    Nothing is written before everything is checked. OSError is the caller's.

    Raises:
        PolicyError: the file is, or asks for, anything other than plain dense tensors by name.

    """
    try:
        with _Source(source) as file:
            tensors = _tensors(file)
            header, order = header_of({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
            if len(header) > MAX_HEADER:
                raise _RefusedError("the names of its tensors take more room than a safetensors header has")
            with target.open("wb") as out:
                out.write(header)
                out.flush()
                for name in order:
                    _append(file.fileno(), out.fileno(), tensors[name].span)
    except _RefusedError as refusal:
        raise PolicyError(
            f"{source} is not converted: {refusal}",
            hint="Ask its author for safetensors, or convert it with torch where it can do no harm and use `path`.",
        ) from None


class _Source(io.FileIO):
    """A file that gives `zipfile` no more at once than a sane directory needs."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read all that is asked for, or refuse."""
        most = _MAX_DIRECTORY + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        if len(data) == most:
            raise _RefusedError(f"its zip directory takes more than {_MAX_DIRECTORY} bytes")
        return data


def _tensors(file: _Source) -> dict[str, _Tensor]:
    """Return every tensor by its name, each checked against the bytes that are there."""
    _check_beginning(os.pread(file.fileno(), 262, 0))
    entries = _entries(file)
    if "data.pkl" not in entries:
        raise _RefusedError("it has no data.pkl")
    if "byteorder" in entries and (order := _content(file, entries["byteorder"], 16)) != b"little":
        raise _RefusedError(f"its bytes are not in little-endian order but {_quoted(order)}")
    pickle = _content(file, entries["data.pkl"], _MAX_PICKLE)
    tensors = _named(_Machine(pickle, entries).run())
    written = sum(tensor.span.size for tensor in tensors.values())
    if written > _MAX_GROWTH * file.seek(0, os.SEEK_END):
        raise _RefusedError(f"its names share storages, and written out they would take {written} bytes")
    return tensors


def _check_beginning(start: bytes) -> None:
    if start.startswith(b"PK\x03\x04"):
        return
    if start.startswith(b"\x80"):
        raise _RefusedError("it is a bare pickle, as torch wrote before 1.6")
    if start[257:].startswith(b"ustar"):
        raise _RefusedError("it is a tar file, as torch wrote before 0.1.10")
    raise _RefusedError("it is not a zip file as torch writes since 1.6")


# The zip file


def _entries(file: _Source) -> dict[str, _Span]:
    """Return where each entry's bytes lie, by its name inside the one folder that all are in."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise _RefusedError(f"its zip directory cannot be read ({error})") from None
    infos.sort(key=lambda info: info.header_offset)
    folder = infos[0].filename.partition("/")[0] if infos else ""
    names = [_inner_name(info, folder) for info in infos]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise _RefusedError("it is a TorchScript program, not a state dict")
    found: dict[str, _Span] = {}
    done = 0
    for name, info in zip(names, infos, strict=True):
        if name in found:
            raise _RefusedError(f"its zip entry {_quoted(info.filename)} is there twice")
        if info.header_offset < done or (not found and info.header_offset):
            raise _RefusedError(f"its zip entry {_quoted(info.filename)} does not begin where it should")
        found[name] = span = _span(file, info, end)
        done = span.start + span.size
    return found


def _inner_name(info: zipfile.ZipInfo, folder: str) -> str:
    # zipfile cuts a name at its first NUL; the uncut one tells.
    parts = info.orig_filename.split("/")
    plain = info.orig_filename.isascii() and info.orig_filename.isprintable() and "\\" not in info.orig_filename
    if not plain or len(parts) < 2 or parts[0] != folder or {"", ".", ".."} & set(parts):
        raise _RefusedError(f"its zip entry {_quoted(info.orig_filename)} is not in the one folder that torch makes")
    return "/".join(parts[1:])


def _span(file: _Source, info: zipfile.ZipInfo, end: int) -> _Span:
    """Find an entry's bytes; only the header in front of them tells how long it is."""
    name = info.orig_filename.encode()
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & ~_FLAGS:
        raise _RefusedError(f"its zip entry {_quoted(info.filename)} is compressed or encrypted")
    if not 0 <= info.header_offset < end:
        raise _RefusedError(f"its zip entry {_quoted(info.filename)} lies outside the file")
    header = os.pread(file.fileno(), _LOCAL_HEADER.size + len(name), info.header_offset)
    if len(header) < _LOCAL_HEADER.size + len(name):
        raise _RefusedError("it is cut short")
    signature, _, flags, method, *_, name_length, extra = _LOCAL_HEADER.unpack_from(header)
    told = (signature, flags, method, name_length, header[_LOCAL_HEADER.size :])
    if told != (b"PK\x03\x04", info.flag_bits, info.compress_type, len(name), name):
        raise _RefusedError(f"its zip entry {_quoted(info.filename)} is another one than its directory says")
    start = info.header_offset + len(header) + extra
    if start + info.file_size > end:
        raise _RefusedError(f"its zip entry {_quoted(info.filename)} reaches beyond the file")
    return _Span(start, info.file_size)


def _content(file: _Source, span: _Span, most: int) -> bytes:
    if span.size > most:
        raise _RefusedError(f"an entry that should be small takes {span.size} bytes; {most} is the limit")
    return os.pread(file.fileno(), span.size, span.start)


# The pickle


class _Machine:
    """A stack machine for the opcodes that torch.save uses, and for no others."""

    def __init__(self, code: bytes, entries: Mapping[str, _Span]) -> None:
        self._code = code
        self._at = 0
        self._entries = entries
        self._storages: dict[str, _Storage] = {}
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Read to the end of the pickle and return the one value it makes."""
        for _ in range(_MAX_OPCODES):
            opcode = self.take(1)
            if opcode == b".":
                if len(self._stack) != 1 or self._marks or self._at != len(self._code):
                    raise _RefusedError("its pickle is damaged: it does not end with one value")
                return self._stack[0]
            step = _STEPS.get(opcode)
            if step is None:
                raise _RefusedError(
                    f"its pickle uses the opcode {_opcode_name(opcode)}, which a state dict has no use for"
                )
            step(self)
        raise _RefusedError(f"its pickle has more than {_MAX_OPCODES} opcodes")

    def take(self, count: int) -> bytes:
        """Return the next bytes of the code."""
        data = self._code[self._at : self._at + count]
        if len(data) < count:
            raise _RefusedError("its pickle is cut short")
        self._at += count
        return data

    def number(self, count: int) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        """Return the next line, which is part of a dotted name."""
        end = self._code.find(b"\n", self._at, self._at + 256)
        if end < 0:
            raise _RefusedError("its pickle names something of more than 255 letters")
        line = self.take(end + 1 - self._at)
        return line[:-1].decode("utf-8", "replace")

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> object:
        """Take the top of the stack; what lies below a mark is not at hand."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise _RefusedError("its pickle is damaged: it takes a value that is not there")
        return self._stack.pop()

    def mark(self) -> None:
        """Remember this height of the stack."""
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[object]:
        """Take everything above the last mark, and the mark."""
        if not self._marks:
            raise _RefusedError("its pickle is damaged: it takes a mark that is not there")
        height = self._marks.pop()
        values = self._stack[height:]
        del self._stack[height:]
        return values

    def pop_many(self, count: int) -> tuple[object, ...]:
        """Take a few values, the oldest first."""
        return tuple([self.pop() for _ in range(count)][::-1])

    def put(self, index: int) -> None:
        """Keep the top of the stack under a number."""
        value = self.pop()
        self.push(value)
        self._memo[index] = value

    def get(self, index: int) -> None:
        """Push what was kept under a number."""
        if index not in self._memo:
            raise _RefusedError("its pickle is damaged: it recalls a value that it never kept")
        self.push(self._memo[index])

    def protocol(self) -> None:
        """Accept the one protocol that torch.save uses, and torch.load with weights_only reads."""
        if (number := self.number(1)) != 2:
            raise _RefusedError(f"its pickle is of protocol {number}, and torch writes 2")

    def text(self) -> None:
        """Push a text."""
        try:
            self.push(self.take(self.number(4)).decode())
        except UnicodeDecodeError:
            raise _RefusedError("its pickle holds a text that is not UTF-8") from None

    def long(self) -> None:
        """Push a number that may need eight bytes."""
        size = self.number(1)
        if size > 8:
            raise _RefusedError(f"its pickle holds a number of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def named(self) -> None:
        """Push our own stand-in for what is named."""
        name = f"{self.line()}.{self.line()}"
        if name not in _GLOBALS:
            raise _RefusedError(f"its pickle asks for {_quoted(name)}, which is no part of a plain tensor")
        self.push(_GLOBALS[name])

    def set_items(self, pairs: list[object]) -> None:
        """Put keys and values into the dictionary on top of the stack."""
        table = self.pop()
        if type(table) is not dict or len(pairs) % 2:
            raise _RefusedError("its pickle is damaged: it fills what is not a dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Only texts: the hash of a nested tuple can take for ever.
            if type(key) is not str:
                raise _RefusedError(f"a dictionary in it has a key that is not a text but {_kind(key)}")
            table[key] = value
        self.push(table)

    def extend(self, values: list[object]) -> None:
        """Add to the list on top of the stack."""
        found = self.pop()
        if type(found) is not list:
            raise _RefusedError("its pickle is damaged: it adds to what is not a list")
        found.extend(values)
        self.push(found)

    def reduce(self) -> None:
        """Push what one of the four functions makes of its arguments."""
        function, arguments = self.pop_many(2)
        if not isinstance(function, _Function) or type(arguments) is not tuple:
            raise _RefusedError(f"its pickle calls {_kind(function)}")
        self.push(_made(function, arguments))

    def build(self) -> None:
        """Drop the `_metadata` of a state dict: versions of modules, which safetensors has no place for."""
        state, table = self.pop(), self.pop()
        if type(table) is not dict or type(state) is not dict or state.keys() - {"_metadata"}:
            raise _RefusedError(f"its pickle sets the state of {_kind(table)}")
        self.push(table)

    def storage(self) -> None:
        """Push a storage, which is an entry of the zip file with the size that its id tells."""
        match self.pop():
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(count)):
                self.push(self._storage(dtype, key, count))
            case _:
                raise _RefusedError("its pickle refers to something outside that is not a storage")

    def _storage(self, dtype: str | None, key: str, count: int) -> _Storage:
        span = self._entries.get(f"data/{key}")
        if span is None:
            raise _RefusedError(f"it has no data for the storage {_quoted(key)}")
        if count * _size(dtype) != span.size:
            raise _RefusedError(f"its storage {_quoted(key)} has {span.size} bytes, not {count} of {dtype or 'bytes'}")
        storage = self._storages.setdefault(key, _Storage(dtype, span))
        if storage.dtype != dtype:
            raise _RefusedError(f"its storage {_quoted(key)} is said to be of two types")
        return storage


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"c": _Machine.named,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
    b"q": lambda machine: machine.put(machine.number(1)),
    b"r": lambda machine: machine.put(machine.number(4)),
    b"h": lambda machine: machine.get(machine.number(1)),
    b"j": lambda machine: machine.get(machine.number(4)),
    b"(": _Machine.mark,
    b"t": lambda machine: machine.push(tuple(machine.pop_to_mark())),
    b")": lambda machine: machine.push(()),
    b"\x85": lambda machine: machine.push(machine.pop_many(1)),
    b"\x86": lambda machine: machine.push(machine.pop_many(2)),
    b"\x87": lambda machine: machine.push(machine.pop_many(3)),
    b"}": lambda machine: machine.push({}),
    b"s": lambda machine: machine.set_items(list(machine.pop_many(2))),
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"X": _Machine.text,
    b"K": lambda machine: machine.push(machine.number(1)),
    b"M": lambda machine: machine.push(machine.number(2)),
    b"J": lambda machine: machine.push(int.from_bytes(machine.take(4), "little", signed=True)),
    b"\x8a": _Machine.long,
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
}


def _made(function: _Function, arguments: tuple[object, ...]) -> object:
    """Return what a function of torch would make; hooks and requires_grad are no part of a file of weights."""
    match function, arguments:
        case _Function.ORDERED_DICT, ():
            return {}
        case _Function.PARAMETER, (_View() as data, _, _):
            return data
        case _Function.TENSOR_V2, (_Storage(dtype=str(dtype)) as storage, offset, shape, stride, _, _):
            return _View(storage, dtype, offset, shape, stride)
        case _Function.TENSOR_V3, (_Storage(dtype=None) as storage, offset, shape, stride, _, _, _Dtype(name=dtype)):
            return _View(storage, dtype, offset, shape, stride)
    raise _RefusedError(f"its pickle calls {function.value} with what torch.save does not give it")


# The tensors


def _named(state: object) -> dict[str, _Tensor]:
    """Return the tensors of a plain state dict."""
    if type(state) is not dict:
        raise _RefusedError(f"it holds not a state dict but {_kind(state)}")
    return {name: _checked(name, value) for name, value in state.items()}


def _checked(name: str, view: object) -> _Tensor:
    """Return a tensor that can be copied as it lies.

    torch's own clone keeps other strides as they are, and save_file then refuses them as well.
    """
    if not isinstance(view, _View):
        raise _RefusedError(f"{_quoted(name)} is not a tensor but {_kind(view)}")
    if not name.isprintable() or name == "__metadata__":
        raise _RefusedError(f"a tensor cannot have the name {_quoted(name)}")
    shape, stride, offset = _naturals(name, view.shape), _naturals(name, view.stride), _naturals(name, (view.offset,))
    if len(shape) != len(stride):
        raise _RefusedError(f"the tensor {_quoted(name)} has {len(shape)} sizes and {len(stride)} strides")
    # Beside a size of 0 the others still count: their product must be a number that torch can hold.
    if math.prod(max(size, 1) for size in shape) >= _LARGEST:
        raise _RefusedError(f"the tensor {_quoted(name)} is larger than can be")
    if not _contiguous(shape, stride):
        raise _RefusedError(f"the tensor {_quoted(name)} is not contiguous")
    size = _size(view.dtype)
    span = _Span(view.storage.span.start + offset[0] * size, math.prod(shape) * size)
    if span.start + span.size > view.storage.span.start + view.storage.span.size:
        raise _RefusedError(f"the tensor {_quoted(name)} reaches beyond its storage")
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
        raise _RefusedError(f"the tensor {_quoted(name)} has sizes or strides that are none")
    # bool is an int to isinstance, and is no size.
    found = tuple(number for number in numbers if type(number) is int and 0 <= number < _LARGEST)
    if len(found) < len(numbers):
        raise _RefusedError(f"the tensor {_quoted(name)} has a size, a stride or an offset that is none")
    return found


def _size(dtype: str | None) -> int:
    """Bytes of one number of this type."""
    return BITS[dtype] // 8 if dtype else 1


def _append(source: int, target: int, span: _Span) -> None:
    """Copy bytes to where the target stands, inside the kernel where it can."""
    start, end = span.start, span.start + span.size
    kernel = hasattr(os, "copy_file_range")
    while start < end:
        if kernel:
            try:
                done = os.copy_file_range(source, target, min(end - start, 64 * _CHUNK), start)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                done = 0
            # Some file systems answer 0 where they mean that they cannot.
            kernel = done > 0
        else:
            done = os.write(target, os.pread(source, min(end - start, _CHUNK), start))
            if not done:
                raise _RefusedError("it became shorter while it was read")
        start += done


# Words


def _quoted(text: str | bytes) -> str:
    """Show what a file says without letting it speak to the terminal, or at length."""
    return ascii(text[:200])


def _kind(value: object) -> str:
    """Say what a value is."""
    if isinstance(value, _Function):
        return value.value
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(value).__name__.strip("_")).lower()
    return {"none type": "None", "view": "a tensor", "int": "an int"}.get(words, f"a {words}")


def _opcode_name(opcode: bytes) -> str:
    from pickletools import opcodes

    return next((known.name for known in opcodes if known.code == opcode.decode("latin-1")), opcode.hex())
