"""Words for people and objects for programs. Everything goes to stderr; stdout carries data."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from modelcache.check import Surroundings, Verdict
from modelcache.errors import CacheModelsError, IntegrityError, SeveralModelsError
from modelcache.plan import count_actions
from modelcache.quiet import hush
from modelcache.records import Action, Step, Verification, Voice

_EVERY = 5.0
_MOST_LINES = 40
_PAST = {Action.FETCH: "fetched", Action.REPLACE: "replaced", Action.KEEP: "unchanged"}


class Report(Voice, Protocol):
    """A voice that can also print a line as it is."""

    def line(self, event: str, text: str, **fields: object) -> None:
        """Print `text`, or the fields as an object."""

    def close(self) -> None:
        """Leave nothing half drawn behind."""


class Silence:
    """`--quiet`: nothing but errors, which do not come this way."""

    def say(self, event: str, text: str, **fields: object) -> None:
        """Say nothing."""

    line = say

    def begin(self, step: Step) -> None:
        """Say nothing."""

    def advance(self, count: int) -> None:
        """Say nothing."""

    def end(self, step: Step, seconds: float) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Leave nothing behind."""


class Lines:
    """Plain lines: one a model when it is done, and one every few seconds while it is not."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._done = 0
        self._began = self._told = 0.0

    def say(self, event: str, text: str, **fields: object) -> None:
        """Print a line about something that happened on the way."""
        self._print({"event": event, **fields}, f"  {event:<8} {text}")

    def line(self, event: str, text: str, **fields: object) -> None:
        """Print a line as it is."""
        self._print({"event": event, **fields}, text)

    def begin(self, step: Step) -> None:
        """Begin to count the bytes of a model."""
        with self._lock:
            self._step, self._done = step, 0
            self._began = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count bytes; tell of them now and then."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._step is None or now - self._told < _EVERY:
                return
            self._told = now
            step, done, rate = self._step, self._done, self._done / (now - self._began)
        total = step.model.size_to_fetch
        left = (total - done) / rate if rate > 0 else 0.0
        text = (
            f"  {step.action:<8} {step.model.id}  {done * 100 // max(total, 1)} %  {size(done)} of {size(total)}"
            f"  {size(rate)}/s  {left:.0f} s left"
        )
        fields = {"model": step.model.id, "bytes": done, "total": total, "rate": round(rate), "left": round(left)}
        self._print({"event": "progress", **fields}, text)

    def end(self, step: Step, seconds: float) -> None:
        """Print the line of a model that is published."""
        with self._lock:
            self._step = None
        model = step.model
        text = f"  {step.action:<8} {model.id:<52} {files(len(model.files)):>9} {size(model.size):>9} {seconds:7.1f} s"
        fields = {"model": model.id, "files": len(model.files), "bytes": model.size, "seconds": round(seconds, 3)}
        self._print({"event": str(step.action), **fields}, text)

    def close(self) -> None:
        """Leave nothing half drawn behind."""

    def _print(self, fields: dict[str, Any], text: str) -> None:
        del fields
        tell(text, self._out)


class Objects(Lines):
    """`--log-format json`: one object a line."""

    def _print(self, fields: dict[str, Any], text: str) -> None:
        tell(json.dumps({**fields, "text": text.strip()}, ensure_ascii=False), self._out)


class Bars(Lines):
    """A terminal: a bar while bytes come, with their rate and the time left."""

    def begin(self, step: Step) -> None:
        """Draw the bar of a model."""
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
        """Take the bar away and leave one line."""
        self.close()
        super().end(step, seconds)

    def close(self) -> None:
        """Take a bar away that a failed model left."""
        if hasattr(self, "_bar"):
            self._bar.close()

    def _print(self, fields: dict[str, Any], text: str) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(printable(text), file=self._out)
        except OSError:
            hush(self._out)


def make_report(log_format: str, *, quiet: bool, out: TextIO | None = None) -> Report:
    """Choose how to speak."""
    out = out or sys.stderr
    if quiet or out is None:  # Python has no stderr when it was started without one
        return Silence()
    if log_format == "json":
        return Objects(out)
    if log_format == "auto" and out.isatty():
        return Bars(out)
    return Lines(out)


def summary(steps: Sequence[Step], where: Path) -> str:
    """Return the last line of a run, which alone says whether it is ready."""
    counts = count_actions(steps)
    told = [f"{counts[action]} {past}" for action, past in _PAST.items() if counts[action]]
    if not steps:
        return f"0 models ready in {where}."
    if told == [f"{len(steps)} unchanged"]:
        told = ["unchanged"]
    return f"{models(len(steps))} ready in {where}: {', '.join(told)}."


def planned(steps: Sequence[Step]) -> Iterable[str]:
    """Yield a line a model, for --dry-run."""
    for step in steps:
        why = f"  ({step.reason})" if step.reason else ""
        yield f"  {step.action:<8} {step.model.id:<52} {size(step.size):>9}{why}"


def surroundings(told: Surroundings) -> str:
    """Say how a process was cut off that loads models, and with what."""
    libraries = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    return f"network: {told.network}; disk: {told.disk}; {libraries}, imported in {told.seconds:.1f} s"


def row_of(verdict: Verdict) -> str:
    """Return the row of a model that was checked."""
    model = verdict.model
    if not verdict.dimension:
        return f"{model.id:<52} {model.kind:<9}"
    limit = f"max {verdict.limit}" if verdict.limit else "no limit"
    return (
        f"{model.id:<52} {model.kind:<9} {verdict.dimension:>5}  {limit:<9} {verdict.similarity:<9}"
        f" {verdict.seconds:6.1f} s {size(verdict.peak):>8}"
    ).rstrip()


def fields_of(verdict: Verdict) -> dict[str, Any]:
    """Return the same for programs, with every reason."""
    return {
        "model": verdict.model.id,
        "kind": str(verdict.model.kind),
        "dimension": verdict.dimension,
        "limit": verdict.limit,
        "similarity": verdict.similarity,
        "seconds": round(verdict.seconds, 3),
        "peak": verdict.peak,
        "proven": verdict.proven,
        "problems": list(verdict.problems),
    }


def proof(verdicts: Sequence[Verdict], where: Path, *, recorded: bool) -> str:
    """Return the last line of a check, which alone says what is known now."""
    proven = sum(verdict.proven for verdict in verdicts)
    unproven = len(verdicts) - proven
    told = []
    if proven:
        told.append(f"{proven} with the recorded numbers")
    if unproven:
        told.append(
            f"{unproven} unproven (no numbers are recorded{'' if recorded else '; check --record records them'})"
        )
    if recorded:
        told.append(f"the numbers of {len(verdicts)} recorded")
    return f"{models(len(verdicts))} in {where} load with no network: {', '.join(told)}."


def words_of(error: CacheModelsError) -> list[str]:
    """Return the lines that tell an error: what and where, then what to do."""
    if isinstance(error, SeveralModelsError):
        return [line for one in error.errors for line in words_of(one)]
    lines = f"error: {error.message}".split("\n")
    if isinstance(error, IntegrityError):
        lines += differences(error.verification)
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"  and {len(lines) - _MOST_LINES} more"]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return [printable(line) for line in lines]


def printable(text: str) -> str:
    """Return a text without what a terminal would obey: names and messages come from the Hub, too."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def tell(text: str, out: TextIO | None) -> None:
    """Print for people. Nobody listening is no reason to fail: what was done is done, and the exit code says it."""
    if out is not None:
        try:
            out.write(f"{printable(text)}\n")  # in one piece: other threads speak, too
            out.flush()
        except OSError:
            hush(out)


def show(text: str) -> None:
    """Print data to stdout; a reader that has seen enough is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        hush(sys.stdout)


def differences(found: Verification) -> list[str]:
    """Return a line for each difference."""
    return [
        *(f"  missing  {path}" for path in found.missing),
        *(f"  extra    {path}" for path in found.extra),
        *(f"  changed  {one.path}   expected {one.expected}  found {one.found}" for one in found.changed),
    ]


def size(count: float) -> str:
    """Return a number of bytes in decimal units, as the Hub shows them."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def files(count: int) -> str:
    """Return "1 file" or "12 files"."""
    return f"{count} file{'s' * (count != 1)}"


def models(count: int) -> str:
    """Return "1 model" or "5 models"."""
    return f"{count} model{'s' * (count != 1)}"
