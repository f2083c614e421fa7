"""The changes between two versions of a model, and the effect of each on its outputs. Rules only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelcache.core.changes import Change, Difference, Part
from modelcache.core.effect import Effect
from modelcache.core.types import LockedModel
from modelcache.resolver.inputs import Input, Read, inputs_of
from modelcache.resolver.settings import MODULES, POOLING_MODE

# A tokenizer may have been saved anew with the same tokens, and code have got a comment.
_EFFECTS = {
    Part.WEIGHTS: Effect.CERTAIN,
    Part.FORMAT: Effect.POSSIBLE,
    Part.TOKENIZER: Effect.POSSIBLE,
    Part.SETTINGS: Effect.POSSIBLE,
    Part.CODE: Effect.POSSIBLE,
    Part.FILES: Effect.POSSIBLE,
}
# No text has the same vector with another one of these.
_CERTAIN_SETTINGS = (MODULES, POOLING_MODE)


def compare(old: LockedModel, new: LockedModel, read_old: Read, read_new: Read) -> Difference:
    """Return how a new version of a model differs from an old one; see `inputs_of` for what is read."""
    changed = other_paths(old, new)
    before, after = (inputs_of(model, read, changed) for model, read in ((old, read_old), (new, read_new)))
    changes, unread = list(changes_of_pin(old, new)), []
    for path in changed:
        versions = before.get(path), after.get(path)
        found = next(version for version in reversed(versions) if version)
        effect = _EFFECTS.get(found.part, Effect.NONE)
        if all(version is None or version.settings is not None for version in versions):
            settings = [*_changes_of_settings(path, *versions, found.part)]
            changes += settings or [_change_of_file(path, *versions, found.part, Effect.NONE)]
            continue
        changes.append(_change_of_file(path, *versions, found.part, effect))
        if found.part is Part.SETTINGS:
            unread.append(path)
    order = {part: number for number, part in enumerate(Part)}
    changes = [_as_format(change, before, after) for change in changes]
    return Difference(tuple(sorted(changes, key=lambda change: (order[change.part], change.name))), tuple(unread))


def other_paths(old: LockedModel, new: LockedModel) -> list[str]:
    """Return the paths of the files that differ in content, or that one of two versions lacks; sorted."""
    one, other = ({file.path: file.sha256 for file in model.files} for model in (old, new))
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _changes_of_settings(path: str, one: Input | None, other: Input | None, part: Part) -> Iterator[Change]:
    """Yield the settings of a file that differ."""
    for effect in (_EFFECTS.get(part, Effect.NONE), Effect.NONE):
        old, new = (_settings(version, effect) for version in (one, other))
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                counts = Effect.CERTAIN if key in _CERTAIN_SETTINGS and one and other else effect
                yield Change(part, f"{path}: {key}", old.get(key, ""), new.get(key, ""), counts, is_file=False)


def _settings(version: Input | None, effect: Effect) -> Mapping[str, str]:
    """Return the settings of a version that have an effect, or those that have none."""
    if version is None:
        return {}
    return (version.settings if effect else version.without_effect) or {}


def _change_of_file(path: str, one: Input | None, other: Input | None, part: Part, effect: Effect) -> Change:
    """Return the change of a file as a whole."""
    return Change(part, path, one.sha256 if one else "", other.sha256 if other else "", effect)


def _as_format(change: Change, before: Mapping[str, Input], after: Mapping[str, Input]) -> Change:
    """Return a change of weights as one of their format, where they are in other files than before."""
    if change.part is not Part.WEIGHTS:
        return change
    old, new = (_weights_beside(change.name, inputs) for inputs in (before, after))
    if old == new or not (old and new):
        return change
    return replace(change, part=Part.FORMAT, effect=_EFFECTS[Part.FORMAT])


def _weights_beside(path: str, inputs: Mapping[str, Input]) -> set[tuple[str, bool]]:
    """Return the weight files in the folder of a file, and whether each is converted."""
    folder = path.rpartition("/")[0]
    weights = ((name, found) for name, found in inputs.items() if found.part is Part.WEIGHTS)
    return {(name, found.converted) for name, found in weights if name.rpartition("/")[0] == folder}


def changes_of_pin(old: LockedModel, new: LockedModel) -> Iterator[Change]:
    """Yield what a lock says of two versions beside their files."""
    yield from _named(Part.LICENCE, "licence", old.licence, new.licence)
    yield from _named(Part.ACCESS, "gated", old.gated, new.gated)
    yield from _named(Part.CODE, "remote_code", str(old.remote_code), str(new.remote_code), Effect.POSSIBLE)
    yield from _named(Part.CODE, "packages", " ".join(old.packages), " ".join(new.packages))
    for key in ("revision", "include", "exclude"):
        yield from _named(Part.PIN, key, getattr(old, key), getattr(new, key))


def _named(part: Part, name: str, old: object, new: object, effect: Effect = Effect.NONE) -> Iterator[Change]:
    if old != new:
        words = [" ".join(value) if isinstance(value, tuple) else value for value in (old, new)]
        before, after = (str(word).lower() if isinstance(word, bool) else str(word) for word in words)
        yield Change(part, name, before, after, effect, is_file=False)
