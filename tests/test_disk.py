"""Calls of the file system, one at a time: what they cannot do is done otherwise, what they refuse is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache import disk
from modelcache.errors import StorageError, UsageError


def test_where_names_cannot_be_exchanged_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without the call; neither name is touched."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(disk, "_libc", object)
    assert not disk.exchange(tmp_path / "a", tmp_path / "b")


def test_exchanging_what_is_not_there_is_no_lack_of_the_file_system(tmp_path: Path) -> None:
    """It is told with both names."""
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError) as told:
        disk.exchange(tmp_path / "a", tmp_path / "b")
    assert (told.value.filename, told.value.filename2) == (str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_second_name_for_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Only what a file system refuses for good is done by copying."""
    with pytest.raises(FileNotFoundError):
        disk.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def opened(folder: Path, content: bytes) -> Iterator[tuple[int, int]]:
    """Two files."""
    (folder / "source").write_bytes(content)
    source, target = os.open(folder / "source", os.O_RDONLY), os.open(folder / "target", os.O_RDWR | os.O_CREAT)
    try:
        yield source, target
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.parametrize("kernel", ["copies", "refuses", "says that it copied nothing", "breaks"])
def test_bytes_are_copied_whatever_the_kernel_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """To the same place; a source that is shorter than it was said to be ends it, and a broken disk is told."""
    calls: dict[str, object] = {
        "refuses": OSError(errno.EXDEV, "another device"),
        "says that it copied nothing": None,
        "breaks": OSError(errno.EIO, "broken"),
    }

    def copy(*_: object) -> int:
        if error := calls[kernel]:
            assert isinstance(error, OSError)
            raise error
        return 0

    if kernel in calls:
        monkeypatch.setattr(os, "copy_file_range", copy)
    with opened(tmp_path, b"0123456789") as (source, target):
        if kernel == "breaks":
            with pytest.raises(OSError, match="broken"):
                list(disk.copy_range(source, target, 0, 10))
            return
        done = list(disk.copy_range(source, target, 4, 99))
        assert done == [(4, 10)]
        assert os.pread(target, 99, 0) == bytes(4) + b"456789"
        os.lseek(target, 0, os.SEEK_END)
        assert list(disk.copy_range(source, target, 0, 2, append=True)) == [(0, 2)]
        assert os.pread(target, 99, 8) == b"8901"


def test_a_name_that_no_locale_can_write_is_told() -> None:
    """As storage, with what to do about it."""
    with pytest.raises(StorageError, match="cannot look") as told, disk.storage_errors("look"):
        os.stat("\ud800")
    assert "UTF-8" in told.value.hint


def test_an_error_without_a_name_or_a_reason_is_told(tmp_path: Path) -> None:
    """The name of the file is told where there is one; an unknown reason has a hint too."""
    with pytest.raises(StorageError) as told, disk.storage_errors("look"):
        raise OSError("what")
    assert (told.value.message, told.value.hint) == (
        "cannot look: what",
        "Check the volume, then run this again: what has arrived is kept.",
    )
    with pytest.raises(StorageError, match="no space: /x") as named, disk.storage_errors("look"):
        raise OSError(errno.ENOSPC, "no space", "/x")
    assert "Free some space" in named.value.hint


def test_a_file_that_is_to_be_parsed_has_a_limit(tmp_path: Path) -> None:
    """To the byte, for files of people and for ours."""
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert disk.read_bytes(path, limit=5) == disk.read_own(path, limit=5) == b"12345"
    with pytest.raises(UsageError, match="more than 4 bytes"):
        disk.read_bytes(path, limit=4)
    with pytest.raises(OSError, match=r"\[Errno 27\]"):
        disk.read_own(path, limit=4)
    assert disk.read_bytes(tmp_path / "nothing") is None
    with pytest.raises(UsageError, match="cannot be read"):
        disk.read_bytes(tmp_path)


def test_what_cannot_be_settled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without modes is taken as it is; a broken one is not."""
    (tmp_path / "x").touch()

    def broken(fd: int, mode: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fchmod", broken)
    with pytest.raises(OSError, match="broken"):
        disk.settle(tmp_path, owner=os.geteuid(), mtime=0)
