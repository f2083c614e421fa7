"""From options to the dependencies of a run."""

from __future__ import annotations

from modelcache.cli.options import Options
from modelcache.cli.progress import Report
from modelcache.pipeline.context import Tools
from modelcache.sources.hub_environment import lazily
from modelcache.store.inspect import stamped_in
from modelcache.store.layout import Places
from modelcache.system.files import absolute
from modelcache.system.limits import affordable
from modelcache.transfer.retry import Patience


def _tools(options: Options, voice: Report) -> Tools:
    patience, jobs = Patience(timeout=options.timeout, retries=options.retries), affordable(options.jobs)
    return Tools(
        places=Places.below(options.root),
        voice=voice,
        connect=lazily(patience, voice, jobs),
        manifest_folder=absolute(options.manifest).parent,
        stamped=stamped_in(options.root),
        jobs=jobs,
        keeps=not options.dry_run,
        other_root=Places.below(options.other_root) if options.other_root else None,
    )
