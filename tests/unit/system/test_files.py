"""Calls of the file system, one at a time: whatever errno refuses one, the next best way is taken; the last is told."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from modelcache.core.errors import StorageError, UsageError
from modelcache.system import files as disk
from tests.conftest import unavailable

ERRNOS = sorted(errno.errorcode)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def refusing(number: int) -> Callable[..., NoReturn]:
    """A call that is refused."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


def test_where_names_cannot_be_exchanged_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without the call; neither name is touched."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(disk, "_libc", object)
    assert not disk.exchange(tmp_path / "a", tmp_path / "b")


def test_whatever_errno_refuses_an_exchange_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is nothing to exchange; neither name is touched."""
    (tmp_path / "a").mkdir()
    assert not disk.exchange(tmp_path / "a", tmp_path / "b")
    for number in ERRNOS:

        class Library:
            def renameat2(self, *_: object, number: int = number) -> int:
                ctypes.set_errno(number)
                return -1

        monkeypatch.setattr(disk, "_libc", Library)
        assert not disk.exchange(tmp_path / "a", tmp_path / "b"), errno.errorcode[number]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_second_name_for_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nothing is left where it was to be."""
    with pytest.raises(FileNotFoundError):
        disk.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_whatever_errno_refuses_a_link_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused copy is told with its own errno, and what has the name already is never written over."""
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    disk.link_or_copy(source, tmp_path / "linked")
    assert os.path.samefile(source, tmp_path / "linked")
    for number in ERRNOS:
        monkeypatch.setattr(os, "link", refusing(number))
        target = tmp_path / errno.errorcode[number]
        disk.link_or_copy(source, target)
        assert target.read_bytes() == b"0123456789"
        assert not os.path.samefile(source, target)
    with pytest.raises(FileExistsError):
        disk.link_or_copy(source, tmp_path / "linked")
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
    monkeypatch.setattr(os, "pwrite", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        disk.link_or_copy(source, tmp_path / "full")


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
    disk.link_or_copy(source, folder / "target")
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
        done = list(disk.copy_range(source, target, 4, 99))
        assert done == [(4, 10)]
        assert os.pread(target, 99, 0) == bytes(4) + b"456789"
        os.lseek(target, 0, os.SEEK_END)
        assert list(disk.copy_range(source, target, 0, 2, append=True)) == [(0, 2)]
        assert os.pread(target, 99, 8) == b"8901"


def test_a_broken_disk_is_told_by_the_last_way_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own errno."""
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
    monkeypatch.setattr(os, "pread", refusing(errno.EIO))
    with opened(tmp_path, b"0123456789") as (source, target), pytest.raises(OSError, match="Input/output"):
        list(disk.copy_range(source, target, 0, 10))


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
    with pytest.raises(StorageError, match="refused: /x -> /y") as moved, disk.storage_errors("look"):
        raise OSError(errno.EXDEV, "refused", "/x", None, "/y")
    assert "does not move this" in moved.value.hint
    with pytest.raises(StorageError) as odd, disk.storage_errors("look"):
        raise OSError(errno.EACCES, "refused", "/x\n  ready    all")
    assert "\n" not in odd.value.message


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


def made(folder: Path) -> Path:
    """A tree of one file."""
    (folder / "tree").mkdir(parents=True)
    (folder / "tree" / "x").write_bytes(b"x")
    return folder / "tree"


@pytest.mark.parametrize("call", ["fchmod", "utime"])
def test_a_file_system_without_modes_or_times_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever it answers; only a volume that takes nothing more is told."""
    tree = made(tmp_path)
    for number in ERRNOS:
        monkeypatch.setattr(os, call, refusing(number))
        if number in FULL:
            with pytest.raises(OSError, match=os.strerror(number)):
                disk.settle(tree, owner=os.geteuid(), mtime=0)
        else:
            disk.settle(tree, owner=os.geteuid(), mtime=0)


def test_names_need_no_fsync_and_bytes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that cannot be synced is taken as it is. A file that cannot may have lost bytes, which is told."""
    tree, fsync = made(tmp_path), os.fsync
    for number in ERRNOS:

        def no_folder(fd: int, number: int = number) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(fd)

        monkeypatch.setattr(os, "fsync", no_folder)
        disk.settle(tree, owner=os.geteuid(), mtime=0)
        disk.sync_directory(tree)
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(os, "fsync", refusing(number))
        disk.settle(tree, owner=os.geteuid(), mtime=0)
    for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE):
        monkeypatch.setattr(os, "fsync", refusing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.settle(tree, owner=os.geteuid(), mtime=0)


def test_what_belongs_to_somebody_else_is_not_settled(tmp_path: Path) -> None:
    """Its owner could change it after it was hashed; it is named, and so is the owner."""
    tree = made(tmp_path)
    with pytest.raises(StorageError, match=rf"put there by another user \(uid {os.geteuid()}\)"):
        disk.settle(tree, owner=os.geteuid() + 1, mtime=0)


def test_a_pipe_in_a_tree_is_not_waited_for(tmp_path: Path) -> None:
    """It is no file of a model, which is found later."""
    tree = made(tmp_path)
    os.mkfifo(tree / "pipe")
    disk.settle(tree, owner=os.geteuid(), mtime=0)


# modes --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What a user may have set."""
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    os.umask(before)


def mode_of(path: Path) -> int:
    """Its mode."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The modes with which files and directories are created, before anything else is done to them."""
    modes: list[int] = []
    opened, made = os.open, os.mkdir

    def opening(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        fd = opened(path, flags, mode, **rest)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    def making(path: Any, mode: int = 0o777, **rest: Any) -> None:
        made(path, mode, **rest)
        modes.append(stat.S_IMODE(os.stat(path).st_mode))

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "mkdir", making)
    return modes


def test_no_umask_decides_a_mode(tmp_path: Path, umask: int, calls: list[int]) -> None:
    """Others may write at no instant, and read at the end."""
    root = tmp_path / "root"
    disk.make_state(root / "models" / ".state")
    disk.make_directory(root / "models" / ".state" / "staging", mode=0o700)
    disk.make_below(root, root / "a" / "b")
    disk.write_file(root / "file", b"x")
    disk.copy_file(root / "file", root / "copy")
    os.close(disk.create_file(root / "opened", os.O_RDWR))
    os.close(disk.create_file(root / "opened", os.O_RDWR))
    found = {path.relative_to(root).as_posix(): mode_of(path) for path in root.rglob("*")}
    folders = ["models", "models/.state", "a", "a/b"]
    files = ["file", "copy", "opened"]
    assert found == {**dict.fromkeys(folders, 0o755), **dict.fromkeys(files, 0o644), "models/.state/staging": 0o700}
    assert mode_of(root) == 0o755
    assert len(calls) == 10
    assert not [mode for mode in calls if mode & 0o022]


@pytest.mark.parametrize(
    ("above", "below", "staging"),
    [(0o2775, 0o2775, 0o2770), (0o775, 0o775, 0o770), (0o777, 0o775, 0o770), (0o1777, 0o755, 0o700)],
    ids=oct,
)
def test_what_a_group_may_write_is_shared_with_it(
    tmp_path: Path, umask: int, above: int, below: int, staging: int
) -> None:
    """Every directory below, in that group; a sticky directory is not shared, and files are never written again."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(above)
    disk.make_state(root / "models" / ".state")
    disk.make_directory(root / "models" / ".state" / "staging", mode=0o700)
    tree = made(root / "models" / ".state" / "staging")
    disk.settle(tree, owner=os.geteuid(), mtime=0)
    assert mode_of(root) == above
    assert {mode_of(path) for path in (root / "models", root / "models" / ".state", tree)} == {below}
    assert mode_of(tree.parent) == staging
    assert mode_of(tree / "x") == 0o644


def test_a_group_that_we_are_not_in_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without setgid a directory would be of our own group, which is not the one that may write above."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o775)
    try:
        os.chown(root, -1, 4242)
    except PermissionError:
        unavailable("a group that one is not in can only be given by root")
    disk.make_directory(root / "ours")
    assert ((root / "ours").stat().st_gid, mode_of(root / "ours")) == (4242, 0o775)
    monkeypatch.setattr(os, "fchown", refusing(errno.EPERM))
    disk.make_directory(root / "not ours")
    assert ((root / "not ours").stat().st_gid, mode_of(root / "not ours")) == (os.getegid(), 0o755)


def test_a_state_directory_that_others_may_write_is_closed(tmp_path: Path) -> None:
    """An older version made it with what the umask left."""
    state = tmp_path / ".state"
    state.mkdir()
    state.chmod(0o777)
    disk.make_state(state)
    assert mode_of(state) == 0o755


# the small files of a project ---------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o644, 0o664])
def test_a_file_that_others_could_read_stays_readable(
    tmp_path: Path, umask: int, before: int | None, calls: list[int]
) -> None:
    """It keeps its mode, whatever the umask; a new one follows the umask, and only its owner writes it."""
    path = tmp_path / "models.lock"
    if before is not None:
        path.write_text("old")
        path.chmod(before)
    calls.clear()
    disk.write_text_atomically(path, "new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o644 & ~umask if before is None else before)
    assert not [mode for mode in calls if mode & 0o022]


def test_a_replaced_file_keeps_its_group(tmp_path: Path) -> None:
    """Or those for whom it was readable could not read it any more."""
    path = tmp_path / "models.lock"
    path.write_text("old")
    path.chmod(0o640)
    try:
        os.chown(path, -1, 4242)
    except PermissionError:
        unavailable("a group that one is not in can only be given by root")
    disk.write_text_atomically(path, "new")
    assert (path.stat().st_gid, mode_of(path)) == (4242, 0o640)


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_file_that_cannot_be_replaced_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """One that is mounted into a container by itself, or whose directory takes no other file: whatever the errno.

    A full volume changes nothing. A new file has no other way, so that its refusal is told.
    """
    path, refused = tmp_path / "models.lock", getattr(os, call)

    def beside(name: Any, *rest: Any, **more: Any) -> Any:
        if Path(name).name.startswith(".models.lock."):
            raise OSError(number, os.strerror(number))
        return refused(name, *rest, **more)

    for number in ERRNOS:
        path.write_text("old and longer")
        with monkeypatch.context() as broken:
            broken.setattr(os, call, beside)
            if number in FULL - {errno.EROFS}:
                with pytest.raises(OSError, match=os.strerror(number)):
                    disk.write_text_atomically(path, "new")
                assert path.read_text() == "old and longer"
            elif (call, number) != ("replace", errno.ENOENT):  # this one says that another run took it away
                disk.write_text_atomically(path, "new")
                assert path.read_text() == "new"
                path.unlink()
                with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                    disk.write_text_atomically(path, "new")
        assert [one.name for one in tmp_path.iterdir() if one != path] == []


def test_a_file_that_is_mounted_by_itself_can_be_written(tmp_path: Path) -> None:
    """For real: its name is a mount, which can be neither replaced nor removed."""
    path, source = tmp_path / "models.lock", tmp_path / "source"
    path.write_text("")
    source.write_text("old and longer")
    if subprocess.run(["mount", "--bind", source, path], check=False).returncode:
        unavailable("mounting over a file is not permitted here")
    try:
        disk.write_text_atomically(path, "new")
        assert source.read_text() == "new"
    finally:
        subprocess.run(["umount", path], check=True)


def test_what_could_not_be_written_over_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume takes half of it, and no more."""
    path, write, refused = tmp_path / "models.lock", os.pwrite, list[int]()
    path.write_text("the old content")

    def half(fd: int, data: Any, place: int) -> int:
        if refused:
            return write(fd, data, place)
        if place:
            refused.append(1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:3], place)

    monkeypatch.setattr(os, "replace", refusing(errno.EBUSY))
    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space"):
        disk.write_text_atomically(path, "NEW, AND LONGER THAN THE OLD")
    assert (refused, path.read_text()) == ([1], "the old content")
