"""The file on its way, by itself: pieces that the kernel takes in parts, in any order."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelcache.core.types import Original
from modelcache.transfer.partial_file import PartialFile

CONTENT = random.Random(1).randbytes(50_000)
FILE = Original("model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def pieces_of(data: bytes, seed: int) -> list[bytes]:
    """Cut bytes as a line might: some pieces of one byte, some of thousands."""
    rng, pieces = random.Random(seed), []
    while data:
        length = rng.choice([1, 7, 100, 5_000])
        pieces.append(data[:length])
        data = data[length:]
    return pieces


@pytest.mark.parametrize("most", [1, 3, 99, 4_096, 1 << 20])
def test_what_the_kernel_takes_only_in_part_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A write may end within a piece, at its end, or several pieces later."""
    size = min(len(CONTENT), most * 500)
    content = CONTENT[:size]
    file = Original("model.safetensors", size, hashlib.sha256(content).hexdigest())

    def some(fd: int, buffers: Sequence[bytes | memoryview], position: int) -> int:
        return os.pwrite(fd, b"".join(buffers)[:most], position)

    monkeypatch.setattr(os, "pwritev", some)
    part = PartialFile(tmp_path, file)
    assert part.write(0, pieces_of(content, most)) == size
    assert part.hash() == file.sha256
    part.close()


def test_ranges_in_any_order_and_twice(tmp_path: Path) -> None:
    """Only what was not there counts; the journal tells another process the same."""
    part, rng = PartialFile(tmp_path, FILE), random.Random(2)
    starts = list(range(0, len(CONTENT), 1_000)) * 2
    rng.shuffle(starts)
    came = sum(part.write(at, pieces_of(CONTENT[at : at + 1_000], at)) for at in starts[:60])
    assert came == part.total() == 1_000 * len(set(starts[:60]))
    part.close()
    (tmp_path / "other").mkdir()
    again = PartialFile(tmp_path / "other", FILE)
    again.copy_from(part.path)
    assert again.total() == came
    for start, end in again.missing():
        again.write(start, [CONTENT[start:end]])
    assert again.hash() == FILE.sha256
    again.close()


def test_a_part_of_another_file_is_copied(tmp_path: Path) -> None:
    """From where it begins there, and only the bytes that are missing; the hash is that of the part."""
    (tmp_path / "archive").write_bytes(b"x" * 700 + CONTENT + b"y" * 900)
    part = PartialFile(tmp_path, FILE)
    part.write(10_000, [CONTENT[10_000:20_000]])
    part.copy_from(tmp_path / "archive", 700, whole=True)
    assert (part.missing(), part.hash()) == ([], FILE.sha256)
    part.start_over()
    part.copy_from(tmp_path / "archive", 701, whole=True)
    assert part.hash() != FILE.sha256
    part.start_over()
    part.copy_from(tmp_path / "archive", 700 + 1000, whole=True)  # cut short
    assert part.total() == len(CONTENT) - 100
    part.close()
