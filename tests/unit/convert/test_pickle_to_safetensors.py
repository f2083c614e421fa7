"""A state dict becomes safetensors when each of its tensors lies in the file, in one piece and in order."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from modelcache.convert import pickle_to_safetensors
from modelcache.convert.pickle_to_safetensors import convert
from modelcache.core.safetensors_header import tensor_names
from tests.support.torch_files import (
    DICT,
    STORAGE,
    number,
    numbers,
    one,
    program,
    refusal,
    state,
    storage,
    tensor,
    text,
    zipped,
)

PROJECT = Path(__file__).parents[3]


def test_the_pickle_written_by_hand_is_a_good_one(pickled: Path, converted: Path) -> None:
    """What is refused, here and in the tests of what lies below, differs from this in one place."""
    zipped(pickled, one(tensor()))
    convert(pickled, converted)

    assert tensor_names(converted) == {"w": ("F32", (3, 4))}
    assert converted.read_bytes().endswith(STORAGE)


NOT_A_TENSOR: dict[str, tuple[bytes, str]] = {
    "a size too many": (one(tensor(shape=numbers(3, 4, 1))), "3 sizes and 2 strides"),
    "sizes that are a list": (one(tensor(shape=b"](K\x03K\x04e")), "sizes or strides that are not a short tuple"),
    "65 sizes": (
        one(tensor(shape=numbers(*[1] * 65), stride=numbers(*[1] * 65))),
        "sizes or strides that are not a short tuple",
    ),
    "a size that is a text": (one(tensor(shape=text("3") + number(4) + b"\x86")), "size, a stride or an offset"),
    "a size that is a bool": (one(tensor(shape=b"\x88" + number(4) + b"\x86")), "size, a stride or an offset"),
    "negative sizes": (one(tensor(shape=numbers(-3, -4))), "size, a stride or an offset"),
    "a negative stride": (one(tensor(stride=numbers(-4, 1))), "size, a stride or an offset"),
    "a negative offset": (one(tensor(offset=number(-1))), "size, a stride or an offset"),
    "a size of 2^62 squared": (one(tensor(shape=numbers(1 << 62, 1 << 62))), "larger than torch allows"),
    "0 by 2^63": (one(tensor(shape=numbers(0, 1 << 62, 2), stride=numbers(1, 1, 1))), "larger than torch allows"),
    "transposed": (one(tensor(shape=numbers(4, 3), stride=numbers(1, 4))), '"w" is not contiguous'),
    "expanded": (one(tensor(stride=numbers(0, 1))), '"w" is not contiguous'),
    "strides with gaps": (one(tensor(shape=numbers(3, 2))), '"w" is not contiguous'),
    "sizes beyond the storage": (one(tensor(shape=numbers(4, 4))), '"w" reaches beyond'),
    "an offset beyond the storage": (one(tensor(offset=number(1))), '"w" reaches beyond'),
    "an empty tensor beyond": (one(tensor(shape=numbers(0), stride=numbers(1), offset=number(13))), "reaches beyond"),
    "a list": (program(b"]"), "not a state dict but a list"),
    "None": (program(b"N"), "not a state dict but None"),
    "a tensor alone": (program(tensor()), "not a state dict but a tensor"),
    "a state dict inside": (one(state(text("w"), tensor()), "state_dict"), '"state_dict" is not a tensor but a dict'),
    "a number beside": (program(state(text("w"), tensor(), text("epoch"), number(3))), '"epoch" is not a tensor'),
    "a float beside": (one(b"G" + bytes(8), "loss"), '"loss" is not a tensor but a float'),
    "a list beside": (one(b"](K\x01K\x02e", "steps"), '"steps" is not a tensor but a list'),
    "a function beside": (one(DICT, "f"), '"f" is not a tensor but collections.OrderedDict'),
    "a storage beside": (one(storage(), "s"), '"s" is not a tensor but a storage'),
    "the name of the metadata": (one(tensor(), "__metadata__"), 'cannot have the name "__metadata__"'),
    "a name with a control character": (one(tensor(), "a\x1b[2Jb"), r'cannot have the name "a\x1b[2Jb"'),
}


@pytest.mark.parametrize(("code", "reason"), NOT_A_TENSOR.values(), ids=NOT_A_TENSOR)
def test_what_cannot_be_copied_as_it_lies_is_refused_by_name(
    code: bytes, reason: str, pickled: Path, converted: Path
) -> None:
    zipped(pickled, code)
    assert reason in refusal(pickled, converted)


def test_names_that_share_a_storage_do_not_fill_the_disk(pickled: Path, converted: Path) -> None:
    """Tied weights are doubled; a megabyte that is said to be 9,000 tensors is not written out."""
    code = b"".join(text(f"w{index}") + (b"h\x01" if index else tensor() + b"q\x01") for index in range(9000))
    big = code.replace(storage(), storage(count=250_000)).replace(numbers(3, 4), numbers(250_000, 1))
    big = big.replace(numbers(4, 1), numbers(1, 1))
    zipped(pickled, program(state(big)), **{"data/0": bytes(1_000_000)})
    assert "share storages, and written out they would take 9.00 GB" in refusal(pickled, converted)


def test_a_full_disk_is_not_the_files_fault(pickled: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    zipped(pickled, one(tensor()))
    monkeypatch.setattr(os, "copy_file_range", full)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        convert(pickled, converted)


# How much it takes

CHILD = """
import resource, sys
from pathlib import Path
if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    from modelcache.convert.pickle_to_safetensors import convert
    convert(Path(sys.argv[2]), Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(*arguments: str) -> int:
    """Peak memory of a fresh interpreter, in KiB."""
    done = subprocess.run([sys.executable, "-I", "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_three_hundred_megabytes_take_no_memory(pickled: Path, converted: Path) -> None:
    """The file is larger than what is allowed beside a bare interpreter, by ten times."""
    count = 75_000_000
    code = one(tensor(of=storage(count=count), shape=numbers(count // 1000, 1000), stride=numbers(1000, 1)))
    with zipfile.ZipFile(pickled, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        with archive.open("archive/data/0", "w") as entry:
            for index in range(300):
                entry.write(bytes([index % 256]) * 1_000_000)
    bare = peak_of()

    took = peak_of(str(PROJECT), str(pickled), str(converted))

    assert (took - bare) / 1024 < 32
    assert converted.stat().st_size > 300_000_000
    assert tensor_names(converted) == {"w": ("F32", (75_000, 1000))}


def test_the_module_needs_neither_torch_nor_pickle() -> None:
    """Not even imported, so that nothing of it could be reached."""
    door = "modelcache.convert.pickle_to_safetensors"
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import {door}; print(*sys.modules)"
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    words = [sys.executable, "-I", "-c", code, str(PROJECT)]
    done = subprocess.run(words, env=unmeasured, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "safetensors", "pickle", "_pickle"} & set(done.stdout.split())
    assert Path(pickle_to_safetensors.__file__).parent.name == "convert"
