"""A start with nothing to do: compare the stamp with the disk, print one line, and end. No request, lease or TOML.

A bare interpreter takes about 10 ms; json, argparse, dataclasses and pathlib would each add a third of that, so the few
options that matter here are read by hand. Any other word on the command line is left to `cli`, where `sync` calls
`nothing_to_do` again.
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
_LARGEST = 1 << 23  # bytes; no stamp has a longer manifest or lock


def is_quiet_start(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this is a plain `sync` with nothing to do; if so, its line has been printed."""
    options: dict[str, str] = {}
    if any(name.startswith("CACHE_MODELS_") and name != "CACHE_MODELS_ROOT" for name in environ):
        return False
    words = iter(argv[1:] if argv[:1] == ["sync"] else argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in _VALUES:
            options[name] = value if equals else next(words, "-")
            if not equals and options[name].startswith("-") and not options[name][1:].isdecimal():
                return False  # another option stands where the value belongs; argparse takes only numbers for values
        elif word in _FLAGS:
            options[word] = "1"
        else:
            return False
    if "" in options.values():
        return False
    manifest = options.get("--manifest") or default_manifest()
    return nothing_to_do(
        root=options.get("--root") or environ.get("CACHE_MODELS_ROOT") or ".",
        manifest=manifest,
        lockfile=options.get("--lockfile") or default_lockfile(manifest),
        locked="--locked" in options,
        quiet="--quiet" in options,
    )


def nothing_to_do(
    *, root: str, manifest: str, lockfile: str, locked: bool = False, quiet: bool = False, as_json: bool = False
) -> bool:
    """Print one line and return True when a stamp for this manifest and this lock matches the files on disk."""
    content = _read(manifest)
    if content is None:
        return False
    count = models_in_place(root, key_of(content, _read(lockfile), locked=locked))
    if count is None:
        return False
    try:
        root = os.path.abspath(root)
    except OSError:
        return False  # the current directory is gone
    text = f"{count} model{'s' * (count != 1)} ready in {root}: unchanged."
    if as_json:
        import json

        text = json.dumps({"event": "ready", "models": count, "root": root, "text": text}, ensure_ascii=False)
    if not quiet and sys.stderr is not None:
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr has no reader; the models are in place all the same
            detach(sys.stderr)
    return True


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


def default_manifest() -> str:
    """Return models.toml of the current directory, else the one beside cache_models.py."""
    beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return "models.toml" if os.path.exists("models.toml") else os.path.join(beside, "models.toml")


def default_lockfile(manifest: str) -> str:
    """Return the lock that belongs to a manifest: models.toml has models.lock."""
    return os.path.splitext(manifest)[0] + ".lock"


def _read(name: str) -> bytes | None:
    try:
        with open(name, "rb") as file:
            return file.read(_LARGEST)
    except OSError:
        return None
