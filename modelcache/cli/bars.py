"""Progress on a terminal: its last lines show the model that is being written, and the whole run.

tqdm draws them. rich would draw them as well, and was weighed: four more packages (1.7 MB of wheels, 13 MB on disk) in
an init image that hardly ever has a terminal, and a cursor that stays hidden after `kill -9`.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

from tqdm import tqdm

from modelcache.cli.meter import Meter
from modelcache.cli.progress import LineReporter
from modelcache.cli.terminal import coloured, folded, width_of
from modelcache.core.plan import Step
from modelcache.core.redact import redact
from modelcache.core.text import duration_in_words, shorten
from modelcache.fastpath import detach
from modelcache.system.threads import start_thread

if TYPE_CHECKING:
    _Bar = tqdm[NoReturn]
else:
    _Bar = tqdm  # it takes no type while it runs

_FOR_CONTROL_C = 3
"""Columns left free: a terminal writes ^C behind the line, and would break it."""
_LONGEST_SILENCE = 1.5
"""Seconds between two reports of one wait, at most."""


class _Line(_Bar):
    """A line that tqdm draws, without a thread of its own, and without a semaphore that other processes could see.

    tqdm takes the default of each argument from TQDM_…, so all that would change or stop the line are given.
    """

    monitor_interval = 0

    def __init__(self, shape: str, total: int, *, position: int, out: TextIO, columns: int, ascii_only: bool) -> None:
        super().__init__(
            total=max(total, 1),
            bar_format=shape,
            position=position,
            file=out,
            ncols=columns,
            nrows=1000,
            ascii=ascii_only,
            leave=False,
            disable=False,
            mininterval=0,
            miniters=0,
            smoothing=0,
            initial=0,
            delay=0,
            desc=None,
            postfix=None,
            colour=None,
            unit_scale=False,
            dynamic_ncols=False,
        )


_Line.set_lock(threading.RLock())


class BarReporter(LineReporter):
    """Draws up to three lines: the model, how far it is, how far the run is; or what the run waits for.

    Lines that stay are printed above them.
    """

    clear = b"\r\x1b[J"
    _out: TextIO

    def __init__(self, out: TextIO, interval: float = 0.1) -> None:
        super().__init__(out, interval)
        self._title: _Line | None = None
        self._bar_of_one: _Line | None = None
        self._bar_of_all: _Line | None = None
        self._waits = False
        self._closed = threading.Event()
        self._ticks = False
        self._waited_at = 0.0

    def expect(self, name: str, size: int, models: int = 0) -> None:
        """Note what is left of the whole run, and draw it."""
        with self._lock:
            before = self._all, self._models_left, self._all and self._all.done
            super().expect(name, size, models)
            if before != (self._all, self._models_left, self._all and self._all.done):
                self._redraw()

    def begin(self, step: Step) -> None:
        """Draw the lines of a model."""
        with self._lock:
            super().begin(step)
            self._redraw()

    def end(self, step: Step, seconds: float) -> None:
        """Replace the lines of a model by its row."""
        with self._lock:
            super().end(step, seconds)
            self._redraw()

    def waiting(self, text: str, seconds: float) -> None:
        """Draw what the run waits for, in the place of the other lines."""
        with self._lock:
            self._waited_at = time.monotonic()
            if self.stopped or self._step is not None or (self._waits and not self._is_due()):
                return
            self._start_ticking()
            if not self._waits:
                self._erase()
                self._waits, self._title = True, self._line(0, "{desc}")
            if self._title:
                head, tail = f"  {'wait':<8} ", f", {duration_in_words(seconds)}"
                self._title.set_description_str(self._fitting(head, text, tail))

    def close(self) -> None:
        """Remove what is drawn; nothing is drawn any more."""
        self._closed.set()
        self._erase()

    def _erase(self) -> None:
        with self._lock:
            for line in (self._bar_of_all, self._bar_of_one, self._title):
                if line is not None:
                    line.close()
            self._title = self._bar_of_one = self._bar_of_all = None
            self._waits = False

    def _redraw(self) -> None:
        """Draw other lines than before."""
        self._erase()
        if self.stopped:
            return
        self._start_ticking()
        if self._step:
            self._title, self._bar_of_one = self._line(0, "{desc}"), self._line(1, "{desc}{bar}", self._one.total)
        if self._all and self._all.total and (self._models > 1 or not self._step):
            self._bar_of_all = self._line(2 if self._step else 0, "{desc}{bar}", self._all.total)
        self._report_progress()

    def _report_progress(self) -> None:
        """Let the lines show how far the run is; the first one is drawn last, because the cursor stays there."""
        if self.stopped:
            return
        if self._waits:
            self._redraw()
            return
        if self._bar_of_all is not None and self._all:
            done = f"{self._models - self._models_left} of {self._models} models" if self._models > 1 else ""
            self._draw(self._bar_of_all, self._all, self._name, done)
        if self._bar_of_one is not None:
            self._draw(self._bar_of_one, self._one)
        if self._title is not None and self._step:
            self._title.set_description_str(self._fitting(f"  {self._step.action:<8} ", self._step.model.id))

    def _start_ticking(self) -> None:
        if not self._ticks:
            self._ticks = bool(start_thread(self._tick))

    def _tick(self) -> None:
        """Draw every second, also while no byte comes: a rate that stands still would be a lie.

        A wait of which nothing is heard any more has ended.
        """
        while not self._closed.wait(1.0):
            with self._lock, suppress(OSError, ValueError):  # the terminal has gone; the next row detaches it
                if not self._waits:
                    self._report_progress()
                elif time.monotonic() - self._waited_at > _LONGEST_SILENCE:
                    self._redraw()

    def _fitting(self, head: str, name: str, tail: str = "") -> str:
        """Return a line with a name that is shortened where it is too wide."""
        short = shorten(name, self._width() - len(head + tail))
        return f"{head}{short if self._can_show('…') else short.replace('…', '~')}{tail}"

    def _can_show(self, character: str) -> bool:
        try:
            character.encode(getattr(self._out, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def _line(self, position: int, shape: str, total: int = 1) -> _Line:
        ascii_only = not self._can_show("█")
        return _Line(shape, total, position=position, out=self._out, columns=self._width(), ascii_only=ascii_only)

    def _draw(self, line: _Line, meter: Meter, name: str = "", models: str = "") -> None:
        """Let a line show percent, bytes, rate and time left; that of all models has their number instead of a rate."""
        percent, size, rate, left = meter.cells()
        line.n, line.ncols = min(meter.done, meter.total), self._width()
        line.set_description_str(f"  {name:<8} {percent:>5}  {size:>17}  {models or rate:>13}  {left:>15}  ")

    def _width(self) -> int:
        return width_of(self._out) - _FOR_CONTROL_C

    def _print(self, fields: dict[str, object], text: str) -> None:
        try:
            row = coloured(folded(redact(text), self._out), str(fields["event"]))
            with self._lock:
                if self._waits:
                    self._redraw()
                _Line.write(row, file=self._out)
        except (OSError, ValueError):
            detach(self._out)
