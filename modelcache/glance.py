"""The fast look at a model directory: receipt, names, sizes, times. Only what looks touched is read."""

from __future__ import annotations

import stat
from pathlib import Path

from modelcache.digests import sha256_of
from modelcache.disk import walk
from modelcache.layout import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.receipt import format_receipt, read_receipt
from modelcache.records import LockedModel
from modelcache.stamp import Facts, facts_of
from modelcache.verify import verify


def glance(home: Path, model: LockedModel, stamped: Facts | None = None) -> str | None:
    """Return why `home` does not hold this version, or None when it does; "" when nothing is there.

    A file is believed without being read when the stamp's facts still fit it (`stamped`, by path within the
    model) or, for a file that the stamp does not know, when its mtime is the one all files are published with.
    Any other file is hashed: a copied volume or a file system without times costs one reading, no fetching.
    """
    if not home.is_dir():
        return ""
    if (there := read_receipt(home)) is None:
        return "it has no receipt"
    if format_receipt(there) != format_receipt(model):
        return "another version is there"
    difference = verify(home, model, quick=True)
    if not difference.ok:
        wrong = [*difference.missing, *difference.extra, *(changed.path for changed in difference.changed)]
        return f"{wrong[0]} differs" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
    expected = {file.path: file.sha256 for file in model.files}
    for path, found in walk(home):
        if not stat.S_ISREG(found.st_mode) or path == RECEIPT_NAME:
            continue
        known = stamped.get(path) if stamped else None
        believed = facts_of(str(home / path)) == known if known else found.st_mtime_ns == PUBLISHED_MTIME * 10**9
        if not believed and sha256_of(home / path) != expected[path]:
            return f"{path} differs"
    return None


def facts_below(home: Path) -> Facts:
    """Return the facts of a model directory and of everything in it, by path within the root."""
    paths = ["", *(path for path, _ in walk(home))]
    return {_in_root(home, path): facts_of(str(home / path)) for path in paths}


def facts_within(facts: Facts, home: Path) -> Facts:
    """Return the facts of one model out of those of a root, by path within the model."""
    prefix = _in_root(home, "") + "/"
    return {path.removeprefix(prefix): fact for path, fact in facts.items() if path.startswith(prefix)}


def _in_root(home: Path, path: str) -> str:
    return f"{home.parent.name}/{home.name}/{path}".rstrip("/")
