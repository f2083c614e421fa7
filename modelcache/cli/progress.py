"""Progress on stderr: lines and bars for people, JSON objects for programs. Stdout carries data."""

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
from modelcache.core.errors import StorageError
from modelcache.core.names import DIGEST
from modelcache.core.plan import Step
from modelcache.core.redact import redact
from modelcache.core.text import escape_lines, size_in_words
from modelcache.fastpath import detach


class LineReporter:
    """Plain lines: one for each finished model, and one every few seconds while bytes arrive; none without a stream."""

    def __init__(self, out: TextIO | None, interval: float = 5.0) -> None:
        self._out = out
        self._interval = interval
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._done = 0
        self._began = self._printed = 0.0

    def event(self, name: str, text: str, /, **fields: object) -> None:
        """Print an event as one row, whatever its text contains."""
        row = f"  {name:<8} {text}".replace("\n", "\\n")
        self._print({"event": name, **fields}, escape_lines(row))

    def line(self, name: str, text: str, /, **fields: object) -> None:
        """Print a line as it is."""
        self._print({"event": name, **fields}, text)

    def begin(self, step: Step) -> None:
        """Start counting the bytes of a model."""
        with self._lock:
            self._step, self._done = step, 0
            self._began = self._printed = time.monotonic()

    def advance(self, count: int) -> None:
        """Count bytes; print the progress every few seconds."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._step is None or now - self._printed < self._interval:
                return
            self._printed = now
            step, done, rate = self._step, self._done, self._done / (now - self._began)
        total = step.model.size_to_fetch
        left = (total - done) / rate if rate > 0 else 0.0
        text = (
            f"  {step.action:<8} {step.model.id}  {done * 100 // max(total, 1)} %"
            f"  {size_in_words(done)} of {size_in_words(total)}  {size_in_words(rate)}/s  {left:.0f} s left"
        )
        fields = {"model": step.model.id, "bytes": done, "total": total, "rate": round(rate), "left": round(left)}
        self._print({"event": "progress", **fields}, text)

    def end(self, step: Step, seconds: float) -> None:
        """Print the row of a published model."""
        with self._lock:
            self._step = None
        model = step.model
        text = f"  {step.action:<8} {pinned_row(model)} {seconds:5.1f} s"
        fields = {"model": model.id, "files": len(model.files), "bytes": model.size, "seconds": round(seconds, 3)}
        self._print({"event": str(step.action), **fields}, text)

    def close(self) -> None:
        """Do nothing."""

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


class BarReporter(LineReporter):
    """A terminal: a bar while bytes arrive, with rate and time left."""

    _out: TextIO

    def begin(self, step: Step) -> None:
        """Show the bar of a model."""
        from tqdm import tqdm

        self.close()
        super().begin(step)
        self._bar: tqdm[Any] = tqdm(
            total=step.model.size_to_fetch,
            desc=f"  {step.action:<8} {step.model.id}",
            unit="B",
            unit_scale=True,
            leave=False,
            file=self._out,
            dynamic_ncols=True,
        )

    def advance(self, count: int) -> None:
        """Move the bar."""
        with self._lock:
            self._bar.update(count)

    def end(self, step: Step, seconds: float) -> None:
        """Replace the bar by one row."""
        self.close()
        super().end(step, seconds)

    def close(self) -> None:
        """Remove the bar of a model that has failed."""
        if hasattr(self, "_bar"):
            self._bar.close()

    def _print(self, fields: dict[str, Any], text: str) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(redact(escape_lines(text)), file=self._out)
        except (OSError, ValueError):
            detach(self._out)


def make_reporter(log_format: str, *, quiet: bool, out: TextIO | None = None) -> LineReporter:
    """Return the reporter for this format and stream."""
    out = out or sys.stderr
    if quiet or out is None:  # Python has no stderr when it was started without one
        return QuietReporter()
    if log_format == "json":
        return JsonReporter(out)
    if log_format == "auto" and out.isatty():
        return BarReporter(out)
    return LineReporter(out)


def write_line(text: str, out: TextIO | None) -> None:
    """Print a line for people. A broken stream is no error: the exit code still reports the result."""
    if out is not None:
        try:
            out.write(f"{redact(escape_lines(text))}\n")  # in one call: other threads print, too
            out.flush()
        except (OSError, ValueError):
            detach(out)


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
