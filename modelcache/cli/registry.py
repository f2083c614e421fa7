"""The commands, a line each. A module is imported when its command runs: it has `Options` and `run`."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

COMMANDS = {
    "sync": ("make the root hold what models.lock says (the default)", "commands.sync"),
    "lock": ("write models.lock: what models.toml means today", "commands.lock"),
    "verify": ("compare what is on disk with the lock, every byte; asks no network", "commands.verify"),
    "check": (
        "load each model with the network cut, and compare the numbers it gives with the recorded ones",
        "commands.check",
    ),
    "status": ("show each model: kind, id, commit, size, state", "commands.status"),
    "path": ("print the absolute directory of a model", "commands.path"),
    "prune": ("remove the models that the lock no longer names", "commands.prune"),
}


def load_command(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(f"modelcache.cli.{COMMANDS[name][1]}")
