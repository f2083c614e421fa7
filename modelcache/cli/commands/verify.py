"""`verify`: compare every model with its pin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelcache.cli import messages
from modelcache.cli.options import ProjectOptions, option, switch
from modelcache.cli.progress import LineReporter
from modelcache.core.errors import raise_all
from modelcache.core.text import join_names
from modelcache.pipeline.verify import intact_models, missing_errors, pins_without_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ProjectOptions):
    """The options of `verify`."""

    ids: Sequence[str] = option(default=(), nargs="*", metavar="ID", help="only these models (default: all)")
    quick: bool = switch("--quick", help="compare names, sizes and times; read only files that look changed")


def run(options: Options, reporter: LineReporter) -> None:
    """Compare every model with its pin; report all differences."""
    pins, absent = pins_without_network(options.project, options.ids, fitting=options.locked)
    errors = missing_errors(absent, options.project)
    lacking: list[str] = []
    for model in intact_models(
        pins, options.project, errors, quick=options.quick, without_view=lacking, reporter=reporter
    ):
        reporter.event("ok", messages.pinned_row(model), model=model.id)
    if lacking:
        text = f"not in the Hub view: {join_names(lacking)}. Programs find them by their paths alone"
        reporter.event("note", f"{text}; `cache-models sync` adds them", models=lacking)
    raise_all(errors)
    compared = "names, sizes and times" if options.quick else "every byte"
    reporter.line("ready", f"{messages.models(len(pins))} in {options.root}: {compared} as pinned.", models=len(pins))
