"""A small file is replaced in one step, and keeps its mode, its group and, where all fails, its content."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelcache.system.atomic_write import write_text_atomically
from tests.conftest import unavailable
from tests.unit.system.conftest import ERRNOS, FULL, mode_of, refusing


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
    write_text_atomically(path, "new")
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
    write_text_atomically(path, "new")
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
                    write_text_atomically(path, "new")
                assert path.read_text() == "old and longer"
            elif (call, number) != ("replace", errno.ENOENT):  # this one says that another run took it away
                write_text_atomically(path, "new")
                assert path.read_text() == "new"
                path.unlink()
                with pytest.raises(OSError, match=re.escape(os.strerror(number))):
                    write_text_atomically(path, "new")
        assert [one.name for one in tmp_path.iterdir() if one != path] == []


def test_a_file_that_is_mounted_by_itself_can_be_written(tmp_path: Path) -> None:
    """For real: its name is a mount, which can be neither replaced nor removed."""
    path, source = tmp_path / "models.lock", tmp_path / "source"
    path.write_text("")
    source.write_text("old and longer")
    if subprocess.run(["mount", "--bind", source, path], check=False).returncode:
        unavailable("mounting over a file is not permitted here")
    try:
        write_text_atomically(path, "new")
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
        write_text_atomically(path, "NEW, AND LONGER THAN THE OLD")
    assert (refused, path.read_text()) == ([1], "the old content")
