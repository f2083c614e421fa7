"""Calls of the file system, one at a time: whatever errno refuses one, the next best way is taken; the last is told."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelcache.core.errors import StorageError, UsageError
from modelcache.stamp import STAMP_NAME, facts_in_stamp
from modelcache.system import files
from tests.conftest import unavailable
from tests.unit.system.conftest import ERRNOS, refusing


def test_where_names_cannot_be_exchanged_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without the call; neither name is touched."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(files, "libc", object)
    assert not files.exchange(tmp_path / "a", tmp_path / "b")


def test_whatever_errno_refuses_an_exchange_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is nothing to exchange; neither name is touched."""
    (tmp_path / "a").mkdir()
    assert not files.exchange(tmp_path / "a", tmp_path / "b")
    for number in ERRNOS:

        class Library:
            def renameat2(self, *_: object, number: int = number) -> int:
                ctypes.set_errno(number)
                return -1

        monkeypatch.setattr(files, "libc", Library)
        assert not files.exchange(tmp_path / "a", tmp_path / "b"), errno.errorcode[number]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_second_name_for_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nothing is left where it was to be."""
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_whatever_errno_refuses_a_link_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused copy is told with its own errno, and what has the name already is never written over."""
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    files.link_or_copy(source, tmp_path / "linked")
    assert os.path.samefile(source, tmp_path / "linked")
    for number in ERRNOS:
        monkeypatch.setattr(os, "link", refusing(number))
        target = tmp_path / errno.errorcode[number]
        files.link_or_copy(source, target)
        assert target.read_bytes() == b"0123456789"
        assert not os.path.samefile(source, target)
    with pytest.raises(FileExistsError):
        files.link_or_copy(source, tmp_path / "linked")
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
    monkeypatch.setattr(os, "pwrite", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.link_or_copy(source, tmp_path / "full")


def test_the_file_of_another_owner_is_copied(tmp_path: Path) -> None:
    """A link would keep the owner, who may write into it."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.write_bytes(b"bytes")
    source.chmod(0o666)
    folder.mkdir()
    try:
        os.chown(source, 4242, -1)
    except PermissionError:
        unavailable("files of another owner can only be made by root")
    files.link_or_copy(source, folder / "target")
    found = (folder / "target").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink) == (os.geteuid(), 0o644, 1)


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


@pytest.mark.parametrize("kernel", ["copies", "says that it copied nothing", *ERRNOS])
def test_bytes_are_copied_whatever_the_kernel_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str | int
) -> None:
    """To the same place; a source that is shorter than it was said to be ends it."""
    if isinstance(kernel, int):
        monkeypatch.setattr(os, "copy_file_range", refusing(kernel))
    elif kernel != "copies":
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    with opened(tmp_path, b"0123456789") as (source, target):
        done = list(files.copy_range(source, target, 4, 99))
        assert done == [(4, 10)]
        assert os.pread(target, 99, 0) == bytes(4) + b"456789"
        os.lseek(target, 0, os.SEEK_END)
        assert list(files.copy_range(source, target, 0, 2, append=True)) == [(0, 2)]
        assert os.pread(target, 99, 8) == b"8901"
    with opened(tmp_path, b"0123456789") as (source, target):
        os.truncate(target, 0)
        assert list(files.copy_range(source, target, 1, 4, base=5)) == [(1, 4)]
        assert os.pread(target, 99, 0) == b"\x00678"
        assert list(files.copy_range(source, target, 4, 99, base=5)) == [(4, 5)]


def test_where_a_file_may_be(tmp_path: Path) -> None:
    """A file of its own has its size; in a longer one there has to be room for it."""
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name, start, size, expected in (
        ("file", 0, 10, True),
        ("link", 0, 10, True),
        ("file", 0, 9, False),
        ("file", 0, 11, False),
        ("file", 3, 7, True),
        ("file", 3, 2, True),
        ("file", 3, 8, False),
        ("file", 11, 0, False),
        ("pipe", 0, 0, False),
        ("nothing", 0, 0, False),
        (".", 0, 4096, False),
    ):
        assert files.is_plain_file(tmp_path / name, size, start=start) is expected, (name, start, size)


def test_a_plain_file_is_opened_and_nothing_else(tmp_path: Path) -> None:
    """No link is followed, and no pipe is waited for."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with files.open_plain(tmp_path / "file") as file:
        assert os.pread(file.fileno(), 99, 3) == b"tent"
    for name in ("link", ".", "nothing"):
        with pytest.raises(OSError, match=name):
            files.open_plain(tmp_path / name)
    files.open_plain(tmp_path / "pipe").close()


def test_a_broken_disk_is_told_by_the_last_way_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own errno."""
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
    monkeypatch.setattr(os, "pread", refusing(errno.EIO))
    with opened(tmp_path, b"0123456789") as (source, target), pytest.raises(OSError, match="Input/output"):
        list(files.copy_range(source, target, 0, 10))


def test_a_name_that_no_locale_can_write_is_told() -> None:
    """As storage, with what to do about it."""
    with pytest.raises(StorageError, match="look") as told, files.storage_errors("look"):
        os.stat("\ud800")
    assert "UTF-8" in told.value.hint


def test_an_error_without_a_name_or_a_reason_is_told(tmp_path: Path) -> None:
    """The name of the file is told where there is one; an unknown reason has a hint too."""
    with pytest.raises(StorageError) as told, files.storage_errors("look"):
        raise OSError("what")
    assert re.search("look.*what$", told.value.message)
    with pytest.raises(StorageError, match=r"(?m)look.*no space.*/x$") as named, files.storage_errors("look"):
        raise OSError(errno.ENOSPC, "no space", "/x")
    with pytest.raises(StorageError, match=r"(?m)look.*refused.*/x.*/y$") as moved, files.storage_errors("look"):
        raise OSError(errno.EXDEV, "refused", "/x", None, "/y")
    hints = {told.value.hint, named.value.hint, moved.value.hint}
    assert (len(hints), all(hints)) == (3, True)
    with pytest.raises(StorageError) as odd, files.storage_errors("look"):
        raise OSError(errno.EACCES, "refused", "/x\n  ready    all")
    assert "\n" not in odd.value.message


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO])
def test_a_hint_names_the_option_that_decides_the_place(number: int) -> None:
    """And no other one: that of the lock is not the one of the root."""
    with pytest.raises(StorageError) as told, files.storage_errors("write", place="--lockfile"):
        raise OSError(number, os.strerror(number), "/x")
    assert "--lockfile" in told.value.hint
    assert "--root" not in told.value.hint
    with pytest.raises(StorageError) as told, files.storage_errors("write"):
        raise OSError(number, os.strerror(number), "/x")
    assert "--lockfile" not in told.value.hint
    assert "{" not in told.value.hint


def test_a_file_that_is_to_be_parsed_has_a_limit(tmp_path: Path) -> None:
    """To the byte, for files of people and for ours."""
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert files.read_bytes(path, limit=5) == files.read_own(path, limit=5) == b"12345"
    with pytest.raises(UsageError, match=r"\b4 B\b"):
        files.read_bytes(path, limit=4)
    with pytest.raises(OSError, match=r"\[Errno 27\]"):
        files.read_own(path, limit=4)
    assert files.read_bytes(tmp_path / "nothing") is None
    with pytest.raises(UsageError, match=os.strerror(errno.EISDIR)):
        files.read_bytes(tmp_path)


def test_a_directory_in_the_place_of_a_file_costs_no_descriptor(tmp_path: Path) -> None:
    """`open` leaves a descriptor open that it is given for a directory."""
    (tmp_path / STAMP_NAME).mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(IsADirectoryError):
        files.read_own(tmp_path)
    assert facts_in_stamp(str(tmp_path)) == {}
    assert os.listdir("/proc/self/fd") == before


def test_an_absolute_path_has_no_dotdot_and_names_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a link `..` is not the directory before it; what is not there yet is named all the same."""
    for name in ("x/deep", "y", "elsewhere/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "x" / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    monkeypatch.chdir(tmp_path / "x")
    assert files.absolute("../x/../y") == tmp_path / "y"
    assert files.absolute("deep/../../y/new") == tmp_path / "y" / "new"
    assert files.absolute("gone/../new") == tmp_path / "x" / "new"
    assert files.absolute("link/../y") == tmp_path / "elsewhere" / "y"
    assert files.absolute("link") == tmp_path / "x" / "link"
    assert files.absolute("/../..") == Path("/")
