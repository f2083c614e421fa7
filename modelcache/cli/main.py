"""From a command line to an exit code. Each error is printed once, and only here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

from modelcache.cli import messages, progress
from modelcache.cli.options import CommonOptions
from modelcache.cli.parser import load_command, log_format_of, parse
from modelcache.core.errors import CacheModelsError, StorageError, UsageError
from modelcache.core.redact import redact
from modelcache.core.text import escape_lines
from modelcache.fastpath import unknown_variables
from modelcache.system.files import storage_errors
from modelcache.system.limits import keep_reserve, limit_met, share_arenas, use_reserve
from modelcache.system.remove_tree import remove_temporary_directories

_REINSTALL = "Install the tool with its dependencies: `pip install .` in its directory."
_REPORT = "Report these lines, with the command and the output of `cache-models --version`."
_A_BUG = 70
_TERMINATION_LOG = Path("/dev/termination-log")


def run(argv: Sequence[str], checkout: str = "") -> int:
    """Run one command line; return its exit code, with the reason on stderr.

    `checkout` is the directory of a `cache_models.py` that runs as a script; see `fastpath.find_manifest`.
    """
    log_format = log_format_of(argv)
    try:
        keep_reserve()
        share_arenas()
        _occupy_standard_descriptors()
        with storage_errors("go on"):
            options = _parsed(argv, checkout)
            if isinstance(options, int):
                return options
            log_format = options.log_format
            reporter = progress.make_reporter(log_format, quiet=options.quiet)
            with _exit_on_signals(reporter), closing(reporter):
                for name, text in unknown_variables(os.environ).items():
                    reporter.event("warning", text, variable=name)
                if options.manifest_note:
                    reporter.event("manifest", options.manifest_note, path=str(options.manifest))
                load_command(options.command).run(options, reporter)
            progress.finish()
        return 0
    except Exception as error:  # noqa: BLE001  # the only place that reports bugs
        use_reserve()
        if fault := _known_cause(error):
            _print_error(messages.error_lines(fault), log_format, fault.exit_code, retryable=fault.retryable)
            return fault.exit_code
        import traceback

        lines = traceback.format_exc().splitlines()
        lines += [f"error: a bug in cache-models: {type(error).__name__}: {error}", f"hint: {_REPORT}"]
        _print_error(lines, log_format, _A_BUG)
        return _A_BUG


def _parsed(argv: Sequence[str], checkout: str) -> CommonOptions | int:
    """Return the options, or the exit code where help or the version has been printed."""
    try:
        return parse(argv, checkout=checkout)
    except SystemExit as ended:
        progress.finish()
        return ended.code if isinstance(ended.code, int) else 2


def _known_cause(error: Exception) -> CacheModelsError | None:
    """Return the error that explains an exception to its user; None for a bug of ours.

    Without memory or descriptors an import fails, a lock cannot be allocated, or a call returns without a result.
    """
    if isinstance(error, CacheModelsError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return UsageError(f"the package {error.name} is missing", hint=_REINSTALL)
    if limit := limit_met(error, "go on"):
        return limit
    if isinstance(error, ImportError) and not (error.name or "").startswith("modelcache"):
        hint = "Check the installation, and the limits of memory and of open files."
        return StorageError(f"cannot load a library: {error}", hint=hint)
    return None


def _occupy_standard_descriptors() -> None:
    """Open /dev/null for each standard stream that is closed, or messages would be written into a file of ours."""
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)


def _print_error(lines: Sequence[str], log_format: str, exit_code: int, *, retryable: bool = False) -> None:
    """Print an error to stderr, and to the termination log, which `kubectl describe pod` shows."""
    text = redact(escape_lines("\n".join(lines)))
    if log_format == "json":
        event = {"event": "error", "exit_code": exit_code, "retryable": retryable, "text": text}
        progress.write_line(json.dumps(event), sys.stderr)
    elif log_format == "auto" and exit_code != _A_BUG:
        progress.write_error(text)
    else:
        progress.write_line(text, sys.stderr)
    if _TERMINATION_LOG.exists():
        with suppress(OSError):
            _TERMINATION_LOG.write_text(text[-4096:], errors="backslashreplace")


@contextmanager
def _exit_on_signals(reporter: progress.LineReporter) -> Iterator[None]:
    """Exit on a signal without unwinding: a root is resumable at any time, so nothing in it needs cleaning up.

    Bytes of the reporter remove what is drawn on a terminal, because the signal may have interrupted the drawing.
    """

    def end(number: int, frame: FrameType | None) -> None:
        reporter.stopped = True
        with suppress(OSError):
            os.write(2, reporter.clear + b"interrupted; run it again to go on where it stopped\n")
        remove_temporary_directories()
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    # A parent that ignores SIGCHLD passes that on, and waiting for a child would then fail.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
