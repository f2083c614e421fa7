"""Progress on stderr: lines for people, JSON objects for programs. Stdout carries data."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from modelcache.cli.messages import pinned_row
from modelcache.cli.meter import Meter
from modelcache.cli.terminal import coloured_error, folded, is_terminal
from modelcache.core.errors import StorageError
from modelcache.core.names import DIGEST
from modelcache.core.plan import Step
from modelcache.core.redact import redact
from modelcache.core.text import duration_in_words, escape_lines
from modelcache.fastpath import detach


class LineReporter:
    """Plain lines: one for each finished model, and one every few seconds while bytes arrive; none without a stream."""

    clear = b""
    """The bytes that remove from a terminal what is drawn there, for a signal handler."""
    stopped = False
    """Set by a signal handler, so that other threads draw nothing any more."""

    def __init__(self, out: TextIO | None, interval: float = 5.0) -> None:
        self._out = out
        self._interval = interval
        self._lock = threading.RLock()
        self._step: Step | None = None
        self._one = Meter(0)
        """Of the model that was begun."""
        self._all: Meter | None = None
        self._name = ""
        self._models = self._models_left = 0
        self._printed = time.monotonic()

    def event(self, name: str, text: str, /, **fields: object) -> None:
        """Print an event as one row, whatever its text contains."""
        row = f"  {name:<8} {text}".replace("\n", "\\n")
        self._print({"event": name, **fields}, escape_lines(row))

    def line(self, name: str, text: str, /, **fields: object) -> None:
        """Print a line as it is."""
        self._print({"event": name, **fields}, text)

    def expect(self, name: str, size: int, models: int = 0) -> None:
        """Note what is left of the whole run; nothing, when it is done. A model that was begun has ended, or failed."""
        with self._lock:
            self._step = None
            if not size and not models:
                self._all = None
                return
            if self._all is None:
                self._name, self._models, self._all = name, models, Meter(size)
                self._printed = time.monotonic()
            self._models_left = models
            self._all.advance(0, found=self._all.total - size - self._all.done)

    def begin(self, step: Step) -> None:
        """Start counting the bytes of a model."""
        with self._lock:
            self._step, self._one = step, Meter(step.model.size_to_fetch)
            self._printed = time.monotonic()

    def advance(self, count: int, *, found: bool = False) -> None:
        """Count bytes; print the progress every few seconds."""
        with self._lock:
            for meter in (self._one, self._all):
                if meter:
                    meter.advance(0 if found else count, found=count if found else 0)
            if self._is_due():
                self._report_progress()

    def end(self, step: Step, seconds: float) -> None:
        """Print the row of a published model."""
        with self._lock:
            self._step = None
        model = step.model
        text = f"  {step.action:<8} {pinned_row(model)} {seconds:5.1f} s"
        fields = {"model": model.id, "files": len(model.files), "bytes": model.size, "seconds": round(seconds, 3)}
        self._print({"event": str(step.action), **fields}, text)

    def waiting(self, text: str, seconds: float) -> None:
        """Print every few seconds what the run waits for; nothing while a model is on its way, which shows itself."""
        with self._lock:
            if self._step is None and seconds >= self._interval and self._is_due():
                self.event("wait", f"{text}, for {duration_in_words(seconds)}", seconds=round(seconds))

    def close(self) -> None:
        """Do nothing."""

    def _is_due(self) -> bool:
        now = time.monotonic()
        if due := now - self._printed >= self._interval:
            self._printed = now
        return due

    def _report_progress(self) -> None:
        """Print a line: of the model that was begun, and behind that of the whole, or of the whole alone."""
        meter = self._one if self._step else self._all
        if meter is None:
            return
        fields: dict[str, Any] = {"bytes": meter.done, "total": meter.total, "rate": round(meter.rate)}
        fields |= {"left": round(meter.left)}
        cells = [cell for cell in meter.cells() if cell]
        if self._step:
            head, fields = f"  {self._step.action:<8} {self._step.model.id}", {"model": self._step.model.id, **fields}
        else:
            head, fields = f"  {self._name:<8}", {"of": self._name, **fields}
        if self._step and self._all and self._models > 1:
            cells.append(f"({self._all_in_words()})")
            fields |= {"all_bytes": self._all.done, "all_total": self._all.total, "models_left": self._models_left}
        self._print({"event": "progress", **fields}, "  ".join([head, *cells]))

    def _all_in_words(self) -> str:
        """Return how much of the whole run is done."""
        percent, _, _, left = self._all.cells() if self._all else ("", "", "", "")
        done = f"{self._models - self._models_left} of {self._models} models done, {percent}"
        return f"{done}, {left}" if left else done

    def _print(self, fields: dict[str, Any], text: str) -> None:
        del fields
        write_line(text, self._out)


class QuietReporter(LineReporter):
    """`--quiet`: prints nothing; errors are printed elsewhere."""

    def __init__(self) -> None:
        super().__init__(None)


class JsonReporter(LineReporter):
    """`--log-format json`: one object on each line."""

    def _print(self, fields: dict[str, Any], text: str) -> None:
        write_line(json.dumps({**fields, "text": text.strip()}), self._out)


def make_reporter(log_format: str, *, quiet: bool, out: TextIO | None = None) -> LineReporter:
    """Return the reporter for this format and stream."""
    out = out or sys.stderr
    if quiet or out is None:  # Python has no stderr when it was started without one
        return QuietReporter()
    if log_format == "json":
        return JsonReporter(out)
    if log_format == "auto" and is_terminal(out):
        from modelcache.cli.bars import BarReporter  # few runs have a terminal

        return BarReporter(out)
    return LineReporter(out)


def write_error(text: str) -> None:
    """Print an error to stderr; on a terminal no line is wider than that, and the first word is in colour."""
    if is_terminal(sys.stderr):
        lines = folded(redact(text), sys.stderr).split("\n")
        _write("\n".join(map(coloured_error, lines)), sys.stderr)
    else:
        write_line(text, sys.stderr)


def write_line(text: str, out: TextIO | None) -> None:
    """Print a line for people. A broken stream is no error: the exit code still reports the result."""
    _write(redact(escape_lines(text)), out)


def _write(text: str, out: TextIO | None) -> None:
    if out is not None:
        try:
            out.write(f"{text}\n")  # in one call: other threads print, too
            out.flush()
        except (OSError, ValueError):
            detach(out)


def show_row(text: str) -> None:
    """Print a row to stdout; on a terminal it is broken where it is too wide.

    Raises:
        StorageError: stdout cannot be written.

    """
    show(folded(text, sys.stdout) if is_terminal(sys.stdout) else escape_lines(text))


def show(text: str) -> None:
    """Print data to stdout; a path as the bytes of the file system, whatever the locale.

    Raises:
        StorageError: stdout cannot be written. A closed pipe is no error.

    """
    if sys.stdout is None:  # closed before the start
        return
    # A digest holds no secret, but a short one may stand in it by chance.
    line = f"{text if DIGEST.fullmatch(text) else redact(text)}\n"
    with _stdout_errors():
        sys.stdout.flush()  # also the output of a program that calls `main`
        if (raw := getattr(sys.stdout, "buffer", None)) is None:
            sys.stdout.write(line)
        else:
            raw.write(_bytes_of(line))
        sys.stdout.flush()


def finish() -> None:
    """Flush both streams: argparse does not, and Python would exit with 120 if its own flush failed.

    Raises:
        StorageError: stdout cannot be written.

    """
    if sys.stderr is not None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            detach(sys.stderr)
    if sys.stdout is not None:
        with _stdout_errors():
            sys.stdout.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        detach(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or error
            hint = "Check where the output goes, then run this again."
            raise StorageError(f"cannot write to stdout: {reason}", hint=hint) from error


def _bytes_of(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # not a path of this file system, and not in the encoding of this locale
        return text.encode(errors="backslashreplace")
