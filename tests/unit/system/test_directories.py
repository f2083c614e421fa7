"""Directories below a root: their modes and groups, and what is done to a finished tree."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from modelcache.core.errors import StorageError
from modelcache.system import directories, files
from modelcache.system.durable import sync_directory
from tests.conftest import unavailable
from tests.unit.system.conftest import ERRNOS, FULL, mode_of, refusing


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
                directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)
        else:
            directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)


def test_names_need_no_fsync_and_bytes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that cannot be synced is taken as it is. A file that cannot may have lost bytes, which is told."""
    tree, fsync = made(tmp_path), os.fsync
    for number in ERRNOS:

        def no_folder(fd: int, number: int = number) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(fd)

        monkeypatch.setattr(os, "fsync", no_folder)
        directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)
        sync_directory(tree)
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(os, "fsync", refusing(number))
        directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)
    for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE):
        monkeypatch.setattr(os, "fsync", refusing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)


def test_what_belongs_to_somebody_else_is_not_settled(tmp_path: Path) -> None:
    """Its owner could change it after it was hashed; it is named, and so is the owner."""
    tree = made(tmp_path)
    with pytest.raises(StorageError, match=rf"uid {os.geteuid()}\b"):
        directories.finalize_tree(tree, owner=os.geteuid() + 1, mtime=0)


def test_a_pipe_in_a_tree_is_not_waited_for(tmp_path: Path) -> None:
    """It is no file of a model, which is found later."""
    tree = made(tmp_path)
    os.mkfifo(tree / "pipe")
    directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)


def test_no_umask_decides_a_mode(tmp_path: Path, umask: int, calls: list[int]) -> None:
    """Others may write at no instant, and read at the end."""
    root = tmp_path / "root"
    directories.make_state_directory(root / "models" / ".state")
    directories.make_directory(root / "models" / ".state" / "staging", mode=0o700)
    directories.make_below(root, root / "a" / "b")
    files.write_file(root / "file", b"x")
    files.copy_file(root / "file", root / "copy")
    os.close(files.create_file(root / "opened", os.O_RDWR))
    os.close(files.create_file(root / "opened", os.O_RDWR))
    found = {path.relative_to(root).as_posix(): mode_of(path) for path in root.rglob("*")}
    folders = ["models", "models/.state", "a", "a/b"]
    plain = ["file", "copy", "opened"]
    assert found == {**dict.fromkeys(folders, 0o755), **dict.fromkeys(plain, 0o644), "models/.state/staging": 0o700}
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
    directories.make_state_directory(root / "models" / ".state")
    directories.make_directory(root / "models" / ".state" / "staging", mode=0o700)
    tree = made(root / "models" / ".state" / "staging")
    directories.finalize_tree(tree, owner=os.geteuid(), mtime=0)
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
    directories.make_directory(root / "ours")
    assert ((root / "ours").stat().st_gid, mode_of(root / "ours")) == (4242, 0o775)
    monkeypatch.setattr(os, "fchown", refusing(errno.EPERM))
    directories.make_directory(root / "not ours")
    assert ((root / "not ours").stat().st_gid, mode_of(root / "not ours")) == (os.getegid(), 0o755)


def test_a_state_directory_that_others_may_write_is_closed(tmp_path: Path) -> None:
    """An older version made it with what the umask left."""
    state = tmp_path / ".state"
    state.mkdir()
    state.chmod(0o777)
    directories.make_state_directory(state)
    assert mode_of(state) == 0o755
