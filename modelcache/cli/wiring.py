"""From options to the dependencies of a run, and what the commands that pin share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.cli import messages
from modelcache.cli.options import NetworkOptions, TransferOptions
from modelcache.cli.progress import LineReporter
from modelcache.core.interfaces import PublishedModels
from modelcache.core.policy import Policy
from modelcache.core.types import LockedModel
from modelcache.image.reference import Reference
from modelcache.pipeline.context import RunContext
from modelcache.sources.hub_environment import LazyHub, connect
from modelcache.store.inspect import stamped_in
from modelcache.store.layout import Places
from modelcache.system.limits import affordable

if TYPE_CHECKING:
    from modelcache.sources.registry_api import RegistryRepository


def run_context(
    options: NetworkOptions,
    reporter: LineReporter,
    gate: Policy,
    source: PublishedModels | None = None,
    *,
    keeps: bool = False,
) -> RunContext:
    """Return the dependencies of a run; see `RunContext` for `gate`, `source` and `keeps`."""
    policy, jobs = options.policy, affordable(options.jobs)
    return RunContext(
        places=Places.below(options.root),
        reporter=reporter,
        hub=LazyHub(partial(connect, policy, reporter, jobs)),
        manifest_folder=options.manifest.parent,
        stamped=stamped_in(options.root),
        jobs=jobs,
        policy=policy,
        keeps=keeps,
        gate=gate,
        source=source,
    )


def connector(
    options: NetworkOptions, reporter: LineReporter, *, insecure: bool
) -> Callable[[Reference], RegistryRepository]:
    """Return the function that connects to the registry of an image."""

    def connect_to(image: Reference) -> RegistryRepository:
        from modelcache.sources.registry import connect  # it imports the HTTP client

        return connect(image, options.policy, reporter, affordable(options.jobs), insecure=insecure)

    return connect_to


def pin_context(options: TransferOptions, reporter: LineReporter, gate: Policy) -> RunContext:
    """Return the dependencies of a run that pins, and does not fetch models.

    The files that it fetches to hash them are kept for `sync`, below the root. But a user may pin in a repository that
    is no root: there such a run writes models.toml and models.lock, and nothing else.
    """
    root_in_use = _is_named(options.root) or options.project.places.exist
    return run_context(options, reporter, gate, keeps=not options.dry_run and root_in_use)


def report_packages(model: LockedModel, reporter: LineReporter) -> None:
    """Print which packages the code of a model imports, if any."""
    if model.packages:
        text = f"{model.id}: {messages.packages_needed(model.packages)}"
        reporter.event("needs", text, model=model.id, packages=model.packages)


def _is_named(root: Path) -> bool:
    """Whether the root is another directory than the current one, its default."""
    with suppress(OSError):
        return root != Path.cwd()
    return True  # the current directory has been removed
