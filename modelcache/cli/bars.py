"""Progress on a terminal: its last lines show the model that is being written, and the whole run.

tqdm draws them. rich would draw them as well, and was weighed: four more packages (1.7 MB of wheels, 13 MB on disk) in
an init image that hardly ever has a terminal, and a cursor that stays hidden after `kill -9`.
"""

from __future__ import annotations

from typing import NoReturn, TextIO

from tqdm import tqdm

from modelcache.cli.meter import Meter
from modelcache.cli.progress import LineReporter
from modelcache.cli.terminal import coloured, folded, width_of
from modelcache.core.plan import Step
from modelcache.core.redact import redact
from modelcache.core.text import duration_in_words, shorten
from modelcache.fastpath import detach

_FOR_CONTROL_C = 3
"""Columns left free: a terminal writes ^C behind the line, and would break it."""


class BarReporter(LineReporter):
    """Draws up to three lines: the model, how far it is, how far the run is; or what the run waits for.

    Lines that stay are printed above them.
    """

    clear = b"\r\x1b[J"
    _out: TextIO

    def __init__(self, out: TextIO, interval: float = 0.1) -> None:
        super().__init__(out, interval)
        self._title: tqdm[NoReturn] | None = None
        self._bar_of_one: tqdm[NoReturn] | None = None
        self._bar_of_all: tqdm[NoReturn] | None = None
        self._waits = False

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
            if not self._waits:
                self.close()
                self._waits, self._title = True, self._line(0, "{desc}")
            if self._title:
                head, tail = f"  {'wait':<8} ", f", {duration_in_words(seconds)}"
                self._title.set_description_str(head + shorten(text, self._width() - len(head + tail)) + tail)

    def close(self) -> None:
        """Remove what is drawn."""
        with self._lock:
            for line in (self._bar_of_all, self._bar_of_one, self._title):
                if line is not None:
                    line.close()
            self._title = self._bar_of_one = self._bar_of_all = None
            self._waits = False

    def _redraw(self) -> None:
        """Draw other lines than before."""
        self.close()
        if self._step:
            self._title, self._bar_of_one = self._line(0, "{desc}"), self._line(1, "{desc}{bar}", self._one)
        if self._all and self._all.total and (self._models > 1 or not self._step):
            self._bar_of_all = self._line(2 if self._step else 0, "{desc}{bar}", self._all)
        self._report_progress()

    def _report_progress(self) -> None:
        """Let the lines show how far the run is; the first one is drawn last, because the cursor stays there."""
        if self._waits:
            self._redraw()
            return
        if self._bar_of_all is not None and self._all:
            done = f"{self._models - self._models_left} of {self._models} models" if self._models > 1 else ""
            self._draw(self._bar_of_all, self._all, self._name, done)
        if self._bar_of_one is not None:
            self._draw(self._bar_of_one, self._one)
        if self._title is not None and self._step:
            head = f"  {self._step.action:<8} "
            self._title.set_description_str(head + shorten(self._step.model.id, self._width() - len(head)))

    def _line(self, position: int, shape: str, meter: Meter | None = None) -> tqdm[NoReturn]:
        total = max(meter.total, 1) if meter else 1
        return tqdm(total=total, bar_format=shape, position=position, leave=False, file=self._out, ncols=self._width())

    def _draw(self, line: tqdm[NoReturn], meter: Meter, name: str = "", models: str = "") -> None:
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
                tqdm.write(row, file=self._out)
        except (OSError, ValueError):
            detach(self._out)
