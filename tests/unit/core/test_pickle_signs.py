"""What is a pickle by its first bytes: whatever torch and pickle write, and hardly anything else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.core.pickle_signs import HEAD, begins_as_pickle
from tests.support import tiny

NUMPY = b"\x93NUMPY\x01\x00v\x00{'descr': '%s', 'fortran_order': False, 'shape': (2,), }"


class Anything:
    """An object whose pickle calls something."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [print, Anything(), [Anything(), {"weight": Anything()}]])
def test_a_pickle_that_calls_something_is_one(protocol: int, value: object) -> None:
    """In every protocol."""
    assert begins_as_pickle("weights.dat", pickle.dumps(value, protocol=protocol)[:HEAD])


def test_what_torch_writes_is_a_pickle(tmp_path: Path) -> None:
    """A zip file, whatever its first entry is."""
    tiny.write_pickle(tmp_path / "x", 3000)
    assert begins_as_pickle("weights.model", (tmp_path / "x").read_bytes()[:HEAD])
    assert not begins_as_pickle("archive.zip", (tmp_path / "x").read_bytes()[:HEAD])


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vocab.txt", b"[PAD]\n[UNK]\ncat\ndog\n"),
        ("words", b"cat\ndog\nhouse\n"),
        ("README.md", b"---\nlicense: mit\n---\nclass\n"),
        ("config.json", b'{"a": 1}'),
        ("model.bin", b"\x06\0\0\0\x12\0TransformerSpec\0"),
        ("openvino_model.bin", bytes(4096)),
        ("spiece.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"),
        ("x.npy", NUMPY % b"<f4"),
        ("empty", b""),
        ("one", b"\x80"),
    ],
)
def test_other_files_are_none(name: str, head: bytes) -> None:
    """Files as models have them."""
    assert not begins_as_pickle(name, head)


def test_an_array_of_objects_is_one() -> None:
    """NumPy writes them with pickle."""
    assert begins_as_pickle("x.npy", NUMPY % b"|O")


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(head: bytes) -> None:
    """Nothing raises, whatever a repository has."""
    begins_as_pickle("x", head)
