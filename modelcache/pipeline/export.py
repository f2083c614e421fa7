"""Write the published models as one OCI image, with no engine of containers and no root."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from modelcache.core.errors import CacheModelsError, raise_all
from modelcache.core.interfaces import Reporter
from modelcache.core.text import size_in_words
from modelcache.core.types import Changed, LockedModel, Verification
from modelcache.formats.receipt import format_receipt
from modelcache.image.descriptors import FILE_OFFSET, FILE_PATH, LAYER_TYPE, MODELS, SET_DIGEST, Descriptor
from modelcache.image.documents import ImageDocuments
from modelcache.image.layers import Layer, plan_layers
from modelcache.pipeline.pins import Project
from modelcache.pipeline.verify import intact_models, model_error
from modelcache.store.layer_copy import Copy, LayerCopy, Write, copy_layer
from modelcache.system.files import storage_errors
from modelcache.system.limits import affordable
from modelcache.system.threads import Pool

_TITLE_WIDTH = 58  # a row of 80 columns


class ImageTarget(Protocol):
    """Where an image is written to; see `store.image_layout`, `store.image_archive` and `pipeline.push`."""

    layers_at_a_time: int
    """How many layers are added at the same time, at most."""

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        """Write a layer, unless it is there; the bytes of one that differs from its pins are dropped."""

    def finish(self, documents: ImageDocuments) -> None:
        """Write the documents, and let the image have its name."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An image that was written."""

    digest: str
    layers: int
    written: int
    """Of the layers, how many were not there already."""
    size: int
    """Bytes of the layers."""


def export(
    models: Sequence[LockedModel],
    project: Project,
    open_target: Callable[[Sequence[Layer]], AbstractContextManager[ImageTarget]],
    *,
    prefix: str,
    make_documents: Callable[[Sequence[Descriptor], Sequence[str]], ImageDocuments],
    reporter: Reporter,
    name: str = "export",
) -> Exported:
    """Write an image of these models, which have to be in the root; each byte is compared with its pin as it is read.

    `name` is that of the command, for the progress. `make_documents` takes the layers and their titles.

    Raises:
        IntegrityError: a model is not as pinned; all that differ are reported, and there is no new image.
        OccupiedError, StorageError, HubError: the target cannot be written.

    """
    errors: list[CacheModelsError] = []
    list(intact_models(models, project, errors, quick=True))
    raise_all(errors)
    layers = plan_layers(models, prefix, format_receipt)
    with storage_errors("write the image", place="target"), open_target(layers) as target:
        reporter.expect(name, sum(layer.size for layer in layers))
        copies = list(_copies(layers, target, project, reporter))
        raise_all(list(_errors(copies, project)))
        descriptors = [_descriptor(layer, copy) for layer, copy in zip(layers, copies, strict=True)]
        documents = make_documents(descriptors, [layer.title for layer in layers])
        target.finish(documents)
    reporter.expect(name, 0)
    written = sum(copy.written for copy in copies)
    return Exported(documents.image.digest, len(layers), written, sum(layer.size for layer in layers))


def _copies(layers: Sequence[Layer], target: ImageTarget, project: Project, reporter: Reporter) -> Iterator[LayerCopy]:
    """Yield what was read of each layer."""

    def copy(layer: Layer, write: Write | None) -> LayerCopy:
        def count(content: bytes | memoryview, at: int) -> None:
            if write:
                write(content, at)
                reporter.advance(len(content))

        return copy_layer(layer, project.places, count if write else None)

    with Pool(affordable(target.layers_at_a_time), "layer") as pool:
        for layer, found in zip(layers, pool.map(partial(target.add, copy=copy), layers), strict=True):
            if not found.written:
                reporter.advance(layer.size, found=True)
            if not found.changed:
                text = f"{layer.title:<{_TITLE_WIDTH}} {size_in_words(layer.size):>9}"
                reporter.event("layer" if found.written else "reused", text, digest=found.sha256, bytes=layer.size)
            yield found


def _errors(copies: Sequence[LayerCopy], project: Project) -> Iterator[CacheModelsError]:
    """Yield an error for each model with files that are not as pinned, whatever layers these are in.

    A model that was replaced meanwhile is whole, and no file of it is damaged: names, sizes and receipt are compared
    again before a file is blamed.
    """
    changed: dict[LockedModel, list[Changed]] = {}
    for copy in copies:
        for model, one in copy.changed:
            changed.setdefault(model, []).append(one)
    for model, files in changed.items():
        errors: list[CacheModelsError] = []
        list(intact_models([model], project, errors, quick=True))
        yield from errors or [model_error(model, Verification(changed=tuple(files)), project)]


def _descriptor(layer: Layer, copy: LayerCopy) -> Descriptor:
    annotations = {SET_DIGEST: layer.set_digest, MODELS: " ".join(layer.models)}
    if layer.offset is not None:
        annotations |= {FILE_PATH: layer.files[0].path, FILE_OFFSET: str(layer.offset)}
    return Descriptor(LAYER_TYPE, f"sha256:{copy.sha256}", layer.size, annotations)
