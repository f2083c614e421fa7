"""Calls that are refused, masks of modes, and the modes with which files are made."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

ERRNOS = sorted(errno.errorcode)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def refusing(number: int) -> Callable[..., NoReturn]:
    """A call that is refused."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse


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
