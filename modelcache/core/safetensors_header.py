"""The header of a safetensors file: name, type and shape of each tensor, and where its bytes are.

This module reads and writes headers with the standard library, and no tensors. A header may come from a file or from
the first bytes of a download. It is parsed one entry at a time, because Python makes up to thirty bytes of each byte
of JSON, and its length is not ours to choose.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from modelcache.core.errors import IntegrityError
from modelcache.core.text import quote

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name to type and shape, the type by the name the format gives it: `F32`, `I64`."""

MAX_HEADER = 100_000_000
"""Bytes; the limit the safetensors library sets itself."""

# In the order of the library's own list, because files are laid out by it.
_TYPES = (
    (8, "BOOL"),
    (4, "F4"),
    (6, "F6_E2M3 F6_E3M2"),
    (8, "U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ"),
    (16, "I16 U16 F16 BF16"),
    (32, "I32 U32 F32"),
    (64, "C64 F64 I64 U64"),
)
BITS = {name: bits for bits, names in _TYPES for name in names.split()}
_METADATA = "__metadata__"
_LARGEST = 1 << 63
_LENGTH = 8
_LARGEST_ENTRY = 1 << 16

_SPACE = rb"[ \t\n\r]*+"
_PLAIN = rb'[^"\\\x00-\x1f]*+'
_TEXT = rb'"' + _PLAIN + rb'(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})' + _PLAIN + rb')*+"'
_PAIR = _TEXT + _SPACE + rb":" + _SPACE + _TEXT
_TEXTS = re.compile(
    rb"\{" + _SPACE + rb"(?:" + _PAIR + rb"(?:" + _SPACE + rb"," + _SPACE + _PAIR + rb")*+)?+" + _SPACE + rb"\}"
)
_NAME = re.compile(_SPACE + rb"(" + _TEXT + rb")" + _SPACE + rb":" + _SPACE)
_ENTRY = re.compile(rb'(\{(?:[^"{}]++|' + _TEXT + rb")*+\})" + _SPACE + rb"([,}])")
_NOTHING = re.compile(rb"\{" + _SPACE + rb"\}")


class DamagedHeaderError(Exception):
    """The header does not fit its file; the message does not name the file."""


def tensor_names(path: Path) -> Tensors:
    """Return the tensors of a file, in the order of its header, and check that header and file agree.

    Raises:
        IntegrityError: the file is cut short, or its header is not one the safetensors library accepts.

    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(_LENGTH)
            return tensors_of(head + file.read(header_size(head, size) - _LENGTH), size)
    except DamagedHeaderError as damage:
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


def header_size(head: bytes, size: int, *, most: int = MAX_HEADER) -> int:
    """Return the size of a header with its length field, from the first eight bytes of a file of `size` bytes.

    Raises:
        DamagedHeaderError: the file is shorter than its header, or the header is longer than `most` bytes.

    """
    length, room = int.from_bytes(head[:_LENGTH], "little"), size - _LENGTH
    if room < 0 or length > room:
        raise DamagedHeaderError(f"it is cut short: {size} bytes, and a header of {length} is announced")
    if length > most:
        raise DamagedHeaderError(f"its header takes {length} bytes, and {most} is the limit")
    return _LENGTH + length


def tensors_of(header: bytes, size: int) -> Tensors:
    """Return the tensors of a file of `size` bytes from its whole header, and check that both agree.

    The data of the tensors must fill the file without gaps or overlaps.

    Raises:
        DamagedHeaderError: the safetensors library would not accept this header for a file of this size.

    """
    tensors: Tensors = {}
    places: list[tuple[int, int, str]] = []
    for name, text in _entries(header[_LENGTH:]):
        if name in tensors:
            raise DamagedHeaderError(f"the name {quote(name)} stands twice in its header")
        dtype, shape, (start, end) = _entry(name, text)
        tensors[name] = (dtype, shape)
        places.append((start, end, name))
    done, room = 0, size - len(header)
    for start, end, name in sorted(places):
        if start != done or end < start:
            raise DamagedHeaderError(f"the data of {quote(name)} lies at {start} to {end}; it should begin at {done}")
        done = end
    if done != room:
        raise DamagedHeaderError(f"its tensors take {done} bytes, and {room} are there")
    return tensors


def _entries(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the JSON of each tensor; check and skip the metadata."""
    if not text.startswith(b"{"):
        raise DamagedHeaderError("its header is not a JSON object")
    try:
        text.decode()
    except UnicodeDecodeError:
        raise DamagedHeaderError("its header is not JSON: it is not UTF-8") from None
    nothing = _NOTHING.match(text)
    at = nothing.end() if nothing else 1
    last, metadata = nothing is not None, False
    while not last:
        if (named := _NAME.match(text, at)) is None:
            raise DamagedHeaderError("its header is not JSON")
        name: str = json.loads(named[1])
        if (entry := _ENTRY.match(text, named.end())) is None:
            raise _is_no_entry(name)
        if name != _METADATA:
            yield name, entry[1]
        elif metadata or not _TEXTS.fullmatch(entry[1]):
            raise DamagedHeaderError("its metadata is not an object of strings")
        metadata = metadata or name == _METADATA
        at, last = entry.end(), entry[2] == b"}"
    if text[at:].strip(b" \t\n\r"):
        raise DamagedHeaderError("its header is not JSON: something follows it")


def _entry(name: str, text: bytes) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list) if len(text) <= _LARGEST_ENTRY else []
    except (ValueError, RecursionError):  # also of a number that is too long to be read
        pairs = []
    match dict(pairs) if len(pairs) == 3 else None:  # no key stands twice
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end]}:
            numbers = [*shape, start, end]
        case _:
            raise _is_no_entry(name)
    # isinstance(True, int) holds, and a bool is no size.
    if not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        raise DamagedHeaderError(f"the entry of {quote(name)} has a size or a place that is none")
    # The size of a type that is newer than this list is unknown here; the loader decides.
    if dtype in BITS and math.prod(shape) * BITS[dtype] != 8 * (end - start):
        raise DamagedHeaderError(f"{quote(name)} of shape {shape[:64]} does not take {end - start} bytes of {dtype}")
    return dtype, tuple(shape), (start, end)


def _is_no_entry(name: str) -> DamagedHeaderError:
    return DamagedHeaderError(f"the entry of {quote(name)} is not dtype, shape and data_offsets")
