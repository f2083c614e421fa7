"""The command line, and the environment variables that stand for its options."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from modelcache.cli.options import CommonOptions
from modelcache.core.errors import exit_codes
from modelcache.core.text import sentence
from modelcache.fastpath import default_lockfile, default_manifest
from modelcache.system.files import absolute

COMMANDS = {
    "sync": "download what is missing, so that the root holds what models.lock pins; runs when no command is given",
    "lock": "pin the models of models.toml in models.lock: commits, files, SHA-256",
    "verify": "compare every byte on disk with models.lock; needs no network",
    "check": "load each model without network, and compare its outputs with models.golden.json",
    "status": "show kind, id, commit, size and state of each model",
    "path": "print the absolute directory of a model",
    "prune": "remove the models that models.lock does not name",
}
_COMMON = {one.name: one for one in fields(CommonOptions) if one.metadata}
_BOOLEANS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}
_EPILOG = """\
Each option is also read from the environment: --log-format from CACHE_MODELS_LOG_FORMAT, and so on.
HF_ENDPOINT, HF_TOKEN, HF_HOME, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE work as in
huggingface_hub and requests.
"""


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> CommonOptions:
    """Read the command line; an option that is not there comes from CACHE_MODELS_…, else from its default.

    Raises:
        SystemExit: for --help (0), or for a mistake (2).

    """
    words = list(argv)
    command = _command_in(words)
    if not command and not {"-h", "--help"} & set(words):
        words.insert(0, command := "sync")
    options: type[CommonOptions] = load_command(command).Options if command else CommonOptions
    parser, actions = _parser(command, options)
    given = vars(parser.parse_args(words))  # it ends here for --help, whatever the environment says
    values = {**_from_environment(parser, actions, environ), **given}
    manifest = values.pop("manifest", None) or default_manifest()
    lockfile = Path(values.pop("lockfile", None) or default_lockfile(manifest))
    return options(manifest=Path(manifest), lockfile=lockfile, root=absolute(values.pop("root", ".")), **values)


def load_command(name: str) -> ModuleType:
    """Import the module of a command, which has `Options` and `run`."""
    return import_module(f"modelcache.cli.commands.{name}")


def _command_in(words: Sequence[str]) -> str:
    """Return the command among the words, if any; the value of an option, as in `--root lock`, is none."""
    switches = [
        flag for one in _COMMON.values() if "action" in one.metadata["argument"] for flag in one.metadata["flag"]
    ]
    for before, word in zip(["", *words], words, strict=False):
        if word in COMMANDS and (before in switches or not re.fullmatch("--[^=]+", before)):
            return word
    return ""


def _parser(command: str, options: type[CommonOptions]) -> tuple[argparse.ArgumentParser, list[argparse.Action]]:
    """Return a parser that knows the options of this command, and these options."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    actions = [_add_argument(group.add_argument, one) for one in _COMMON.values()]
    parser = argparse.ArgumentParser(
        prog="cache-models",
        description="Put embedding models and rerankers on disk: pinned, checksummed, replaced in one step.",
        epilog=f"{_EPILOG}\n{_exit_codes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=text, description=sentence(text), parents=[common], allow_abbrev=False
        )
        if name == command:
            own = [one for one in fields(options) if one.metadata and one.name not in _COMMON]
            actions += [_add_argument(subparser.add_argument, one) for one in own]
    return parser, actions


def _exit_codes() -> str:
    codes = ", ".join(f"{code} {meaning}" for code, meaning in exit_codes().items())
    return textwrap.fill(f"exit codes: 0 done, {codes}, 129/130/143 interrupted.", 118)


def _add_argument(add: Callable[..., argparse.Action], option: Field[Any]) -> argparse.Action:
    return add(*option.metadata["flag"], dest=option.name, default=argparse.SUPPRESS, **option.metadata["argument"])


def _from_environment(
    parser: argparse.ArgumentParser, actions: Sequence[argparse.Action], environ: Mapping[str, str]
) -> dict[str, object]:
    """Return the values of CACHE_MODELS_… variables; a message about a wrong one names the variable."""
    values = {}
    for action in actions:
        flag = "".join(action.option_strings)
        variable = f"CACHE_MODELS_{flag.removeprefix('--').replace('-', '_').upper()}"
        if flag and (text := environ.get(variable)):
            try:
                values[action.dest] = _value(action, text)
            except (argparse.ArgumentTypeError, ValueError) as error:
                parser.error(f"{variable}: {error}")
    return values


def _value(action: argparse.Action, text: str) -> object:
    if action.nargs == 0:
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"{text!r} is neither 1 nor 0")
        return _BOOLEANS[text.lower()]
    if action.choices is not None and text not in action.choices:
        raise ValueError(f"{text!r} is none of {', '.join(action.choices)}")
    if action.nargs == "*":
        return text.split()
    return action.type(text) if callable(action.type) else text
