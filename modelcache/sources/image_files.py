"""The files of published models among the entries of an image's layers, as an engine would unpack them.

A model is found by its receipt, in a collection below any directory. A collection and the Hub view beside it hold
nothing but files, directories and the links of the view. Everything else, as the files of a base image, does not count.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelcache.core.errors import PolicyError
from modelcache.core.hub_view import HUB_NAME, leads_to_model
from modelcache.core.kinds import COLLECTIONS
from modelcache.core.names import RECEIPT_NAME, directories_of
from modelcache.core.text import escape, first_lines
from modelcache.image.tar import TarEntry, Type

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_MOST_ENTRIES, _MOST_FILES = 2_000_000, 200_000


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file in a layer; `layer` is the number of the layer, `start` counts from the beginning of its blob."""

    layer: int
    start: int
    size: int


@dataclass
class ImageFiles:
    """The files of models in an image; its layers are added from the lowest up."""

    image: str
    """Its name, for messages."""
    _files: dict[str, PlacedFile] = field(default_factory=dict)
    """Of the collections, by path in the image."""
    _homes: dict[tuple[str, str], str] = field(default_factory=dict)
    """The path of each model's directory, by collection and name."""
    _above: set[str] = field(default_factory=set)
    """The directories above the models that were found."""
    _odd: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Why entries may not stand among models, by the directory that would be the root of these."""
    _removed: list[str] = field(default_factory=list)
    """Which entries remove models of the layers below."""
    _seen: int = 0
    _concerning: int = 0

    @property
    def empty(self) -> bool:
        """Whether no model was found."""
        return not self._homes

    def find(self, collection: str, name: str, path: str) -> PlacedFile | None:
        """Return a file of a model."""
        home = self._homes.get((collection, name))
        return None if home is None else self._files.get(f"{home}/{path}")

    def holds(self, collection: str, name: str) -> bool:
        """Whether a model was found."""
        return (collection, name) in self._homes

    def concerning(self, entries: Iterable[TarEntry]) -> list[TarEntry]:
        """Return those of the next layer's entries that may be of a model; PolicyError if the image has too many."""
        found = []
        for entry in entries:
            self._seen += 1
            if self._concerns(entry):
                self._concerning += 1
                found.append(entry)
            if self._seen > _MOST_ENTRIES or self._concerning > _MOST_FILES:
                most = f"{_MOST_ENTRIES} entries, or {_MOST_FILES} in directories of models"
                raise PolicyError(f"{self.image} has more than {most}", hint="Do not use this image.")
        return found

    def _concerns(self, entry: TarEntry) -> bool:
        """Whether an entry may be of a model, or may remove one."""
        parts = entry.path.split("/")
        return (
            HUB_NAME in parts
            or parts[-1].startswith(_WHITEOUT)
            or not COLLECTIONS.isdisjoint(parts)
            or entry.path in self._above
        )

    def add(self, layer: int, entries: Iterable[TarEntry]) -> None:
        """Add the entries of the next layer."""
        for entry in entries:
            parts = entry.path.split("/")
            if (covered := _covered_by(entry, parts)) in self._above:
                self._removed.append(f"{escape(entry.path, 200)} replaces or removes {escape(covered or '/', 200)}")
            number = next((number for number, part in enumerate(parts) if part in COLLECTIONS), None)
            if number is not None:
                self._add_file(layer, entry, parts, number)
                continue
            for number, part in enumerate(parts):
                root = "/".join(parts[:number])
                if part == HUB_NAME and (problem := _problem_with(entry, parts, view_of=root)):
                    self._odd[root].append(problem)

    def refuse_odd(self) -> None:
        """Refuse an image that has other entries among its models than this tool writes."""
        roots = {home.rpartition("/")[0].rpartition("/")[0] for home in self._homes.values()}
        problems = [*self._removed, *(problem for root in sorted(roots) for problem in self._odd.get(root, ()))]
        if problems:
            raise PolicyError(
                f"{self.image} has entries that no image of models has:\n  " + "\n  ".join(first_lines(problems)),
                hint="Do not use it before its owner has explained them; `cache-models export` writes one without.",
            )

    def _add_file(self, layer: int, entry: TarEntry, parts: list[str], number: int) -> None:
        if problem := _problem_with(entry, parts):
            self._odd["/".join(parts[:number])].append(problem)
        elif entry.type is Type.DIRECTORY:
            self._files.pop(entry.path, None)
        else:
            self._files[entry.path] = PlacedFile(layer, entry.start, entry.size)
            if parts[number + 2 :] == [RECEIPT_NAME]:
                home = "/".join(parts[:-1])
                self._homes[parts[number], parts[number + 1]] = home
                self._above.update(directories_of(home))


def _problem_with(entry: TarEntry, parts: list[str], view_of: str | None = None) -> str:
    """Return why an entry may not stand among models, or in the Hub view of a root; or nothing."""
    path = escape(entry.path, 200)
    if parts[-1].startswith(_WHITEOUT):
        return f"{path} removes a file of a layer below"
    if entry.type is Type.SYMLINK and (view_of is None or not _is_of_view(entry, view_of)):
        return f"{path} is a link to {escape(entry.target, 200)}"
    if entry.type is Type.OTHER:
        return f"{path} is a {entry.type}"
    return ""


def _is_of_view(entry: TarEntry, root: str) -> bool:
    """Whether a link leads to a file in a collection of this root."""
    found = posixpath.relpath(f"/{posixpath.dirname(entry.path)}/{entry.target}", f"/{root}")
    return leads_to_model(entry.target) and found.partition("/")[0] in COLLECTIONS


def _covered_by(entry: TarEntry, parts: list[str]) -> str | None:
    """Return the path that an engine removes from the layers below to unpack an entry; None for a directory."""
    if entry.type is Type.DIRECTORY:
        return None
    above = "/".join(parts[:-1])
    if parts[-1] == _OPAQUE:
        return above
    name = parts[-1].removeprefix(_WHITEOUT)
    return f"{above}/{name}" if above else name
