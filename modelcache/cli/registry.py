"""The commands, a line each. A module is imported when its command runs: it has `Options` and `run`."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

COMMANDS = {
    "sync": ("download what is missing, so that the root holds what models.lock pins (the default)", "commands.sync"),
    "lock": ("pin the models of models.toml in models.lock: commits, files, SHA-256", "commands.lock"),
    "verify": ("compare every byte on disk with models.lock; needs no network", "commands.verify"),
    "check": ("load each model without network, and compare its numbers with the recorded ones", "commands.check"),
    "status": ("show kind, id, commit, size and state of each model", "commands.status"),
    "path": ("print the absolute directory of a model", "commands.path"),
    "prune": ("remove the models that models.lock does not name", "commands.prune"),
}


def load_command(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(f"modelcache.cli.{COMMANDS[name][1]}")
