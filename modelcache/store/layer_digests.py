"""The digests of layers that were hashed, kept beside the stamp, so that a push of unchanged models reads no file.

A digest counts as long as the files of its layer have not changed by the rule of the stamp (`stamp.has_changed`). The
facts of a file are taken before it is read. It also says which repositories the layer was pushed to: a registry may
take it from there. A registry compares what it receives with the digest. But of a layer that it has already nothing is
sent, so then the digest is believed, as the stamp is: both are as good as those who may write to the root.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelcache.image.layers import Layer, LayerFile
from modelcache.image.reference import Reference
from modelcache.stamp import facts_in, has_changed
from modelcache.store.layout import DIGESTS_NAME, Places
from modelcache.system.files import read_own_if_there, write_file

_MOST_LAYERS = 1000
_MOST_REPOSITORIES = 8
_SHA256 = re.compile("[0-9a-f]{64}")

Facts = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class _Noted:
    """A layer that was hashed."""

    digest: str
    facts: Facts
    """Of its files, by path within the root."""
    repositories: tuple[str, ...] = ()


class LayerDigests:
    """The noted layers of one root; several threads may use them. A root that cannot be written goes without."""

    def __init__(self, root: Path) -> None:
        self._path = root / DIGESTS_NAME
        self._root = root
        self._places = Places.below(root)
        self._noted = _read(self._path)
        self._lock = threading.Lock()

    def find(self, layer: Layer) -> str | None:
        """Return the SHA-256 of a layer whose files have not changed since it was hashed."""
        noted = self._noted.get(layer.set_digest)
        if noted is None:
            return None
        now = self.facts(layer)
        if noted.facts.keys() != now.keys() or any(has_changed(noted.facts[path], now[path]) for path in now):
            return None
        return noted.digest

    def facts(self, layer: Layer) -> Facts:
        """Return the facts of the files of a layer as they are now; none of one that is not there."""
        found: Facts = {}
        for file in layer.files:
            if isinstance(file, LayerFile):
                path = self._places.home(file.model.kind, file.model.id) / file.file.path
                with suppress(OSError):
                    found[str(path.relative_to(self._root))] = facts_in(path.lstat())
        return found

    def note(self, layer: Layer, digest: str, facts: Facts) -> None:
        """Note the digest of a layer, and the facts of its files from before it was read."""
        self._change(layer, _Noted(digest, facts))

    def forget(self, layer: Layer) -> None:
        """Drop a digest that is not that of the files."""
        self._change(layer, None)

    def repositories(self, layer: Layer) -> Sequence[str]:
        """Return the repositories that have a layer, each with its registry; the last one first."""
        noted = self._noted.get(layer.set_digest)
        return noted.repositories if noted else ()

    def note_repository(self, layer: Layer, name: str) -> None:
        """Note that a repository has a layer."""
        noted = self._noted.get(layer.set_digest)
        if noted and noted.repositories[:1] != (name,):
            others = [one for one in noted.repositories if one != name]
            self._change(layer, replace(noted, repositories=(name, *others)[:_MOST_REPOSITORIES]))

    def _change(self, layer: Layer, noted: _Noted | None) -> None:
        with self._lock:
            self._noted.pop(layer.set_digest, None)
            if noted:
                self._noted[layer.set_digest] = noted
            kept = dict(list(self._noted.items())[-_MOST_LAYERS:])
            table = {
                name: {"digest": one.digest, "facts": one.facts, "repositories": one.repositories}
                for name, one in kept.items()
            }
            with suppress(OSError):
                _write(self._path, json.dumps({"version": 1, "layers": table}).encode())


def _write(path: Path, content: bytes) -> None:
    """Replace the file in one step, whatever stands there: others may write to a root, so no link is followed.

    All runs share the name of the new one, as for the stamp; a file that another run has cut short counts as none.
    OSError where it cannot be written; nothing is left beside it then.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)  # of a run that was killed here
    try:
        write_file(beside, content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, _Noted]:
    """Return the noted layers; none of a file that is damaged or of another version."""
    with suppress(OSError, ArithmeticError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        document = json.loads(read_own_if_there(path) or b"{}")
        if document.get("version") == 1:
            return {str(name): _noted(table) for name, table in document["layers"].items()}
    return {}


def _noted(table: Any) -> _Noted:  # noqa: ANN401  # JSON; an error of any kind is caught above
    digest, facts = table["digest"], {str(path): list(map(int, fact)) for path, fact in table["facts"].items()}
    if not _SHA256.fullmatch(digest):
        raise ValueError
    for repository in table["repositories"]:
        Reference.parse(repository)
    return _Noted(digest, facts, tuple(table["repositories"]))
