"""Measures the process that `check` starts, and its forks: it gets no environment, cannot write, and is killed.

Python imports this at its start, wherever PYTHONPATH names this directory. What was measured goes through a descriptor
that was open before the disk became read-only, and it goes before the process speaks, since whoever is listening kills
it then. `python -m tests.measure` makes data files of it.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parent.parent.parent
_WITHOUT_A_DISK = ("modelcache.examine", "modelcache.isolation", "modelcache.sandbox")


class _Measure:
    """Keeps what was measured, and puts it where it is found."""

    def __init__(self) -> None:
        from coverage import Coverage

        self._folder = os.open(_PROJECT, os.O_RDONLY | os.O_DIRECTORY)
        self._write, self._exit = os.write, os._exit
        self._name = uuid.uuid4().hex
        self._busy = threading.local()
        if not Coverage.current():
            Coverage(config_file=str(_PROJECT / "pyproject.toml")).start()
        os.register_at_fork(before=self.save, after_in_child=self.rename)
        setattr(os, "write", self.write)  # noqa: B010  # mypy knows better than to let it be assigned
        setattr(os, "_exit", self.exit)  # noqa: B010

    def rename(self) -> None:
        """Let a fork have a file of its own."""
        self._name = uuid.uuid4().hex

    def save(self) -> None:
        """Put down what was measured so far."""
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            content = _measured().dumps()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            beside, name = f".coverage-new.{self._name}", f".coverage-cut.{self._name}"
            file = os.open(beside, flags, 0o600, dir_fd=self._folder)
            while content:
                content = content[self._write(file, content) :]
            os.close(file)
            os.rename(beside, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        finally:
            self._busy.now = False

    def write(self, fd: int, data: Any) -> int:
        """Save, then speak."""
        self.save()
        return self._write(fd, data)

    def exit(self, code: int) -> None:
        """Save, then go."""
        self.save()
        self._exit(code)


def _measured() -> Any:
    """Return what was measured; kept in memory, as there is no disk."""
    from coverage import Coverage

    current: Any = Coverage.current()
    if not current._no_disk:
        current._init_data("")
        current._no_disk = current._data._no_disk = True
        current._data._choose_filename()
    return current.get_data()


if "-c" in sys.orig_argv and any(name in word for name in _WITHOUT_A_DISK for word in sys.orig_argv):
    _Measure()
