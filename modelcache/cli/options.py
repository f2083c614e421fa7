"""The options of a run, as a value: each field says how the command line and the environment set it.

A command takes the class here that has the options it uses, and no more; its own options are in a subclass, in its
module.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from modelcache.core.types import JOBS
from modelcache.pipeline.pins import Project
from modelcache.transfer.retry import RetryPolicy

_POLICY = RetryPolicy()
Completes = Literal["", "file", "directory", "source"]
"""Where the value is a path on this machine: its sort. A source is a path, too, behind `oci:` or another scheme."""


def option(*flag: str, default: object = MISSING, completes: Completes = "", **argument: object) -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return a field that a flag and its environment variable set, or without a flag a positional argument.

    `completes` says what a shell offers as its value, and `argument` is for `add_argument` of argparse.
    """
    return field(default=default, metadata={"flag": flag, "completes": completes, "argument": argument})


def switch(flag: str, *, help: str) -> Any:  # noqa: A002, ANN401  # argparse's word
    """Return a field that is False where the flag is not given."""
    return option(flag, default=False, action="store_true", help=help)


def dry_run() -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return the field of --dry-run, for a command that changes something."""
    return switch("--dry-run", help="print what would be done; change nothing")


def _integer(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 86400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and below 86400")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """The options of every command, after arguments, environment and defaults."""

    writes_manifest: ClassVar[bool] = False
    """True for a command that must not take the manifest beside the tool, because it would write there."""
    reads_manifest: ClassVar[bool] = True
    """False for a command that has nothing to do with models, and so does not say which manifest it takes."""
    notes: ClassVar[str] = ""
    """What --help says beside the summary of the command."""
    command: str
    manifest: Path = option(
        "--manifest", completes="file", metavar="FILE", help="the wanted models (default: models.toml)"
    )
    root: Path = option(
        "--root",
        completes="directory",
        metavar="DIR",
        help="the directory that holds cached_*_models (default: the current directory)",
    )
    log_format: str = option(
        "--log-format",
        default="auto",
        choices=("auto", "text", "json"),
        help="auto: progress bars on a terminal, else lines; text: lines; json: one JSON object a line (default: auto)",
    )
    quiet: bool = switch("--quiet", help="print errors only")
    manifest_note: str = ""
    """Why this manifest was taken, where it is neither --manifest nor models.toml of the current directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockfileOptions(CommonOptions):
    """The options of a command that reads models.lock."""

    lockfile: Path = option(
        "--lockfile",
        completes="file",
        metavar="FILE",
        help="the pinned models (default: models.lock beside the manifest)",
    )

    @property
    def project(self) -> Project:
        """The paths that the command works on."""
        return Project(self.manifest, self.lockfile, self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectOptions(LockfileOptions):
    """The options of a command that compares manifest, lock and root."""

    locked: bool = switch("--locked", help="fail unless models.lock fits models.toml; pin nothing new")

    @property
    def project(self) -> Project:
        """The paths that the command works on, and whether the lock is binding."""
        return Project(self.manifest, self.lockfile, self.root, self.locked)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions(ProjectOptions):
    """The options of a command that may send requests."""

    jobs: int = option(
        "--jobs", default=JOBS, metavar="N", type=_integer(1), help=f"concurrent transfers (default: {JOBS})"
    )
    timeout: float = option(
        "--timeout",
        default=_POLICY.timeout,
        metavar="SECONDS",
        type=_seconds,
        help=f"seconds of silence before a retry (default: {_POLICY.timeout:.0f})",
    )
    retries: int = option(
        "--retries",
        default=_POLICY.retries,
        metavar="N",
        type=_integer(0),
        help=f"retries without progress before giving up (default: {_POLICY.retries})",
    )

    @property
    def policy(self) -> RetryPolicy:
        """How long to wait for the network, and how often to try again."""
        return RetryPolicy(timeout=self.timeout, retries=self.retries)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions(NetworkOptions):
    """The options of a command that may ask the Hub and write a lock."""

    may_write_lock: bool = True
    """False where the lock would be written beside the tool itself, because its own manifest was taken."""
    dry_run: bool = dry_run()


def insecure() -> Any:  # noqa: ANN401  # like dataclasses.field
    """Return the field of --insecure, for a command that may speak to a registry."""
    return switch(
        "--insecure", help="speak plain http to the registry, and send it no password; localhost needs no flag"
    )
