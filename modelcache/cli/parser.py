"""The command line and its twins in the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelcache.cli.options import _POLICY, Options
from modelcache.fastpath import default_lockfile, default_manifest
from modelcache.system.files import absolute

COMMANDS = {
    "sync": "make the root hold what models.lock says (the default)",
    "lock": "write models.lock: what models.toml means today",
    "verify": "compare what is on disk with the lock, every byte; asks no network",
    "check": "load each model with the network cut, and compare the numbers it gives with the recorded ones",
    "status": "show each model: kind, id, commit, size, state",
    "path": "print the absolute directory of a model",
    "prune": "remove the models that the lock no longer names",
}

_TAKE_A_VALUE = ("--manifest", "--lockfile", "--root", "--jobs", "--timeout", "--retries", "--log-format", "--from")

_EPILOG = """\
Each option is also read from the environment: --log-format from CACHE_MODELS_LOG_FORMAT, and so on.
HF_ENDPOINT, HF_TOKEN, HF_HOME, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE mean what they mean
everywhere.

exit codes: 0 done, 1 bytes do not match, 2 usage or manifest or lock wrong, 3 the Hub, 4 storage or a limit of this
machine, 5 refused by policy, 6 a model does not load or gives other numbers, 70 a bug here, 130/143 interrupted.
"""


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """Read the command line; what it does not say comes from CACHE_MODELS_…, then from the defaults.

    Raises:
        SystemExit: --help (0), or something that cannot be understood (2).

    """
    parser, commands = _parsers()
    argv = list(argv)
    if not {"-h", "--help"} & set(argv):
        at = _place_of_command(argv)
        if at is None:
            argv.insert(at := 0, "sync")
        # Each in front of what the command line says of it, which wins: common options may stand before the command.
        common = {action.dest for action in parser._actions}
        own = [action for action in commands[argv[at]]._actions if action.dest not in common]
        argv[at + 1 : at + 1] = _from_environment(parser, own, environ)
        argv[:0] = _from_environment(parser, parser._actions, environ)
    said = vars(parser.parse_args(argv))
    manifest = said.pop("manifest", None) or default_manifest()
    lockfile = said.pop("lockfile", None) or default_lockfile(manifest)
    root, other_root = said.pop("root", "."), said.pop("other_root", None)
    return Options(
        manifest=Path(manifest),
        lockfile=Path(lockfile),
        root=absolute(root),
        other_root=absolute(other_root) if other_root else None,
        **said,
    )


def _parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command line, and that of each command."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("common options")
    group.add_argument(
        "--manifest", metavar="FILE", help="what is wanted (models.toml here, else beside cache_models.py)"
    )
    group.add_argument("--lockfile", metavar="FILE", help="what that means today (models.lock beside the manifest)")
    group.add_argument("--root", metavar="DIR", help="where cached_*_models are (the current directory)")
    group.add_argument(
        "--locked", action="store_true", help="the lock must exist and fit the manifest; resolve nothing"
    )
    group.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    group.add_argument("--jobs", metavar="N", type=_positive, help="transfers at the same time (8)")
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help=f"silence before another try ({_POLICY.timeout:.0f})",
    )
    group.add_argument(
        "--retries", metavar="N", type=_natural, help=f"tries in a row that may fail ({_POLICY.retries})"
    )
    group.add_argument("--log-format", choices=("auto", "text", "json"), help="auto: bars on a terminal, else lines")
    group.add_argument("--quiet", action="store_true", help="print errors only")

    parser = argparse.ArgumentParser(
        prog="cache_models.py",
        description="Put embedding models and rerankers on disk: pinned, checksummed, swapped in whole.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=COMMANDS[name],
            description=_sentence(COMMANDS[name]),
            parents=[common],
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )

    sync = command("sync")
    sync.add_argument("ids", nargs="*", metavar="ID", help="only these models of the manifest")
    sync.add_argument(
        "--from", dest="other_root", metavar="DIR", help="copy out of another root instead of asking the Hub"
    )
    lock = command("lock")
    lock.add_argument(
        "--upgrade", nargs="*", metavar="ID", help="pin these (all) anew instead of keeping what is pinned"
    )
    lock.add_argument(
        "--check", action="store_true", help="only say whether the lock fits the manifest; asks no network"
    )
    verify = command("verify")
    verify.add_argument("--quick", action="store_true", help="names, sizes and times only; read what looks touched")
    check = command("check")
    check.add_argument("--record", action="store_true", help="write the numbers down in models.golden.json")
    check.add_argument(
        "--unconfined", action="store_true", help="run a model's code also where nothing can confine it; else that is 5"
    )
    status = command("status")
    status.add_argument("--json", action="store_true", help="for programs")
    command("path").add_argument("ids", nargs=1, metavar="ID")
    command("prune")
    return parser, commands.choices


def _place_of_command(argv: Sequence[str]) -> int | None:
    """Return where a command is named; the value of an option, as in `--root lock`, is none."""
    for place, word in enumerate(argv):
        if word in COMMANDS and (place == 0 or argv[place - 1] not in _TAKE_A_VALUE):
            return place
    return None


def _from_environment(
    parser: argparse.ArgumentParser, actions: Sequence[argparse.Action], environ: Mapping[str, str]
) -> list[str]:
    """Return the arguments that CACHE_MODELS_… stands for; a bad value is told with the variable's name."""
    words = []
    for action in actions:
        option = action.option_strings[-1] if action.option_strings else ""
        name = f"CACHE_MODELS_{option.removeprefix('--').replace('-', '_').upper()}"
        value = environ.get(name, "")
        if not option or not value or action.dest == "help":
            continue
        if action.nargs == "*":
            words += [option, *value.split()]
            continue
        if action.nargs == 0:
            if value.lower() in ("1", "true", "yes", "on"):
                words.append(option)
            elif value.lower() not in ("0", "false", "no", "off"):
                parser.error(f"{name}={value!r} is neither 1 nor 0")
            continue
        try:
            valid = action.choices is None or value in action.choices
            if callable(action.type):
                action.type(value)
        except (argparse.ArgumentTypeError, ValueError):
            valid = False
        if not valid:
            parser.error(f"{name}={value!r} is not a value for {option}")
        words.append(f"{option}={value}")
    return words


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number
