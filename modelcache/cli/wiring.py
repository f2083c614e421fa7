"""From options to the dependencies of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from modelcache.cli.options import TransferOptions
from modelcache.cli.progress import LineReporter
from modelcache.pipeline.context import RunContext
from modelcache.sources.hub_environment import LazyHub, connect
from modelcache.store.inspect import stamped_in
from modelcache.store.layout import Places
from modelcache.system.limits import affordable
from modelcache.transfer.retry import RetryPolicy


def run_context(options: TransferOptions, reporter: LineReporter, other_root: Path | None = None) -> RunContext:
    """Return the dependencies of a run; models in `other_root` are copied instead of fetched."""
    policy, jobs = RetryPolicy(timeout=options.timeout, retries=options.retries), affordable(options.jobs)
    return RunContext(
        places=Places.below(options.root),
        reporter=reporter,
        hub=LazyHub(partial(connect, policy, reporter, jobs)),
        manifest_folder=options.manifest.parent,
        stamped=stamped_in(options.root),
        jobs=jobs,
        policy=policy,
        keeps=not options.dry_run,
        other_root=other_root,
    )
