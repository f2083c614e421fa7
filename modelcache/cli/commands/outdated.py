"""`outdated`: which pins have a newer commit, and what each would change; no weights are fetched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelcache.cli import messages, progress
from modelcache.cli.changes_text import block, difference_fields, text_lines
from modelcache.cli.options import NetworkOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.cli.wiring import run_context
from modelcache.core.text import escape_lines
from modelcache.core.update import ModelUpdate, UpdateState
from modelcache.pipeline.outdated import find_updates
from modelcache.pipeline.pins import pins_to_compare, read_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(NetworkOptions):
    """The options of `outdated`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    json: bool = switch("--json", help="print JSON")


def run(options: Options, reporter: LineReporter) -> None:
    """Ask the Hub for the newest commit of each pinned model, and print a block for each."""
    wanted, pins = pins_to_compare(options.project, options.ids)
    context = run_context(options, reporter, read_policy(options.manifest))
    updates = find_updates(wanted, pins, context)
    if options.json:
        progress.show(escape_lines(json.dumps([_fields(update) for update in updates], indent=1)))
        return
    for update in updates:
        for line in block(update.state, update.kind, update.id, _lines(update)):
            progress.show_row(line)
    counts = Counter(str(update.state) for update in updates)
    counted = ", ".join(f"{counts[state]} {state}" for state in UpdateState if counts[state])
    reporter.line("ready", f"{messages.models(len(updates))}: {counted or 'the manifest lists none'}.", **counts)


def _lines(update: ModelUpdate) -> Iterator[str]:
    if update.state is UpdateState.DIRECTORY:
        yield "from a directory: `cache-models lock` compares it"
        return
    if update.commit:
        gone = ", which is not on the Hub any more" if update.commit_is_gone else ""
        yield f"{update.commit[:12]} {update.date}".rstrip() + f"  pinned{gone}"
    if update.newest and update.newest != update.commit:
        yield f"{update.newest[:12]} {update.newest_date}".rstrip() + f"  newest of {update.branch}"
    if update.renamed:
        yield f"renamed    {update.renamed}"
    if update.reason:
        yield update.reason
    elif update.difference and (update.state is UpdateState.OUTDATED or not update.difference.is_empty):
        yield from text_lines(update.difference, update.kind)


def _fields(update: ModelUpdate) -> dict[str, object]:
    """Return an update for JSON."""
    return {
        "kind": str(update.kind),
        "id": update.id,
        "state": str(update.state),
        "commit": update.commit,
        "date": update.date,
        "branch": update.branch,
        "newest": update.newest,
        "newest_date": update.newest_date,
        "reason": update.reason,
        "renamed": update.renamed,
        "commit_is_gone": update.commit_is_gone,
        **difference_fields(update.difference, update.kind),
    }
