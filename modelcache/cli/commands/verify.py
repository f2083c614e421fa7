"""`verify`: compare every model with its pin."""

from __future__ import annotations

from modelcache.cli import messages
from modelcache.cli.options import Options
from modelcache.cli.progress import Report
from modelcache.core.errors import raise_all
from modelcache.pipeline.verify import not_there, pins_offline, whole_of


def run_verify(options: Options, voice: Report) -> None:
    """Compare every model with its pin; tell every difference of all of them."""
    pins, absent = pins_offline(options.project, fitting=options.locked)
    errors = not_there(absent, options.project)
    for model in whole_of(pins, options.project, errors, quick=options.quick):
        voice.say("ok", messages.pinned_row(model), model=model.id)
    raise_all(errors)
    compared = "names, sizes and times" if options.quick else "every byte"
    voice.line("ready", f"{messages.models(len(pins))} in {options.root}: {compared} as pinned.", models=len(pins))
