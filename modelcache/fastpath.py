"""The second start: everything is in place, so look, say one line, and be gone. No request, no lease, no TOML.

A bare interpreter takes about 10 ms; json, argparse, dataclasses and pathlib would each add a third of that, so the few
options that matter here are read by hand. Any other word on the command line takes the long way (`options`),
which ends in the same question.
"""

from __future__ import annotations

import os
import sys

from modelcache.stamp import key_of, models_in_place

TYPE_CHECKING = False  # what typing calls so
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

_VALUES = ("--manifest", "--lockfile", "--root")
_FLAGS = ("--locked", "--quiet")
_LARGEST = 1 << 23  # of what is longer no stamp knows: it is not parsed


def is_quiet_start(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether this is a plain `sync` and nothing is to be done; if so, it has been said."""
    said: dict[str, str] = {}
    if any(name.startswith("CACHE_MODELS_") and name != "CACHE_MODELS_ROOT" for name in environ):
        return False
    words = iter(argv[1:] if argv[:1] == ["sync"] else argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in _VALUES:
            said[name] = value if equals else next(words, "-")
            if not equals and said[name].startswith("-") and not said[name][1:].isdecimal():
                return False  # another option stands where the value belongs; argparse takes only numbers for values
        elif word in _FLAGS:
            said[word] = "1"
        else:
            return False
    if "" in said.values():
        return False
    manifest = said.get("--manifest") or default_manifest()
    return nothing_to_do(
        root=said.get("--root") or environ.get("CACHE_MODELS_ROOT") or ".",
        manifest=manifest,
        lockfile=said.get("--lockfile") or default_lockfile(manifest),
        locked="--locked" in said,
        quiet="--quiet" in said,
    )


def nothing_to_do(
    *, root: str, manifest: str, lockfile: str, locked: bool = False, quiet: bool = False, as_json: bool = False
) -> bool:
    """Say so and return True when a stamp for this manifest and this lock fits what is on disk."""
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
    words = f"{count} model{'s' * (count != 1)} ready in {root}: unchanged."
    if as_json:
        import json

        words = json.dumps({"event": "ready", "models": count, "root": root, "text": words}, ensure_ascii=False)
    if not quiet and sys.stderr is not None:
        try:
            print(words, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # stderr has no reader; everything is in place all the same
            detach(sys.stderr)
    return True


def detach(stream: TextIO) -> None:
    """Let a stream that cannot be written end nowhere: Python flushes it once more at the end, or exits with 120."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):  # no /dev/null, no descriptor left, or a stream without one
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
