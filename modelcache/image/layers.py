"""The layers that the models of a lock give: a pure function, so equal locks have equal layers everywhere.

A layer is an uncompressed tar archive. Each model has one of its small files, with its receipt and its Hub view, and
one for each large file. So a commit that changes a small file changes a layer of kilobytes. Above `MOST_LAYERS` each
model has one layer; above as many models, groups of models have one each, of about the same size.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelcache.core.hub_view import HUB_NAME, hub_view
from modelcache.core.names import RECEIPT_NAME, directories_of, sanitize_model_id
from modelcache.core.types import LockedFile, LockedModel
from modelcache.image.tar import END, TarEntry, Type, header, padding

MOST_LAYERS = 60
"""Engines take 127 layers; a base image needs some of them."""
LARGE_FILE = 16 << 20
"""Bytes from which a file has a layer of its own."""


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A file of a model in a layer."""

    path: str
    """Within the image."""
    model: LockedModel
    file: LockedFile

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.size

    @property
    def sha256(self) -> str:
        """The pin."""
        return self.file.sha256


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A receipt in a layer, or a ref of the Hub view."""

    path: str
    content: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: its files in order, and its links by path."""

    title: str
    """For people: the models, or the model and its file."""
    files: tuple[LayerFile | OwnFile, ...]
    links: tuple[tuple[str, str], ...] = ()
    """Path and target."""

    @cached_property
    def set_digest(self) -> str:
        """SHA-256 of the sorted `sha256  path` lines of its files: layers of equal content have equal ones."""
        lines = sorted(f"{file.sha256}  {file.path}\n".encode() for file in self.files)
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def parts(self) -> Iterator[bytes | LayerFile]:
        """Yield its bytes in order: headers and padding as they are, and the files of models, which are elsewhere."""
        files, links = {file.path: file for file in self.files}, dict(self.links)
        directories = {name for path in (*files, *links) for name in directories_of(path) if name}
        for path in sorted({*directories, *files, *links}):
            if path in directories:
                yield header(TarEntry(path, Type.DIRECTORY))
            elif path in links:
                yield header(TarEntry(path, Type.SYMLINK, target=links[path]))
            else:
                file = files[path]
                yield header(TarEntry(path, Type.FILE, file.size))
                yield file.content if isinstance(file, OwnFile) else file
                yield bytes(padding(file.size))
        yield END

    @cached_property
    def size(self) -> int:
        """Bytes of the archive."""
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self.parts())

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of its models."""
        return tuple(dict.fromkeys(file.model.id for file in self.files if isinstance(file, LayerFile)))

    @property
    def offset(self) -> int | None:
        """Where the content of its only file begins; None if it has several."""
        if len(self.files) != 1:
            return None
        return self.size - len(END) - self.files[0].size - padding(self.files[0].size)


def plan_layers(
    models: Iterable[LockedModel], prefix: str, receipt: Callable[[LockedModel], bytes]
) -> tuple[Layer, ...]:
    """Return the layers of these models, below the directory `prefix` of the image.

    Large files come first, because an engine unpacks a layer again if one below it has changed.
    """
    models = sorted(models, key=lambda model: (model.id, model.kind))
    large = [(model, file) for model in models for file in _sorted(model.files) if file.size >= LARGE_FILE]
    if len(models) + len(large) <= MOST_LAYERS:
        apart = [Layer(f"{model.id} {file.path}", (_model_file(model, file, prefix),)) for model, file in large]
        return (*apart, *(_layer([model], prefix, receipt, below=LARGE_FILE) for model in models))
    return tuple(_layer(group, prefix, receipt) for group in _groups(models))


def _groups(models: Sequence[LockedModel]) -> list[list[LockedModel]]:
    """Return at most `MOST_LAYERS` groups of about the same size: the largest model first, each to the smallest."""
    groups: list[list[LockedModel]] = [[] for _ in range(min(MOST_LAYERS, len(models)))]
    smallest = [(0, 0, number) for number in range(len(groups))]  # a model may have no bytes, so its number counts, too
    for model in sorted(models, key=lambda model: (-model.size, model.id)):
        size, count, number = heapq.heappop(smallest)
        groups[number].append(model)
        heapq.heappush(smallest, (size + model.size, count + 1, number))
    return sorted((sorted(group, key=lambda model: model.id) for group in groups), key=lambda group: group[0].id)


def _layer(
    models: Sequence[LockedModel], prefix: str, receipt: Callable[[LockedModel], bytes], *, below: int | None = None
) -> Layer:
    """Return the layer of these models: receipts, Hub views, and the files that are smaller than `below` bytes."""
    files: list[LayerFile | OwnFile] = []
    links: list[tuple[str, str]] = []
    for model in models:
        home = _home(model, prefix)
        files.append(OwnFile(f"{home}/{RECEIPT_NAME}", receipt(model)))
        files += [_model_file(model, file, prefix) for file in model.files if below is None or file.size < below]
        if view := hub_view(model):
            folder = f"{prefix}/{HUB_NAME}/{view.folder}"
            files += [OwnFile(f"{folder}/refs/{ref}", view.commit.encode()) for ref in view.refs]
            links += [(f"{folder}/snapshots/{view.commit}/{path}", target) for path, target in view.links.items()]
    title = models[0].id if len(models) == 1 else f"{len(models)} models, from {models[0].id}"
    return Layer(title, tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(links)))


def _home(model: LockedModel, prefix: str) -> str:
    return f"{prefix}/{model.kind.spec.collection}/{sanitize_model_id(model.id)}"


def _model_file(model: LockedModel, file: LockedFile, prefix: str) -> LayerFile:
    return LayerFile(f"{_home(model, prefix)}/{file.path}", model, file)


def _sorted(files: Iterable[LockedFile]) -> list[LockedFile]:
    return sorted(files, key=lambda file: file.path)
