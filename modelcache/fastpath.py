"""A start with nothing to do: compare the stamp with the disk, print one line, and end. No request, lease or TOML.

A bare interpreter takes about 10 ms; json, argparse, dataclasses and pathlib would each add a third of that, so the few
options that matter here are read by hand. Any other word on the command line is left to `cli`, where `sync` asks the
stamp again.
"""

from __future__ import annotations

import os
import sys

from modelcache.stamp import key_of, models_in_place

TYPE_CHECKING = False  # importing typing would cost a third of a start
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

_VALUES = ("--manifest", "--lockfile", "--root")
_FLAGS = ("--locked", "--quiet")
# The options of all commands, as the environment names them: those that are read here, and those left to `cli`.
_PLACES = {"LOCKFILE", "MANIFEST", "ROOT"}
_SLOW = {"ALLOW_PICKLE", "CHECK", "DRY_RUN", "FROM", "JOBS", "JSON", "KIND", "LOCKED", "LOG_FORMAT", "NORMALIZE"}
_SLOW |= {"NO_STAMP", "POOLING", "QUICK", "QUIET", "RECORD", "RETRIES", "TIMEOUT", "TRUST_REMOTE_CODE", "UNCONFINED"}
_SLOW |= {"BASE", "DIFF", "FORMAT", "INSECURE", "ONLY", "PLATFORM", "PREFIX", "UPGRADE"}
VARIABLES = _PLACES | _SLOW
_PREFIX = "CACHE_MODELS_"
_LARGEST = 1 << 23  # bytes; no stamp has a longer manifest or lock


def is_quiet_start(argv: Sequence[str], environ: Mapping[str, str], checkout: str = "") -> bool:
    """Whether this is a plain `sync` with nothing to do; if so, its line has been printed.

    `checkout` is the directory of a `cache_models.py` that runs as a script; see `find_manifest`.
    """
    options = _plain_options(argv)
    if options is None or any(environ.get(_PREFIX + name) for name in _SLOW):
        return False
    manifest, reason = options.get("--manifest"), ""
    if manifest is None:
        manifest, reason = find_manifest(environ, checkout)
    lockfile = options.get("--lockfile") or environ.get("CACHE_MODELS_LOCKFILE") or default_lockfile(manifest)
    root = options.get("--root") or environ.get("CACHE_MODELS_ROOT") or "."
    manifest, lockfile, root = map(os.path.expanduser, (manifest, lockfile, root))
    content = _read(manifest)
    key = content is not None and key_of(content, _read(lockfile), locked="--locked" in options)
    count = models_in_place(root, key) if key else None
    if count is None:
        return False
    plain_root, plain_manifest = _plain(root), _plain(manifest)
    if not plain_root or not plain_manifest:
        return False
    if "--quiet" not in options:
        rows = [f"  warning  {text}" for text in unknown_variables(environ).values()]
        rows += [f"  manifest {manifest_note(plain_manifest, reason)}"] if reason else []
        _print([*rows, f"{count} model{'s' * (count != 1)} ready in {plain_root}: unchanged."])
    return True


def _plain_options(argv: Sequence[str]) -> dict[str, str] | None:
    """Return the options of a `sync` that has no other words than these few; None for any other command line."""
    options: dict[str, str] = {}
    words = iter(argv[1:] if argv[:1] == ["sync"] else argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in _VALUES:
            options[name] = value if equals else next(words, "-")
            if not equals and options[name].startswith("-") and not options[name][1:].isdecimal():
                return None  # another option stands where the value belongs; argparse takes only numbers for values
        elif word in _FLAGS:
            options[word] = "1"
        else:
            return None
    return None if "" in options.values() else options


def _plain(path: str) -> str:
    """Return an absolute path without `..`; empty where only `cli` can tell it: behind a link, or in a removed one."""
    try:
        plain = os.path.abspath(path)
        same = ".." not in path or os.path.realpath(path) == os.path.realpath(plain)
    except OSError:
        return ""
    return plain if same else ""


def _print(lines: list[str]) -> None:
    if sys.stderr is not None:
        try:
            print(*lines, sep="\n", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr has no reader; the models are in place all the same
            detach(sys.stderr)


def detach(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null, so that the flush at exit cannot fail (exit code 120)."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)
    except (OSError, ValueError):  # no /dev/null, no free descriptor, or a stream without one
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is stream:
                setattr(sys, name, None)


def find_manifest(environ: Mapping[str, str], checkout: str = "") -> tuple[str, str]:
    """Return the manifest where no --manifest names one, and the reason if it is not that of the current directory.

    It is that of CACHE_MODELS_MANIFEST, else models.toml. In a checkout, where cache_models.py runs as a script, the
    models.toml beside that script is the last resort. An installed command has none: it would fetch the models of
    others into the directory of somebody who has written no manifest yet.
    """
    if named := environ.get(_PREFIX + "MANIFEST"):
        return os.path.expanduser(named), "CACHE_MODELS_MANIFEST names it"
    beside = os.path.join(checkout, "models.toml")
    if not checkout or os.path.exists("models.toml") or not os.path.exists(beside):
        return "models.toml", ""
    return beside, "the current directory has no models.toml"


def manifest_note(path: object, reason: str) -> str:
    """Return the sentence about a manifest that was taken for a reason; see `find_manifest`."""
    return f"{path} is the manifest, because {reason}" if reason else ""


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a warning for each CACHE_MODELS_… variable that no option reads.

    Kubernetes sets some itself where a service has our name: CACHE_MODELS_SERVICE_HOST, CACHE_MODELS_PORT_80_TCP.
    """
    known = {_PREFIX + name for name in VARIABLES}
    unknown = [
        name
        for name in environ
        if name.startswith(_PREFIX) and name not in known and "_SERVICE_" not in name and "_PORT" not in name
    ]
    if not unknown:
        return {}
    import difflib

    near = {
        name: difflib.get_close_matches(name.removeprefix(_PREFIX), sorted(VARIABLES), n=1) for name in sorted(unknown)
    }
    return {
        name: f"no option reads {name}" + (f" (did you mean {_PREFIX + meant[0]!r}?)" if meant else "")
        for name, meant in near.items()
    }


def default_lockfile(manifest: str) -> str:
    """Return the lock that belongs to a manifest: models.toml has models.lock."""
    return os.path.splitext(manifest)[0] + ".lock"


def _read(name: str) -> bytes | None:
    try:
        with open(name, "rb") as file:
            return file.read(_LARGEST)
    except OSError:
        return None
