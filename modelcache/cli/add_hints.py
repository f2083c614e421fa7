"""The options of `add` that permit a refused model, in the place of keys of models.toml. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence

from modelcache.core.errors import CacheModelsError, PolicyError, UnclearKindError, UsageError
from modelcache.core.types import Pooling

_FLAGS = {
    "trust_remote_code": "--trust-remote-code true",
    "trust_remote_code = false": "--trust-remote-code false",
    "allow_pickle": "--allow-pickle",
    "pooling": "--pooling mean --normalize true",
}
"""By the keys as `PolicyError.settings` has them."""


def with_options(error: CacheModelsError, *, pooling: bool) -> CacheModelsError:
    """Return a refusal with options as its hint; any other error as it is. `pooling` says whether --pooling was given.

    A refusal that no option removes stays as it is, too.
    """
    if isinstance(error, PolicyError) and error.settings:
        return PolicyError(error.message, hint=_hint(error.settings, pooling=pooling), settings=error.settings)
    if isinstance(error, UnclearKindError):
        ways = [" ".join([f"--kind {kind}", *_flags(keys)]) for kind, keys in error.choices.items()]
        hint = f"Read its card, then run this again with {', or with '.join(ways)}."
        return UsageError(error.message, hint=f"{hint}{_modes(*error.choices.values())}")
    return error


def _hint(keys: Sequence[str], *, pooling: bool) -> str:
    """Return what to do about a model that needs these keys; an option that was given wrongly is to be left out."""
    if pooling and not {"kind", "pooling"}.isdisjoint(keys):
        return "Run this again without --pooling and --normalize."
    if "kind" in keys:
        return "Run this again without --kind: it is read from the repository."
    read = [what for key, what in (("trust_remote_code", "its code"), ("pooling", "its card")) if key in keys]
    first = f"Read {' and '.join(read)}, then run" if read else "Run"
    return f"{first} this again with {' '.join(_flags(keys))}.{_modes(keys)}"


def _flags(keys: Sequence[str]) -> list[str]:
    return [flag for key, flag in _FLAGS.items() if key in keys]


def _modes(*keys: Sequence[str]) -> str:
    """Return the other values of --pooling, where it is one of the options of a hint."""
    if not any("pooling" in some for some in keys):
        return ""
    return f" The card says which --pooling ({', '.join(Pooling)}), and whether --normalize is true or false."
