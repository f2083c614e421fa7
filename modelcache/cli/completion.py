"""Scripts that complete the command line in bash, zsh and fish: completion.bash and so on, with our table of options.

No library fits: in bash shtab completes neither `--format=j` nor an option behind `--only ID`, and argcomplete starts
Python at each TAB.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from modelcache.cli.options import CommonOptions
from modelcache.cli.parser import COMMANDS, HELP, load_command

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """Return the script for a shell."""
    template = Path(__file__).with_suffix(f".{shell}").read_text(encoding="utf-8")
    tables = {
        "@COMMANDS@": [f"{name}|{text}" for name, text in [*COMMANDS.items(), ("help", HELP)]],
        "@ROWS@": option_rows({name: load_command(name).Options for name in COMMANDS}),
    }
    for place, rows in tables.items():
        template = template.replace(place, _array(rows, shell))
    return template.rstrip("\n")


def option_rows(commands: Mapping[str, type[CommonOptions]]) -> list[str]:
    """Return a row `commands|flag|value|help` for each option; the flag of words without one is @.

    The value is one of `Completes`, `=` with the choices, `id` or `ids` for one or several models that are listed,
    `any` for one that a shell cannot know, or empty for a switch.
    """
    owners: dict[tuple[str, str, str], list[str]] = {}
    for command, options in commands.items():
        for row in _rows(options):
            owners.setdefault(row, []).append(command)
    owners["@", "=" + " ".join(commands), HELP] = ["help"]
    for flag, text in (("--help", "show the options of the command"), ("--version", "print the version")):
        owners[flag, "", text] = [*commands, "help"]
    return ["|".join([" ".join(names), *row]) for row, names in owners.items()]


def _rows(options: type[CommonOptions]) -> Iterator[tuple[str, str, str]]:
    for one in fields(options):
        if one.metadata:
            value = _value(one, new_ids=options.writes_manifest)
            yield "".join(one.metadata["flag"]) or "@", value, one.metadata["argument"]["help"]


def _value(option: Field[Any], *, new_ids: bool) -> str:
    argument = option.metadata["argument"]
    if argument.get("action") == "store_true":
        return ""
    if choices := argument.get("choices"):
        return "=" + " ".join(map(str, choices))
    if argument.get("metavar") == "ID" and not new_ids:
        return "ids" if "nargs" in argument else "id"
    return str(option.metadata["completes"]) or "any"


def _array(rows: Sequence[str], shell: str) -> str:
    """Return the elements of an array of a shell, one a line."""
    if shell == "fish":  # where a backslash also counts inside of quotes, and ends a line that goes on
        return "".join(" \\\n    '{}'".format(row.replace("\\", "\\\\").replace("'", "\\'")) for row in rows)
    return "".join(f"\n    {shlex.quote(row)}" for row in rows) + "\n"
