"""An OCI image layout on disk: a file for each blob, named by its digest, and index.json, which names the images.

A layer is written under a temporary name, and gets that of its digest when it is whole and flushed. index.json is
replaced last. So a run that was killed leaves whole layers that no image has. A journal says what they hold: the next
run compares them, and writes only the others. It does the same with the layers of the image that it replaces. At its
end it removes each blob of the journal that no image of the layout has.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from modelcache.core.errors import OccupiedError
from modelcache.image.descriptors import REF_NAME, SET_DIGEST, Descriptor, DocumentError
from modelcache.image.documents import (
    INDEX_NAME,
    LAYOUT,
    LAYOUT_NAME,
    TAG,
    ImageDocuments,
    index_with,
    read_index,
    references_of,
)
from modelcache.image.layers import Layer
from modelcache.store.layer_copy import LAYERS_AT_A_TIME, Copy, LayerCopy, compare_layer
from modelcache.store.space import make_room
from modelcache.system.atomic_write import exclusive, write_text_atomically
from modelcache.system.directories import make_below
from modelcache.system.durable import flush, pwrite_all, sync_directory
from modelcache.system.files import create_file, read_own, read_own_if_there

BLOBS = "blobs/sha256"
SPACE_HINT = "Free some space, or choose another target."

_JOURNAL = ".cache-models.layers"
_UNFINISHED = ".unfinished-"


@contextmanager
def open_layout(folder: Path, layers: Sequence[Layer]) -> Iterator[LayoutTarget]:
    """Open a layout, which need not be there yet, for an image of these layers.

    Raises:
        OccupiedError: something else stands there.
        StorageError: there is too little space.

    """
    _refuse_foreign(folder)
    make_below(None, folder)
    with exclusive(folder) as locked:
        _write(folder / LAYOUT_NAME, LAYOUT)  # first, so that the next run knows the directory
        make_below(folder, folder / BLOBS)
        if locked:
            for pattern in (f"{_UNFINISHED}*", f".{'[0-9a-f]' * 64}.*"):
                for leftover in (folder / BLOBS).glob(pattern):
                    leftover.unlink(missing_ok=True)
        target = LayoutTarget(folder, alone=locked)
        make_room(folder, sum(layer.size for layer in layers if target.blob_of(layer) is None), hint=SPACE_HINT)
        yield target


class LayoutTarget:
    """A layout that is being written; `add` may be called by several threads."""

    layers_at_a_time = LAYERS_AT_A_TIME

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self._folder = folder
        self._alone = alone
        """Whether no other run writes here: without locks nothing is removed."""
        self._replaced = _replaced_in(folder)
        layers = [one for one in self._replaced if SET_DIGEST in one.annotations]
        self._known = {one.annotations[SET_DIGEST]: one.hex for one in layers} | _journal_of(folder)
        """The digest of each layer that should be there, by its set digest."""

    def blob_of(self, layer: Layer) -> Path | None:
        """Return the file that holds a layer, by what is known of it; its bytes are not read."""
        digest = self._known.get(layer.set_digest)
        path = self._folder / BLOBS / digest if digest else None
        with suppress(OSError):
            if path and path.lstat().st_size == layer.size:
                return path
        return None

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        """Write a layer, unless it is there."""
        blob = self.blob_of(layer)
        if blob and compare_layer(layer, blob, 0) == blob.name:
            return LayerCopy(blob.name, written=False)
        unfinished = self._folder / BLOBS / f"{_UNFINISHED}{secrets.token_hex(8)}"
        fd = create_file(unfinished)
        try:
            found = copy(layer, partial(pwrite_all, fd))
            if found.changed:
                return found
            flush(fd)
            self._note({layer.set_digest: found.sha256})
            os.rename(unfinished, self._folder / BLOBS / found.sha256)
        finally:
            os.close(fd)
            unfinished.unlink(missing_ok=True)
        return found

    def finish(self, documents: ImageDocuments) -> None:
        """Write the documents, let the image have its name, and remove the blobs that only the replaced one had."""
        self._note({name: name for name in (*documents.blobs, *(one.hex for one in self._replaced))})
        for name, content in documents.blobs.items():
            _write(self._folder / BLOBS / name, content)
        sync_directory(self._folder / BLOBS)
        index = self._folder / INDEX_NAME
        try:
            content = index_with(documents.image, read_own_if_there(index))
        except DocumentError:
            content = index_with(documents.image)
        _write(index, content)
        sync_directory(self._folder)
        if not self._alone:
            return
        with suppress(OSError, DocumentError):  # of an image that cannot be read everything stays
            kept = {one.hex for one in _below(self._folder, read_index(content))}
            for name in set(_journal_of(self._folder).values()) - kept:
                (self._folder / BLOBS / name).unlink(missing_ok=True)
        (self._folder / _JOURNAL).unlink(missing_ok=True)

    def _note(self, blobs: Mapping[str, str]) -> None:
        """Write names of blobs into the journal: those that will be there, and those that will be removed.

        A layer is named by its set digest, any other blob by itself.
        """
        fd = create_file(self._folder / _JOURNAL, os.O_WRONLY | os.O_APPEND)
        try:
            lines = "".join(f"{key} {digest}\n" for key, digest in blobs.items())
            os.write(fd, f"\n{lines}".encode())  # the last line of a killed run may be torn
            flush(fd)
        finally:
            os.close(fd)


def _write(path: Path, content: bytes) -> None:
    """Write a small file in one step; any user may read it, as the layers, whatever the umask."""
    write_text_atomically(path, content.decode())
    with suppress(OSError):  # another user has written the same, or the file system has no modes
        path.chmod(0o644)


def _refuse_foreign(folder: Path) -> None:
    if not os.path.lexists(folder):  # asked first: another run may make it at any moment
        return
    message = f"{folder} is not a directory"
    if folder.is_dir():
        names = set(os.listdir(folder))
        if not names or any(name == LAYOUT_NAME or name.startswith(f".{LAYOUT_NAME}.") for name in names):
            return
        message = f"{folder} holds other files and is no OCI image layout"
    raise OccupiedError(message, hint="Name a new directory, or a file that ends in .tar.")


def _replaced_in(folder: Path) -> list[Descriptor]:
    """Return the blobs of the image that the next one replaces; none of one that this tool did not write."""
    with suppress(OSError, DocumentError):
        images = [one for one in read_index(read_own(folder / INDEX_NAME)) if one.annotations.get(REF_NAME) == TAG]
        found = _below(folder, images[:1])
        return found if any(SET_DIGEST in one.annotations for one in found) else []
    return []


def _journal_of(folder: Path) -> dict[str, str]:
    """Return the layers that a killed run has written, by their set digests; a torn line does not count."""
    with suppress(OSError, UnicodeDecodeError):
        lines = (read_own_if_there(folder / _JOURNAL) or b"").decode().split("\n")[:-1]
        pairs = [line.split(" ") for line in lines]
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and _is_hex(pair[1])}
    return {}


def _is_hex(name: str) -> bool:
    return len(name) == 64 and not set(name) - set("0123456789abcdef")


def _below(folder: Path, images: Iterable[Descriptor]) -> list[Descriptor]:
    """Return these images and everything that their documents refer to, at any depth."""
    found, seen = list(images), set[str]()
    for one in found:
        if (one.is_index or one.is_manifest) and one.hex not in seen:
            seen.add(one.hex)
            found += references_of(read_own(folder / BLOBS / one.hex))
    return found
