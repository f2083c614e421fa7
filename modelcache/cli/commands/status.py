"""`status`: the state of each model, one row a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelcache.cli import messages, progress
from modelcache.cli.options import LockfileOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.core.status import ModelStatus
from modelcache.pipeline.status import index_id_of_ready, read_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(LockfileOptions):
    """The options of `status`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    json: bool = switch("--json", help="print JSON")


def run(options: Options, reporter: LineReporter) -> None:
    """Print one row for each model, and for each directory that is in their place."""
    rows = read_status(options.project, options.ids)
    if options.json:
        progress.show(json.dumps([_fields(row) for row in rows], indent=1))
        return
    for line in messages.status_table(rows):
        progress.show_row(line)


def _fields(row: ModelStatus) -> dict[str, Any]:
    """Return a row for JSON; the id of an index is for programs alone, since small files are read for it."""
    computed = {"path": str(row.path), "state": messages.state(row), "index_id": index_id_of_ready(row)}
    return {**asdict(row), **computed}
