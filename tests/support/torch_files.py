"""Write a pickled state dict by hand, as torch does: the opcodes, and the zip file around them.

So a test changes one place of a good file, and asks by `refusal` why it is not converted.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from modelcache.convert.pickle_to_safetensors import convert
from modelcache.core.errors import PolicyError

MiB = 1 << 20
STORAGE = bytes(range(48))


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 12, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    return b"(" + text("storage") + named(module, kind) + text(key) + text("cpu") + number(count) + b"tQ"


DICT = named("collections", "OrderedDict")
HOOKS = DICT + b")R"
REBUILD = named("torch._utils", "_rebuild_tensor_v2")


def tensor(
    shape: bytes = numbers(3, 4),
    stride: bytes = numbers(4, 1),
    offset: bytes = number(0),
    of: bytes | None = None,
    rest: bytes = b"\x89" + HOOKS,
) -> bytes:
    return REBUILD + b"(" + (of or storage()) + offset + shape + stride + rest + b"tR"


def state(*items: bytes) -> bytes:
    """An OrderedDict of names and values."""
    return HOOKS + b"(" + b"".join(items) + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def one(value: bytes, name: str = "w") -> bytes:
    return program(state(text(name), value))


GOOD = [("archive/data.pkl", one(tensor())), ("archive/data/0", STORAGE)]


def written(path: Path, entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def without_crcs(content: bytes) -> bytes:
    """The same file as torch writes it where it is told to compute no CRCs: they are 0 in the directory."""
    changed, place = bytearray(content), content.find(b"PK\1\2")
    while place >= 0:
        struct.pack_into("<I", changed, place + 16, 0)
        place = content.find(b"PK\1\2", place + 1)
    return bytes(changed)


def zipped(path: Path, code: bytes, **entries: bytes) -> Path:
    """A file as torch lays it out, with one storage of twelve floats."""
    content = {"data.pkl": code, "byteorder": b"little", "data/0": STORAGE, "version": b"3\n", **entries}
    return written(path, [(f"archive/{name}", data) for name, data in content.items()])


def refusal(source: Path, target: Path) -> str:
    """Why a file is not converted; nothing is written then."""
    with pytest.raises(PolicyError) as told:
        convert(source, target)
    assert told.value.exit_code == 5
    assert told.value.message.startswith(f"{source} is not converted: ")
    assert told.value.hint
    assert not target.exists()
    return told.value.message.removeprefix(f"{source} is not converted: ")
