"""Measures the process that `check` starts, and its forks: it gets no environment, cannot write, and is killed.

Python imports this at its start, wherever PYTHONPATH names this directory. The measurements go into a file that was
opened before there was a sandbox, and that is kept open in it; they go before the process speaks, since its reader
kills it then. `python -m tests.support.measure` makes data files of it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[3]
_WITHOUT_A_DISK = ("modelcache.check.worker", "modelcache.check.confine.isolation", "modelcache.check.confine.sandbox")


class _Measure:
    """Keeps what was measured, and puts it where it is found."""

    def __init__(self) -> None:
        from coverage import Coverage

        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(_PROJECT / f".coverage-cut.{uuid.uuid4().hex}", flags, 0o600)
        self._file = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 500)  # the low ones are given away
        os.close(opened)
        self._write, self._exit, self._closerange = os.write, os._exit, os.closerange
        self._name = uuid.uuid4().hex
        self._busy = threading.local()
        if not Coverage.current():
            Coverage(config_file=str(_PROJECT / "pyproject.toml")).start()
        os.register_at_fork(before=self.save, after_in_child=self.rename)
        setattr(os, "write", self.write)  # noqa: B010  # mypy knows better than to let it be assigned
        setattr(os, "_exit", self.exit)  # noqa: B010
        setattr(os, "closerange", self.closerange)  # noqa: B010

    def rename(self) -> None:
        """Let a fork have a file of its own."""
        self._name = uuid.uuid4().hex

    def save(self) -> None:
        """Put down what was measured so far; of each process the last measurement counts."""
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            content = _measured().dumps()
            self._write(self._file, f"{self._name} {len(content):08x}\n".encode() + content)
        finally:
            self._busy.now = False

    def write(self, fd: int, data: Any) -> int:
        """Save, then speak."""
        self.save()
        return self._write(fd, data)

    def closerange(self, low: int, high: int) -> None:
        """Close all but the file."""
        self._closerange(low, self._file)
        self._closerange(max(low, self._file + 1), high)

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
