"""`status`: the state of each model, one row a model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from modelcache.cli import messages, progress
from modelcache.cli.options import LockfileOptions, switch
from modelcache.cli.progress import LineReporter
from modelcache.core.text import escape_lines
from modelcache.pipeline.pins import matching_pins, read_lock, read_manifest
from modelcache.store.inspect import stamped_in
from modelcache.store.layout import Places
from modelcache.store.lookup import status_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(LockfileOptions):
    """The options of `status`."""

    json: bool = switch("--json", help="print JSON")


def run(options: Options, reporter: LineReporter) -> None:
    """Print one row for each model."""
    manifest, places = read_manifest(options.manifest), Places.below(options.root)
    pins = matching_pins(manifest, read_lock(options.lockfile), places)
    stamped = stamped_in(options.root)
    homes = {model: places.home(model.kind, model.id) for model in manifest}
    rows = [status_row(model, pins.get(model), places, stamped(home)) for model, home in homes.items()]
    if options.json:
        progress.show(json.dumps([asdict(one) for one in rows], indent=1))
        return
    for one in rows:
        line = f"{one.kind:<10} {one.id:<52} {one.commit[:12]:<12} {messages.size(one.size):>9}  {one.state}"
        progress.show(escape_lines(line))
