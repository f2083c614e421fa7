"""Benchmarks: whole processes, peers in turn, medians and ratios. Times on a shared machine mean little."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from scripts.benches.bed import Bed
from scripts.benches.cold import cold, small
from scripts.benches.exported import export, read_back
from scripts.benches.far import far, held
from scripts.benches.goals import Scenario, as_markdown, as_text, from_json, machine_of, to_json
from scripts.benches.images import moved, sizes
from scripts.benches.later import later, later_on
from scripts.benches.local import convert, verify
from scripts.benches.quiet import many, quiet
from scripts.benches.registry import from_registry, push, pushed_later
from scripts.benches.scale import scale
from scripts.benches.start import start
from scripts.benches.summary import as_summary, goals_met
from tests.support.hub import StandInHub

SCENARIOS: Mapping[str, Callable[[Bed], Scenario]] = {
    "quiet": quiet,
    "many": many,
    "cold": cold,
    "small": small,
    "far": far,
    "held": held,
    "later": later,
    "later-xfs": partial(later_on, "xfs"),
    "later-btrfs": partial(later_on, "btrfs"),
    "verify": verify,
    "convert": convert,
    "start": start,
    "images": sizes,
    "export": export,
    "from-image": read_back,
    "pushes": moved,
    "push": push,
    "push-later": pushed_later,
    "from-registry": from_registry,
    "scale": scale,
}
TABLES: Mapping[str, Callable[[Sequence[Scenario]], str]] = {
    "table": as_markdown,
    "summary": lambda scenarios: f"{as_summary(scenarios)}\n{goals_met(scenarios)} are met.\n",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one scenario or all of them, or print the table of earlier figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "scenario", choices=["all", *TABLES, *SCENARIOS], help="`table` and `summary` print the figures of --json"
    )
    parser.add_argument("--quick", action="store_true", help="small models, few rounds; goals are for large models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(argv)
    if options.scenario in TABLES:
        if options.json is None:
            parser.error(f"{options.scenario} needs --json FILE")
        print(TABLES[options.scenario](from_json(options.json.read_text(encoding="utf-8"))[0]), end="")
        return 0
    names = list(SCENARIOS) if options.scenario == "all" else [options.scenario]
    done = []
    print(f"{machine()}\n", flush=True)
    if options.quick:
        print(
            "quick: small models and few rounds, so fixed costs weigh more than usual; the goals are for large models\n"
        )
    for name in names:
        with tempfile.TemporaryDirectory(prefix="cache-models-bench-") as folder, StandInHub() as hub:
            scenario = SCENARIOS[name](Bed(Path(folder), hub, options.quick))
        print(as_text(scenario), flush=True)
        done.append(scenario)
        if options.json:
            options.json.write_text(to_json(done, machine()), encoding="utf-8")
    return 0


def machine() -> str:
    """Describe the machine and its load average of the last minutes."""
    return machine_of(Path(tempfile.gettempdir()), os.cpu_count() or 1, os.getloadavg()[1])


if __name__ == "__main__":
    sys.exit(main())
