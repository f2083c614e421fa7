"""Dependencies of one run, built by the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.errors import UsageError
from modelcache.core.interfaces import PublishedModels, Reporter
from modelcache.core.kinds import Kind
from modelcache.core.policy import NO_RULES, Policy
from modelcache.core.text import escape
from modelcache.core.types import JOBS, WantedModel
from modelcache.stamp import Facts
from modelcache.store.layout import Places
from modelcache.system.files import absolute
from modelcache.transfer.connections import TransferLimits
from modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from modelcache.sources.hub_environment import LazyHub


@dataclass(frozen=True, slots=True)
class RunContext:
    """Dependencies of one run."""

    places: Places
    reporter: Reporter
    hub: LazyHub
    """Called before the first request to the Hub, and only then."""
    manifest_folder: Path
    """The directory that a `path` of the manifest is relative to."""
    stamped: Callable[[Path], Facts] = lambda home: {}
    """Returns the facts that the stamp has of a model's directory, by path within it."""
    jobs: int = JOBS
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: TransferLimits = field(default_factory=TransferLimits)
    keeps: bool = True
    """Whether files that a run fetches or converts to pin a model are kept in the root for `sync`."""
    gate: Policy = NO_RULES
    """The rules of `[policy]`; a run refuses what they forbid before it fetches or writes a model."""
    source: PublishedModels | None = None
    """The published models to copy from instead of the Hub (`--from`)."""
    paths: Mapping[tuple[Kind, str], str] = field(default_factory=dict)
    """The `path` of each model that comes from a directory instead of the Hub, by kind and id; see `with_paths`."""

    def with_paths(self, wanted: Iterable[WantedModel]) -> RunContext:
        """Return the context of a run for these models."""
        return replace(self, paths={(model.kind, model.id): model.path for model in wanted if model.path is not None})

    def directory_of(self, kind: Kind, model_id: str) -> Path | None:
        """Return the directory that a model comes from; None for one of the Hub."""
        path = self.paths.get((kind, model_id))
        try:
            return None if path is None else absolute(self.manifest_folder / Path(path).expanduser())
        except RuntimeError as error:
            message = f"{model_id}: {escape(str(path))} names the home of an unknown user"
            raise UsageError(message, hint="Check `path` in models.toml.") from error
