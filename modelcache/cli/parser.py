"""The command line, and the environment variables that stand for its options."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, NoReturn

from modelcache import __version__
from modelcache.cli.options import CommonOptions, LockfileOptions, TransferOptions
from modelcache.cli.progress import show
from modelcache.core.errors import UsageError, exit_codes
from modelcache.core.text import did_you_mean, escape, sentence
from modelcache.fastpath import default_lockfile, find_manifest, manifest_note
from modelcache.system.files import absolute

PROGRAM = "cache-models"
_WIDTH = 80
COMMANDS = {
    "sync": "download missing models, so that the root holds what models.lock pins",
    "add": "write models into models.toml, each with the kind of its repository, and pin them",
    "lock": "pin the models of models.toml in models.lock: commits, files, SHA-256",
    "outdated": "show which pins have a newer commit on the Hub, and what each would change",
    "verify": "compare every byte on disk with models.lock; needs no network",
    "check": "load each model without network, and compare its outputs with models.golden.json",
    "status": "show kind, id, commit, size and state of each model",
    "report": "print the licence, origin, digests and code of each model: for reviewers, programs, or as an SBOM",
    "path": "print the absolute directory of a model",
    "export": "write the models as one OCI image: a layout directory, or one .tar; needs no Docker",
    "push": "write the models to a registry as one OCI image, alone or on top of another image; needs no Docker",
    "prune": "remove the models that models.lock does not name",
    "completion": "print the script for TAB completion in bash, zsh or fish",
}
HELP = "show this page, or the options of a command"
_HELP = {"-h", "--help"}
_PARTS = re.compile(r"\[[^][]*(?:\[[^][]*\][^][]*)*\]|[^ ]+")  # an option with its value, or a word
_NO_BREAK = "\0"
_COMMON = fields(TransferOptions)
# The options with exactly one value. Only these keep a word behind them from being the command: no other one is known
# before the module of the command is loaded.
_WITH_VALUE = {
    "--base",
    "--diff",
    "--format",
    "--from",
    "--kind",
    "--normalize",
    "--platform",
    "--pooling",
    "--prefix",
    "--trust-remote-code",
} | {
    flag
    for one in _COMMON
    if one.metadata and "action" not in one.metadata["argument"]
    for flag in one.metadata["flag"]
}
_BOOLEANS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}
_ENVIRONMENT = """\
Each option is also read from the environment: --log-format from
CACHE_MODELS_LOG_FORMAT, and so on. HF_ENDPOINT, HF_TOKEN, HF_HOME, HTTPS_PROXY,
NO_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE work as in huggingface_hub and
requests.
"""


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ, checkout: str = "") -> CommonOptions:
    """Read the command line; an option that is not there comes from CACHE_MODELS_…, else from its default.

    `checkout` is the directory of a `cache_models.py` that runs as a script; see `fastpath.find_manifest`.

    Raises:
        UsageError: with the way out as its hint.
        SystemExit: after --help, `help` or --version.

    """
    command, words = _split(argv)
    if "--version" in words:
        _print_and_exit(f"{PROGRAM} {__version__}")
    if command == "help":
        topics = [word for word in words if word != "help" and not word.startswith("-")]
        words, command = ["--help"], _known_command(topics[0]) if topics else ""
    if not command and _HELP & set(words):
        _print_and_exit(_help())
    options: type[CommonOptions] = load_command(command or "sync").Options
    parser, actions = _parser(command or "sync", options)
    parsed, unknown = parser.parse_known_intermixed_args(words)  # it ends here for --help
    given = vars(parsed)
    if not command:
        for word in given.get("ids", ()):
            if "/" not in word:
                _known_command(word)
    if unknown:
        parser.error(_unknown(unknown[0], command or "sync", actions))
    values = {**_from_environment(parser, actions, environ), **given}
    place = "" if options.writes_manifest else checkout
    return options(command=command or "sync", **_with_paths(values, options, environ, place))


def load_command(name: str) -> ModuleType:
    """Import the module of a command, which has `Options` and `run`."""
    return import_module(f"modelcache.cli.commands.{name}")


def log_format_of(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> str:
    """Return the log format that a command line asks for, whatever else is wrong with it."""
    asked = [
        word.removeprefix("--log-format=")
        for before, word in pairwise(["", *argv])
        if before == "--log-format" or word.startswith("--log-format=")
    ]
    return [environ.get("CACHE_MODELS_LOG_FORMAT", ""), *asked][-1]


def _split(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command among the words, if any, and the other words.

    The value of an option, as in `--root lock`, is no command.
    """
    words = list(argv)
    for index, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        if word == "--":
            break
        if (word in COMMANDS or word == "help") and before not in _WITH_VALUE:
            return word, words[:index] + words[index + 1 :]
    return "", words


def _with_paths(
    values: dict[str, Any], options: type[CommonOptions], environ: Mapping[str, str], checkout: str
) -> dict[str, Any]:
    """Replace the paths among the values: those that are not given have defaults, and all are absolute."""
    named = values.pop("manifest", None)
    manifest, reason = (named, "") if named else find_manifest(environ, checkout)
    path = absolute(manifest)
    lockfile = values.pop("lockfile", None)
    if issubclass(options, LockfileOptions):
        values["lockfile"] = absolute(lockfile or default_lockfile(manifest))
    if issubclass(options, TransferOptions):
        is_own = bool(reason) and not environ.get("CACHE_MODELS_MANIFEST")
        values["may_write_lock"] = bool(lockfile) or not is_own
    return {
        **values,
        "manifest": path,
        "manifest_note": manifest_note(path, reason) if options.reads_manifest else "",
        "root": absolute(values.pop("root", None) or "."),
    }


def _parser(command: str, options: type[CommonOptions]) -> tuple[_Parser, list[argparse.Action]]:
    """Return the parser of a command, and its options."""
    shared = {one.name for one in _COMMON}
    # A required word stands first in the usage: behind an option that takes several it would be one of these.
    first = [one for one in fields(options) if one.metadata and _is_required(one)]
    places = "".join(f" {one.metadata['argument']['metavar']}" for one in first)
    own = _Parser(prog=f"{PROGRAM} {command}{places}", add_help=False)
    parser = _Parser(
        prog=f"{PROGRAM} {command}",
        description=_wrap(sentence(COMMANDS[command])) + options.notes,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.color = parser.color = False
    common = parser.add_argument_group("common options")
    known = sorted((one for one in fields(options) if one.metadata), key=lambda one: one.name in shared)
    for one in known:
        if one.name not in shared and one not in first:
            _add_argument(own, one)
    parser.usage = _wrapped_usage(" ".join(own.format_usage().split()).removeprefix("usage: ") + " [OPTION ...]")
    return parser, [_add_argument(common if one.name in shared else parser, one) for one in known]


def _is_required(option: Field[Any]) -> bool:
    """Whether it is a word of the command line without a flag that has to be there."""
    return not option.metadata["flag"] and "nargs" not in option.metadata["argument"]


class _Parser(argparse.ArgumentParser):
    """Raises an error with the command's usage as its hint, where argparse would print it and exit."""

    color: bool
    """Since Python 3.14 argparse colours help and usage by default; a hint is plain text."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        raise UsageError(
            f"{self.prog}: {escape(message)}", hint=sentence(f"{usage}; `{self.prog} --help` explains them")
        )


def _add_argument(group: argparse._ActionsContainer, option: Field[Any]) -> argparse.Action:
    return group.add_argument(
        *option.metadata["flag"], dest=option.name, default=argparse.SUPPRESS, **option.metadata["argument"]
    )


def _help() -> str:
    """Return the text of `cache-models --help`."""
    codes = ", ".join(f"{code} {meaning}" for code, meaning in exit_codes().items())
    return "\n".join(
        [
            f"usage: {PROGRAM} [COMMAND] [ID ...] [OPTION ...]\n",
            _wrap("Put models of sentence-transformers on disk: pinned, checksummed, replaced in one step."),
            "\ncommands:",
            *(_wrap(text, f"  {name:<10} ") for name, text in [*COMMANDS.items(), ("help", HELP)]),
            f"\nWithout a command it runs sync. `{PROGRAM} --version` prints the version.\n",
            _ENVIRONMENT,
            _wrap(f"0 done, {codes}, 129/130/143 interrupted.", "exit codes: "),
        ]
    )


def _wrap(text: str, first: str = "") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


def _wrapped_usage(usage: str) -> str:
    """Break a usage between its options, as argparse does with one that it makes itself."""
    parts = [part.replace(" ", _NO_BREAK) for part in _PARTS.findall(usage)]
    first = "usage: "
    lines = textwrap.fill(
        " ".join(parts), _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
    return lines.removeprefix(first).replace(_NO_BREAK, " ")


def _print_and_exit(text: str) -> NoReturn:
    show(text)
    raise SystemExit(0)


def _known_command(word: str) -> str:
    """Return the word if it is a command.

    Raises:
        UsageError: it is none; the message has the nearest one.

    """
    if word in COMMANDS:
        return word
    near = did_you_mean(word, [*COMMANDS, "help", "--version", "lock --upgrade"])
    message = f"{escape(word)!r} is neither a command nor a model id (owner/name){near}"
    raise UsageError(message, hint=f"The commands are {', '.join(COMMANDS)}; `{PROGRAM} help` explains them.")


def _unknown(word: str, command: str, actions: Sequence[argparse.Action]) -> str:
    """Return why a word of the command line is refused."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {word!r}"
    owners = [
        other
        for other in COMMANDS
        if any(name in one.metadata.get("flag", ()) for one in fields(load_command(other).Options))
    ]
    if owners:
        return f"{name} is an option of {', '.join(owners)}, not of {command}"
    if (command, name) == ("add", "--revision"):  # as huggingface_hub has it, for one model
        return "unknown option --revision: write owner/name@REVISION"
    flags = ["--help", "--version", *(flag for one in actions for flag in one.option_strings)]
    return f"unknown option {name}{did_you_mean(name, flags)}"


def _from_environment(
    parser: _Parser, actions: Sequence[argparse.Action], environ: Mapping[str, str]
) -> dict[str, object]:
    """Return the values of CACHE_MODELS_… variables; a message about a wrong one names the variable."""
    values = {}
    for action in actions:
        flag = "".join(action.option_strings)
        variable = f"CACHE_MODELS_{flag.removeprefix('--').replace('-', '_').upper()}"
        # CACHE_MODELS_MANIFEST is read by `find_manifest`, which says so.
        if flag and action.dest != "manifest" and (text := environ.get(variable)):
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
    if action.nargs in ("*", "+"):
        if not (words := text.split()) and action.nargs == "+":
            raise ValueError("it is blank")
        return words
    return action.type(text) if callable(action.type) else text
