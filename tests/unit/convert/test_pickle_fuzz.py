"""Whatever the bytes are: converted or refused, soon, in little memory, and nothing of them is ever called.

FAULTS=all looks for much longer.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.convert.pickle_to_safetensors import convert
from modelcache.core.errors import PolicyError
from modelcache.core.safetensors_header import tensor_names
from tests.support.faults.fuzz import BUDGET, EXAMPLES
from tests.support.torch_files import (
    DICT,
    GOOD,
    HOOKS,
    REBUILD,
    MiB,
    named,
    number,
    numbers,
    one,
    state,
    storage,
    tensor,
    text,
    without_crcs,
    written,
    zipped,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as torch writes it, or by hand where torch is not installed; without CRCs, which would tell of changes."""
    path = tmp_path_factory.mktemp("valid") / "pytorch_model.bin"
    if importlib.util.find_spec("torch") is None:
        return without_crcs(written(path, GOOD).read_bytes())
    import torch

    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict(), path)
    return without_crcs(path.read_bytes())


CALLS = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect"}
called: list[str] = []
"""What was called of all this, by anybody: a hook cannot be taken away again."""
sys.addaudithook(lambda event, _: called.append(event) if event in CALLS else None)


def tried(folder: Path, content: bytes) -> None:
    """Converts, or says why not; soon, in a few megabytes, and calls nothing."""
    called.clear()
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
    assert time.monotonic() - start < 20
    assert not called


fuzz = settings(BUDGET, max_examples=max(200, EXAMPLES))


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
            named("os", "system"),
            named("posix", "system"),
            named("builtins", "eval"),
            b"Vtouch x\n",
            b"\x8c\x05posix\x8c\x06system\x93",
            b"(S'touch x'\nios\nsystem\n",
            *[bytes([code]) for code in b"o\x81\x82\x92\x93\x94\x95\x97\x98PIFLS0120d"],
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
