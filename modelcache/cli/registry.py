"""The commands: each reads what is asked for, calls the story, and says how it went."""

from __future__ import annotations

from collections.abc import Callable

from modelcache.cli.commands.check import run_check
from modelcache.cli.commands.lock import run_lock
from modelcache.cli.commands.prune import run_prune
from modelcache.cli.commands.status import run_path, run_status
from modelcache.cli.commands.sync import run_sync
from modelcache.cli.commands.verify import run_verify
from modelcache.cli.options import Options
from modelcache.cli.progress import ConsoleReporter

COMMANDS: dict[str, Callable[[Options, ConsoleReporter], None]] = {
    "sync": run_sync,
    "lock": run_lock,
    "verify": run_verify,
    "check": run_check,
    "status": run_status,
    "path": run_path,
    "prune": run_prune,
}
