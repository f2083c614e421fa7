"""What a run works with, made once by whoever starts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.errors import UsageError
from modelcache.core.interfaces import Reporter
from modelcache.core.text import escape
from modelcache.core.types import JOBS, WantedModel
from modelcache.stamp import Facts
from modelcache.store.layout import Places
from modelcache.transfer.connections import TransferLimits
from modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from modelcache.sources.hub_api import Hub


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run works with."""

    places: Places
    reporter: Reporter
    connect: Callable[[], Hub]
    """Called when the first question to the Hub arises, and only then."""
    manifest_folder: Path
    """What a relative `path` in the manifest is relative to."""
    stamped: Callable[[Path], Facts] = lambda home: {}
    """What the stamp knows of a model's directory, by path within it."""
    jobs: int = JOBS
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: TransferLimits = field(default_factory=TransferLimits)
    keeps: bool = True
    """Whether what is fetched or made to be hashed is kept for later; not for --dry-run."""
    other_root: Places | None = None
    """Another root to copy from instead of the Hub (`--from`)."""

    def source_of(self, wanted: WantedModel) -> Path:
        """Return the directory that a model with a `path` comes from."""
        try:
            return self.manifest_folder / Path(wanted.path or "").expanduser()
        except RuntimeError as error:
            told = f"{wanted.id}: {escape(str(wanted.path))} is nobody's home"
            raise UsageError(told, hint="Check `path` in models.toml.") from error
