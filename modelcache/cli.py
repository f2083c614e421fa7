"""From a command to an exit code: every failure is told once, in words, and only here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from modelcache import report
from modelcache.commands import COMMANDS
from modelcache.errors import CacheModelsError
from modelcache.options import Options

_TERMINATION_LOG = Path("/dev/termination-log")


def run(options: Options) -> int:
    """Carry out one command; return its exit code, with the reason told on stderr."""
    voice = report.make_report(options.log_format, quiet=options.quiet)
    try:
        with _ending_at_once():
            COMMANDS[options.command](options, voice)
        return 0
    except CacheModelsError as error:
        lines = report.words_of(error)
        _last_words(lines, options.log_format, error.exit_code)
        return error.exit_code
    except ModuleNotFoundError:
        raise  # `main` says what to install
    except BrokenPipeError:  # whoever read our stdout has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  # the one place that meets bugs
        traceback.print_exc()
        _last_words([f"error: a bug in cache-models: {type(error).__name__}: {error}"], options.log_format, 70)
        return 70


def _last_words(lines: Sequence[str], log_format: str, exit_code: int) -> None:
    """Tell why it ends, where `kubectl describe pod` finds it too."""
    if log_format == "json":
        print(json.dumps({"event": "error", "exit_code": exit_code, "text": "\n".join(lines)}), file=sys.stderr)
    else:
        print("\n".join(lines), file=sys.stderr)
    if _TERMINATION_LOG.exists():
        with suppress(OSError):
            _TERMINATION_LOG.write_text("\n".join(lines)[:4096], errors="backslashreplace")


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """End on a signal without unwinding: the disk is resumable at any instant, so there is nothing to clean up."""

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"interrupted; run it again to go on where it stopped\n")
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
