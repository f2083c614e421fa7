"""How much of a model is staged: counted by names, sizes and journals, without reading a byte of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.types import LockedModel, Made, Original
from modelcache.transfer.staged_bytes import bytes_staged
from modelcache.transfer.staged_files import staged_path
from tests.support.published_model import CONTENT, pinned

MODEL = pinned()
TOTAL = sum(map(len, CONTENT.values()))
WEIGHTS = next(file for file in MODEL.files if file.path == "model.safetensors")


def staging(folder: Path, name: str = "a__b~1") -> Path:
    """A staging directory in which a run has begun to fetch."""
    (folder / name / "tree").mkdir(parents=True)
    return folder / name


def part(folder: Path, size: int, journal: str = "", sha256: str = WEIGHTS.sha256) -> None:
    """A partly written file, with the journal that names its ranges."""
    with (folder / sha256).open("wb") as file:
        file.truncate(size)
    if journal:
        (folder / f"{sha256}.ranges").write_text(journal)


def test_each_content_counts_once_wherever_it_is_staged(tmp_path: Path) -> None:
    """Of several runs the one that has most of it; a file with its name is whole."""
    one, two = staging(tmp_path), staging(tmp_path, "a__b~2")
    assert bytes_staged([one, two], MODEL) == (0, TOTAL)
    part(one, WEIGHTS.size, "0 100\n200 300\n")
    part(two, WEIGHTS.size, "0 5000\n")
    assert bytes_staged([one, two], MODEL) == (5000, TOTAL)
    (two / "tree" / "README.md").write_bytes(CONTENT["README.md"])
    staged_path(one, next(file.sha256 for file in MODEL.files if file.path == "README.md")).write_bytes(b"words\n")
    assert bytes_staged([one, two], MODEL) == (5006, TOTAL)
    (one / "tree" / "model.safetensors").write_bytes(CONTENT["model.safetensors"])
    assert bytes_staged([one, two], MODEL) == (WEIGHTS.size + 6, TOTAL)


@pytest.mark.parametrize(
    ("size", "journal", "count"),
    [
        (10_240, "", 10_240),
        (10_000, "", 0),
        (10_240, "0 9999999\n", 10_240),
        (10_240, "nonsense\n0 100\n5", 100),
        (50, "0 100\n", 50),
    ],
    ids=["whole", "no journal", "more than there is", "torn", "cut off"],
)
def test_a_partly_written_file_counts_as_its_journal_says(tmp_path: Path, size: int, journal: str, count: int) -> None:
    """And no further than it goes."""
    folder = staging(tmp_path)
    part(folder, size, journal)
    assert bytes_staged([folder], MODEL) == (count, TOTAL)


def test_of_a_converted_file_the_pickle_counts(tmp_path: Path) -> None:
    """It is what has to be fetched; the finished file stands for all of it, a written one for nothing."""
    pickle = Original("pytorch_model.bin", 20_000, "1" * 64)
    converted = replace(WEIGHTS, made=Made.CONVERTED, original=pickle)
    written = replace(MODEL.files[0], made=Made.WRITTEN)
    model: LockedModel = replace(MODEL, files=(converted, written))
    folder = staging(tmp_path)
    part(folder, 20_000, "0 7000\n", pickle.sha256)
    assert bytes_staged([folder], model) == (7000, 20_000)
    (folder / "originals").mkdir()
    with (folder / "originals" / pickle.sha256).open("wb") as file:
        file.truncate(20_000)
    assert bytes_staged([folder], model) == (20_000, 20_000)
    staged_path(folder, WEIGHTS.sha256).write_bytes(CONTENT["model.safetensors"])
    assert bytes_staged([folder], model) == (20_000, 20_000)


def test_without_a_pin_the_fullest_directory_counts(tmp_path: Path) -> None:
    """A file with two names counts once, and journals do not count."""
    one, two = staging(tmp_path), staging(tmp_path, "a__b~2")
    part(one, 900, "0 100\n")
    part(two, 10_240, "0 700\n")
    (two / "tree" / "config.json").write_bytes(b"{}")
    os.link(two / "tree" / "config.json", two / f"{'2' * 64}.kept")
    assert bytes_staged([one, two], None) == (702, 0)


def test_files_that_lock_has_kept_are_no_fetch(tmp_path: Path) -> None:
    """By themselves; nor is a directory that has gone meanwhile, or one in which nothing is."""
    kept = tmp_path / "a__b~1"
    kept.mkdir()
    staged_path(kept, WEIGHTS.sha256).write_bytes(CONTENT["model.safetensors"])
    assert bytes_staged([kept, tmp_path / "gone"], MODEL) == (0, 0)
    assert bytes_staged([], MODEL) == (0, 0)
    assert bytes_staged([kept, staging(tmp_path, "a__b~2")], MODEL) == (WEIGHTS.size, TOTAL)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write to the root may plant one, to a file or to a device."""
    folder = staging(tmp_path)
    (folder / WEIGHTS.sha256).symlink_to("/dev/zero")
    (tmp_path / "config.json").write_bytes(b"{}")
    (folder / "tree" / "config.json").symlink_to(tmp_path / "config.json")
    assert bytes_staged([folder], MODEL) == (0, TOTAL)
    assert bytes_staged([folder], None) == (0, 0)
