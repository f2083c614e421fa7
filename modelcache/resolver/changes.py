"""The changes between two versions of a model, and the effect of each on its outputs. Rules only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelcache.core.changes import Change, Difference, Part
from modelcache.core.effect import Effect
from modelcache.core.file_patterns import matches
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.resolver.inputs import Input, Read, inputs_of
from modelcache.resolver.library_schema import POOLING_MODE
from modelcache.resolver.settings import MODULES

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
    changed = set(other_paths(old, new))
    to_read = changed | _paths_included_anew(old, new)
    before, after = (inputs_of(model, read, to_read) for model, read in ((old, read_old), (new, read_new)))
    changes, unread = list(changes_of_pin(old, new)), []
    for path in sorted(before.keys() | after.keys()):
        versions = before.get(path), after.get(path)
        one, other = (version.counted if version else None for version in versions)
        if path not in changed and one == other:
            continue
        part = _part_of(*versions)
        effect = _EFFECTS.get(part, Effect.NONE) if one != other else Effect.NONE
        if all(version is None or version.settings is not None for version in versions):
            settings = [*_changes_of_settings(path, *versions, part)]
            changes += settings or [_change_of_file(path, *versions, part, effect)]
            continue
        changes.append(_change_of_file(path, *versions, part, effect))
        if part is Part.SETTINGS:
            unread.append(path)
    order = {part: number for number, part in enumerate(Part)}
    changes = [_as_format(change, before, after) for change in changes]
    return Difference(tuple(sorted(changes, key=lambda change: (order[change.part], change.name))), tuple(unread))


def other_paths(old: LockedModel, new: LockedModel) -> list[str]:
    """Return the paths of the files that differ in content, or that one of two versions lacks; sorted."""
    one, other = ({file.path: file.sha256 for file in model.files} for model in (old, new))
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _paths_included_anew(old: LockedModel, new: LockedModel) -> set[str]:
    """Return the paths that `include` names for one of two versions alone; the same file may count for that one."""
    paths = {file.path for model in (old, new) for file in model.files} if old.include != new.include else set()
    return {path for path in paths if matches(path, old.include) != matches(path, new.include)}


def _part_of(one: Input | None, other: Input | None) -> Part:
    """Return the part of a file: that of the newer version that counts, else that of the newer one."""
    versions = [version for version in (other, one) if version]
    return next((version for version in versions if version.counted is not None), versions[0]).part


def _changes_of_settings(path: str, one: Input | None, other: Input | None, part: Part) -> Iterator[Change]:
    """Yield the settings of a file that differ."""
    counted = [version.settings or {} if version and version.counted else {} for version in (one, other)]
    others = [version.without_effect or {} if version else {} for version in (one, other)]
    for (old, new), effect in ((counted, _EFFECTS.get(part, Effect.NONE)), (others, Effect.NONE)):
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                counts = Effect.CERTAIN if effect and key in _CERTAIN_SETTINGS and one and other else effect
                yield Change(part, f"{path}: {key}", old.get(key, ""), new.get(key, ""), counts, is_file=False)


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
    runs = Effect.POSSIBLE if RemoteCode.VENDORED in (old.remote_code, new.remote_code) else Effect.NONE
    yield from _named(Part.CODE, "remote_code", str(old.remote_code), str(new.remote_code), runs)
    yield from _named(Part.CODE, "packages", " ".join(old.packages), " ".join(new.packages))
    for key in ("revision", "include", "exclude"):
        yield from _named(Part.PIN, key, getattr(old, key), getattr(new, key))


def _named(part: Part, name: str, old: object, new: object, effect: Effect = Effect.NONE) -> Iterator[Change]:
    if old != new:
        words = [" ".join(value) if isinstance(value, tuple) else value for value in (old, new)]
        before, after = (str(word).lower() if isinstance(word, bool) else str(word) for word in words)
        yield Change(part, name, before, after, effect, is_file=False)
