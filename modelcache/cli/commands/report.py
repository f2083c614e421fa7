"""`report`: print what is shipped, for reviewers and programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from modelcache.cli import progress
from modelcache.cli.options import ProjectOptions, option
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import UsageError
from modelcache.core.model_report import ReportedModel
from modelcache.core.text import escape, escape_lines
from modelcache.formats import report_json, report_markdown
from modelcache.pipeline.report import report_models

_EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ProjectOptions):
    """The options of `report`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    format: str = option(
        "--format",
        default="md",
        choices=("md", "json", "cyclonedx"),
        help="md: a page to read; json: every fact; cyclonedx: an ML-BOM of CycloneDX 1.6 (default: md)",
    )


def run(options: Options, reporter: LineReporter) -> None:
    """Print the report; if a model on disk is not as pinned, print none."""
    del reporter
    formatted = _format(options.format, os.environ)
    progress.show(escape_lines(formatted(report_models(options.project, options.ids))))


def _format(name: str, environ: Mapping[str, str]) -> Callable[[Sequence[ReportedModel]], str]:
    """Return the function that writes a report in a format, before any byte of a model is read.

    Raises:
        UsageError: the library of CycloneDX is not installed; or a date is wrong.

    """
    if name == "json":
        return report_json.format_report
    if name == "md":
        return report_markdown.format_report
    try:
        from modelcache.formats import report_cyclonedx
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("modelcache"):
            raise
        message = f"--format cyclonedx needs the package cyclonedx-python-lib: {error.name} is missing"
        raise UsageError(message, hint="Install the extra: `pip install 'cache-models[report]'`.") from error
    return partial(report_cyclonedx.format_report, timestamp=_timestamp(environ.get(_EPOCH, "")))


def _timestamp(seconds: str) -> str:
    """Return the date of SOURCE_DATE_EPOCH as ISO 8601; nothing where it is not set.

    Raises:
        UsageError: it is no number of seconds.

    """
    if not seconds:
        return ""
    with suppress(ValueError, OverflowError, OSError):  # of a year that is too late
        if seconds.isascii() and seconds.isdecimal():
            return datetime.fromtimestamp(int(seconds), UTC).isoformat()
    message = f"{_EPOCH} is {escape(seconds, 100)!r}, and no number of seconds since 1970"
    raise UsageError(message, hint=f"Unset it, or set it as in `{_EPOCH}=$(git log -1 --format=%ct)`.")
