"""The options of a run, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.types import JOBS
from modelcache.pipeline.project import Project
from modelcache.transfer.retry import RetryPolicy

_POLICY = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for, after arguments, environment and defaults."""

    command: str
    manifest: Path
    lockfile: Path
    root: Path
    """Where the collections are, absolute."""
    other_root: Path | None = None
    """Another root to copy from instead of asking the Hub."""
    locked: bool = False
    dry_run: bool = False
    jobs: int = JOBS
    timeout: float = _POLICY.timeout
    retries: int = _POLICY.retries
    log_format: str = "auto"
    quiet: bool = False
    ids: Sequence[str] = ()
    upgrade: Sequence[str] | None = None
    """Models to resolve anew; an empty list means all, None means none."""
    check: bool = False
    quick: bool = False
    record: bool = False
    unconfined: bool = False
    json: bool = False

    @property
    def project(self) -> Project:
        """The paths that most commands are about."""
        return Project(self.manifest, self.lockfile, self.root, self.locked)
