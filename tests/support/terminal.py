"""A real terminal (a pty) for a process, and the screen that a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pyte

_LONGEST = 300.0
_WIDE = 400
"""The screen is drawn wider than the process believes: a line beyond its width would have been broken."""


Run = tuple[int, str, str, bool]
"""Characters of one look: where they begin, the text, its colour, and whether it is bold."""


class Terminal:
    """Runs a process in a terminal of some columns."""

    def __init__(self, command: Sequence[str], *, columns: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.columns = columns
        self.raw = b""
        self._screen = pyte.Screen(_WIDE, 60)
        self._stream = pyte.ByteStream(self._screen)
        self._fd, inner = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # it becomes its controlling terminal, which sends it Ctrl-C
            cwd=folder,
            env={**inherited, "TERM": "xterm-256color", **environment},
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._fd, keys)

    def lines(self) -> list[str]:
        """The screen now: its lines up to the last one that holds something."""
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def runs(self) -> list[list[Run]]:
        """The same lines as runs of one look: where it begins, its text, its colour, and whether it is bold."""
        found = []
        for row, line in enumerate(self.lines()):
            characters = [self._screen.buffer[row][column] for column in range(len(line))]
            looks = groupby(enumerate(characters), key=lambda one: (one[1].fg, one[1].bold))
            runs = [(list(run), *look) for look, run in looks]
            found.append([(run[0][0], "".join(one.data for _, one in run), fg, bold) for run, fg, bold in runs])
        return found

    def until(self, seen: Callable[[list[str]], object], seconds: float = 60.0) -> list[str]:
        """Read until the screen is as wanted; return it. No line of it may be wider than the terminal."""
        limit = time.monotonic() + seconds
        while not seen(self.lines()):
            assert time.monotonic() < limit, "\n".join(self.lines())
            if not self._read():
                assert seen(self.lines()), "\n".join(self.lines())
        return self.lines()

    def finish(self, *, narrow: bool = False) -> tuple[int, list[str]]:
        """Read to the end; return the exit code and the screen that is left. A `narrow` terminal may break lines."""
        limit = time.monotonic() + _LONGEST
        while self._read(narrow=narrow):
            assert time.monotonic() < limit, "\n".join(self.lines())
        return self.process.wait(), self.lines()

    def _read(self, *, narrow: bool = False) -> bool:
        """Read what is there, waiting for some; False at the end."""
        ready, _, _ = select.select([self._fd], [], [], 1.0)
        if not ready:
            return True
        try:
            content = os.read(self._fd, 1 << 16)
        except OSError:  # Linux has no other end of a pty
            content = b""
        self.raw += content
        self._stream.feed(content)
        # A path may be wider than any terminal, and stands alone then.
        too_wide = [line for line in self.lines() if len(line) > self.columns and len(line.split()) > 1]
        assert narrow or not too_wide, too_wide
        return bool(content)
