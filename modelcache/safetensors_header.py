"""The header of a safetensors file: what tensors there are, of what type and shape, and where their bytes lie.

It reads and writes the header alone, with the standard library; the tensors themselves stay where they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from modelcache.errors import IntegrityError

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name to type and shape, the type by the name the format gives it: `F32`, `I64`."""

MAX_HEADER = 100_000_000
"""Bytes; the limit the safetensors library sets itself."""

# In the order of the library's own list, because files are laid out by it.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_METADATA = "__metadata__"
_LARGEST = 1 << 63


class _DamagedError(Exception):
    """What is wrong with a header, told without the name of its file."""


def tensor_names(path: Path) -> Tensors:
    """Read which tensors a file holds, in the order of its header, and check that header and file agree.

    Raises:
        IntegrityError: the file is cut short, or its header is not one the safetensors library accepts.

    """
    try:
        with path.open("rb") as file:
            text, room = _read(file)
        return _checked(_parsed(text), room)
    except _DamagedError as damage:
        raise IntegrityError(
            f"{path} is not a sound safetensors file: {damage}",
            hint="Fetch it again; if it stays so, its author has to publish it again.",
        ) from None


def header_of(tensors: Tensors) -> tuple[bytes, list[str]]:
    """Return the first bytes of a file with these tensors, and the order in which their data has to follow.

    Both are what `safetensors.torch.save_file(…, metadata={"format": "pt"})` makes of them, byte for byte.
    """
    rank = {dtype: -number for number, dtype in enumerate(BITS)}
    order = sorted(tensors, key=lambda name: (rank[tensors[name][0]], name))
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        start, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def _read(file: BinaryIO) -> tuple[bytes, int]:
    """Return the header's text and how many bytes of data follow it."""
    room = file.seek(0, 2) - 8
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if room < 0 or length > room:
        raise _DamagedError(f"it is cut short: {room + 8} bytes, and a header of {length} is announced")
    if length > MAX_HEADER:
        raise _DamagedError(f"its header takes {length} bytes, and {MAX_HEADER} is the limit")
    return file.read(length), room - length


def _parsed(text: bytes) -> dict[str, object]:
    """Return the JSON object, each name of which stands there once."""
    if not text.startswith(b"{"):
        raise _DamagedError("its header is not a JSON object")
    try:
        header: dict[str, object] = json.loads(text.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise _DamagedError("its header is nested too deeply") from None
    except ValueError as error:  # also of text that is not UTF-8, and of numbers too long to be read
        raise _DamagedError(f"its header is not JSON: {error}") from None
    return header


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DamagedError("a name stands twice in its header")
    return found


def _checked(header: Mapping[str, object], room: int) -> Tensors:
    """Return the entries when their data fills the file: in one piece, nothing shared, nothing left over."""
    tensors: Tensors = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == _METADATA:
            _check_metadata(entry)
            continue
        dtype, shape, (start, end) = _entry(name, entry)
        tensors[name] = (dtype, shape)
        places.append((start, end, name))
    done = 0
    for start, end, name in sorted(places):
        if start != done or end < start:
            raise _DamagedError(f"the data of {name!r} lies at {start} to {end}, and {done} is where it should begin")
        done = end
    if done != room:
        raise _DamagedError(f"its tensors take {done} bytes, and {room} are there")
    return tensors


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end], **rest} if not rest:
            sizes, place = _naturals(name, shape), _naturals(name, [start, end])
        case _:
            raise _DamagedError(f"the entry of {name!r} is not dtype, shape and data_offsets")
    # A type that is newer than this list is for the loader to judge; its bytes cannot be counted here.
    if dtype in BITS and math.prod(sizes) * BITS[dtype] != 8 * (place[1] - place[0]):
        raise _DamagedError(
            f"{name!r} of shape {list(sizes)[:64]} does not take {place[1] - place[0]} bytes of {dtype}"
        )
    return dtype, sizes, (place[0], place[1])


def _naturals(name: str, numbers: list[object]) -> tuple[int, ...]:
    # bool is an int to isinstance, and neither a size nor a place.
    found = tuple(number for number in numbers if type(number) is int and 0 <= number < _LARGEST)
    if len(found) < len(numbers):
        raise _DamagedError(f"the entry of {name!r} has a size or a place that is none")
    return found


def _check_metadata(entry: object) -> None:
    if not (isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())):
        raise _DamagedError("its metadata is not a table of texts")
