"""The fast look at a model directory: receipt, names, sizes, times. Only what looks touched is read."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import walk
from modelcache.layout import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.receipt import format_receipt, read_receipt
from modelcache.records import Changed, LockedModel, Verification
from modelcache.stamp import Facts, facts_in, facts_of, has_changed
from modelcache.text import shown
from modelcache.verify import verify


@dataclass(frozen=True, slots=True)
class Difference:
    """Why a directory does not hold a version; `wrong` are its files that cannot be used again."""

    reason: str
    wrong: frozenset[str] = frozenset()


def glance(home: Path, model: LockedModel, stamped: Facts | None = None) -> Difference | None:
    """Return how `home` differs from this version, or None; the reason is empty when nothing is there.

    A file is believed without being read when the stamp's facts still fit it (`stamped`, by path within the
    model) or, for a file that the stamp does not know, when its mtime is the one all files are published with.
    Any other file is hashed: a copied volume or a file system without times costs one reading, no fetching.
    """
    if not home.is_dir():
        return Difference("")
    if (there := read_receipt(home)) is None:
        return Difference("it has no receipt")
    if format_receipt(there) != format_receipt(model):
        return Difference("another version is there")
    found = verify(home, model, quick=True)
    wrong = [*found.missing, *found.extra, *(changed.path for changed in found.changed)]
    expected = {file.path: file.sha256 for file in model.files if file.path not in wrong}
    # Facts were noted of one version; under another receipt neither they nor the mtime say anything.
    noted = stamped.get(RECEIPT_NAME) if stamped else None
    other = noted is not None and has_changed(noted, facts_of(str(home / RECEIPT_NAME)))
    for path, sha256 in expected.items():
        facts = facts_of(str(home / path))
        known = stamped.get(path) if stamped else None
        believed = not has_changed(known, facts) if known else facts[1] == PUBLISHED_MTIME * 10**9
        if (other or not believed) and sha256_of(home / path) != sha256:
            wrong.append(path)
    if not wrong:
        return None
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Difference(f"{shown(wrong[0])} differs{more}", frozenset(wrong))


def compare(home: Path, model: LockedModel, stamped: Facts, *, quick: bool, pool: Executor) -> Verification:
    """Compare a directory with its pin: every byte, or with `quick` names, sizes and what looks touched."""
    if not quick:
        return verify(home, model, pool=pool)
    found, difference = verify(home, model, quick=True), glance(home, model, stamped)
    told = {*found.missing, *found.extra, *(changed.path for changed in found.changed)}
    touched = sorted(difference.wrong - told) if difference else []
    return replace(found, changed=(*found.changed, *(Changed(path, "its pinned bytes", "others") for path in touched)))


def facts_below(home: Path) -> Facts:
    """Return the facts of a model directory and of everything in it, by path within the root."""
    whole = {_in_root(home, ""): facts_of(str(home))}
    return whole | {_in_root(home, path): facts_in(found) for path, found in walk(home)}


def facts_within(facts: Facts, home: Path) -> Facts:
    """Return the facts of one model out of those of a root, by path within the model."""
    prefix = _in_root(home, "") + "/"
    return {path.removeprefix(prefix): fact for path, fact in facts.items() if path.startswith(prefix)}


def _in_root(home: Path, path: str) -> str:
    return f"{home.parent.name}/{home.name}/{path}".rstrip("/")
