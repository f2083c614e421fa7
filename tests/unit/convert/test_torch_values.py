"""Storages and tensors are what torch.save writes of them, argument by argument, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.torch_files import (
    DICT,
    HOOKS,
    REBUILD,
    named,
    number,
    one,
    program,
    refusal,
    state,
    storage,
    tensor,
    text,
    zipped,
)

OTHERWISE: dict[str, tuple[bytes, str]] = {
    "an unknown storage": (one(storage(kind="QInt8Storage")), '"torch.QInt8Storage"'),
    "complex128": (one(storage(kind="ComplexDoubleStorage")), '"torch.ComplexDoubleStorage"'),
    "OrderedDict of something": (program(DICT + b"]\x85R"), "collections.OrderedDict with what"),
    "an id that is a text": (one(text("0") + b"Q"), "not a storage"),
    "an id of another kind": (
        one(b"(" + text("module") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(12) + b"tQ"),
        "not a storage",
    ),
    "an id with a function for a type": (
        one(b"(" + text("storage") + DICT + text("0") + text("cpu") + number(12) + b"tQ"),
        "not a storage",
    ),
    "a key with a path": (one(tensor(of=storage("../data.pkl"))), 'no data for the storage "../data.pkl"'),
    "a storage that is not there": (one(tensor(of=storage("7"))), 'no data for the storage "7"'),
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
}


@pytest.mark.parametrize(("code", "reason"), OTHERWISE.values(), ids=OTHERWISE)
def test_what_torch_would_write_otherwise_is_refused_by_name(
    code: bytes, reason: str, pickled: Path, converted: Path
) -> None:
    zipped(pickled, code)
    assert reason in refusal(pickled, converted)
