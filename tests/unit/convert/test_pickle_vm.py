"""A pickle that asks for more than tensors gets nothing: no call, no attribute, no memory."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelcache.convert.pickle_to_safetensors import convert
from modelcache.core.safetensors_header import tensor_names
from tests.support.torch_files import (
    DICT,
    HOOKS,
    MiB,
    named,
    number,
    one,
    program,
    refusal,
    state,
    tensor,
    text,
    zipped,
)

# Malice: what pickle would run, and what its opcodes would reach


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there afterwards, whatever the pickle tried."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


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
    name: str, protocol: int, pickled: Path, converted: Path, canary: Path
) -> None:
    """By every protocol that Python writes; the file would do it if it were loaded with pickle."""
    value, asked = calls(canary)[name]
    zipped(pickled, pickle.dumps(value, protocol=protocol, fix_imports=False))

    told = refusal(pickled, converted)
    if protocol == 2:
        assert f'asks for "{asked}"' in told
    else:
        assert "asks for" in told or "opcode" in told or f"protocol {protocol}" in told


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """The tests above prove something: pickle itself runs the same bytes."""
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {tmp_path}/sung"), protocol=2))
    assert (tmp_path / "sung").exists()


SYSTEM = named("os", "system")
ODD_STATE = b"}" + text("__class__") + b"Ns"
MALICE: dict[str, tuple[bytes, str]] = {
    "a global": (program(SYSTEM), 'asks for "os.system"'),
    "a global through the memo": (program(SYSTEM + b"q\x00h\x00" + text("true") + b"\x85R"), '"os.system"'),
    "our own name in another module": (one(named("os", "_rebuild_tensor_v2")), '"os._rebuild_tensor_v2"'),
    "a dotted name": (program(named("torch._utils", "_rebuild_tensor_v2.__globals__")), '__globals__"'),
    "a terminal escape": (program(named("\x1b[2J", "x")), r'"\x1b[2J.x"'),
    "a name without end": (program(b"c" + b"a" * 300), "255 characters"),
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
    "BUILD on a dictionary": (program(HOOKS + ODD_STATE + b"b"), "sets the state of a dict"),
    "BUILD with __setstate__": (program(HOOKS + b"}" + text("__setstate__") + DICT + b"sb"), "sets the state"),
    "BUILD with __dict__": (program(HOOKS + b"}" + text("__dict__") + b"}sb"), "sets the state of a dict"),
    "BUILD with slots": (program(HOOKS + b"N}" + text("items") + b"Ns\x86b"), "sets the state of a dict"),
    "BUILD on a function": (program(DICT + b"}" + text("_metadata") + b"}sb"), "state of collections.OrderedDict"),
    "BUILD on a tensor": (one(tensor() + b"}b"), "sets the state of a tensor"),
    "BUILD on a type": (program(named("torch", "FloatStorage") + b"}b"), "sets the state of a storage type"),
    "a number of nine bytes": (one(number(1 << 64)), "a number of 9 bytes"),
    "a key that is a number": (program(b"}K\x01" + tensor() + b"s"), "key that is not a string but an int"),
    "a name that is half a letter": (one(tensor(), "\ud800"), "not UTF-8"),
    "nothing": (b"", "cut short"),
    "no end": (b"\x80\x02}", "cut short"),
    "something after the end": (program(b"}") + b"N", "does not end with one value"),
    "two values": (program(b"}}"), "does not end with one value"),
    "a mark left": (program(b"}("), "does not end with one value"),
    "no value": (program(b""), "does not end with one value"),
    "a value below the mark": (program(b"}}(b"), "a value that is not there"),
    "no mark": (program(b"t"), "a mark that is not there"),
    "an empty memo": (program(b"h\x05"), "never wrote"),
    "items of a tuple": (program(b")(" + text("a") + b"Nu"), "fills what is not"),
    "half an item": (program(b"}(" + text("a") + b"u"), "fills what is not"),
    "a tuple made longer": (program(b")Na"), "adds to what is not a list"),
    "DUP": (program(b"}20"), "opcode DUP"),
    "a text longer than the file": (program(b"X\xff\xff\xff\xff"), "cut short"),
}


@pytest.mark.parametrize(("code", "reason"), MALICE.values(), ids=MALICE)
def test_a_pickle_that_is_no_state_dict_is_refused_by_name(
    code: bytes, reason: str, pickled: Path, converted: Path, canary: Path
) -> None:
    zipped(pickled, code)
    assert reason in refusal(pickled, converted)
    assert not canary.exists()


def test_metadata_of_modules_is_dropped(pickled: Path, converted: Path) -> None:
    zipped(pickled, program(state(text("w"), tensor()) + b"}" + text("_metadata") + HOOKS + b"sb"))
    convert(pickled, converted)

    assert list(tensor_names(converted)) == ["w"]


# Bombs: little to read, much to hold

SHARE = 1 if os.environ.get("FAULTS") == "all" else 4
"""What takes as much time and memory as it has opcodes is tried with a fourth of them, and has a fourth to hold."""
DEEP: dict[str, tuple[Callable[[], bytes], str]] = {
    "a memo that doubles": (lambda: program(b")" + b"q\x00h\x00h\x00\x86" * (200_000 // SHARE)), "does not end"),
    "tuples in tuples": (lambda: program(b")" + b"\x85" * (900_000 // SHARE)), "not a state dict but a tuple"),
    "lists in lists": (
        lambda: program(b"]" * (400_000 // SHARE) + b"a" * (400_000 // SHARE - 1)),
        "not a state dict but a list",
    ),
}
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a memo number of 2^32": (lambda: program(b"}r\xff\xff\xff\xff"), ""),
    "a doubled tuple as a key": (lambda: program(b"})" + b"q\x00h\x00\x86" * 60 + b"Ns"), "not a string but a tuple"),
    "a list in itself": (lambda: program(b"]q\x00h\x00a"), "not a state dict but a list"),
    "a million empty dictionaries": (lambda: program(b"}" * 1_000_001), "opcodes"),
    "a million marks": (lambda: program(b"(" * 1_000_001), "opcodes"),
    "sixteen megabytes": (lambda: program(b"X" + struct.pack("<I", 16 * MiB) + bytes(16 * MiB)), "takes more than"),
    "numbers of 255 bytes": (lambda: program((b"\x8a\xff" + b"\x7f" * 255) * 1000), "a number of 255 bytes"),
    **DEEP,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_stays_small(name: str, pickled: Path, converted: Path) -> None:
    code, reason = BOMBS[name]
    zipped(pickled, code())
    tracemalloc.start()
    start = time.process_time()
    try:
        if reason:
            assert reason in refusal(pickled, converted)
        else:
            convert(pickled, converted)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 110 * MiB // (SHARE if name in DEEP else 1)
    assert time.process_time() - start < (30 if sys.gettrace() is None else 600)  # coverage counts every step
