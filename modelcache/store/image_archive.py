"""An OCI image as one tar archive: a file, or a stream. Both have the same bytes.

The size of a layer is known before its digest, so a layer of a file is written where it belongs, and its header after
it. The file has a temporary name until it is whole and flushed. The next run compares and completes the file of a
killed one. A stream cannot go back, so every byte is read twice for it: once for the digests, once to be written.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

from modelcache.core.errors import IntegrityError, OccupiedError
from modelcache.image.documents import ARCHIVE_LIST_NAME, INDEX_NAME, LAYOUT, LAYOUT_NAME, ImageDocuments, index_with
from modelcache.image.layers import Layer
from modelcache.image.tar import BLOCK, END, TarEntry, Type, header, padding
from modelcache.store.image_layout import BLOBS, SPACE_HINT
from modelcache.store.layer_copy import LAYERS_AT_A_TIME, Copy, LayerCopy, compare_layer
from modelcache.store.space import make_room
from modelcache.system.durable import flush, pwrite_all, sync_directory
from modelcache.system.files import create_file


@contextmanager
def open_archive(path: Path, layers: Sequence[Layer]) -> Iterator[ArchiveTarget]:
    """Open an archive for an image of these layers; one that is there is replaced when the new one is whole.

    A link to one stays a link.

    Raises:
        OccupiedError: something else stands there.
        StorageError: there is too little space.

    """
    if os.path.lexists(path) and not path.is_file():
        raise OccupiedError(f"{path} is not a file", hint="Name another one that ends in .tar.")
    path = Path(os.path.realpath(path))
    with _unfinished_file(path) as (fd, unfinished):
        target = ArchiveTarget(path, unfinished, fd, layers)
        make_room(path.parent, target.size - os.fstat(fd).st_blocks * BLOCK, hint=SPACE_HINT)
        yield target


class ArchiveTarget:
    """An archive that is being written; `add` may be called by several threads."""

    layers_at_a_time = LAYERS_AT_A_TIME

    def __init__(self, path: Path, unfinished: Path, fd: int, layers: Sequence[Layer]) -> None:
        self._path, self._unfinished, self._fd = path, unfinished, fd
        sizes = [len(_blob_header("", layer.size)) + layer.size for layer in layers]
        self._positions = dict(zip(layers, accumulate(sizes, initial=len(_head())), strict=False))
        self.size = len(_head()) + sum(sizes)
        """Bytes, without those of the documents."""

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        """Write a layer, unless it is there."""
        position = self._positions[layer]
        start = position + len(_blob_header("", layer.size))
        if (there := self._digest_at(position, layer)) and compare_layer(layer, self._unfinished, start) == there:
            return LayerCopy(there, written=False)
        found = copy(layer, lambda content, at: pwrite_all(self._fd, content, start + at))
        if not found.changed:
            pwrite_all(self._fd, _blob_header(found.sha256, layer.size), position)
        return found

    def finish(self, documents: ImageDocuments) -> None:
        """Write the rest, and let the archive have its name."""
        pwrite_all(self._fd, _head(), 0)
        tail = _tail(documents)
        pwrite_all(self._fd, tail, self.size)
        os.ftruncate(self._fd, self.size + len(tail))
        flush(self._fd)
        os.rename(self._unfinished, self._path)
        sync_directory(self._path.parent)

    def _digest_at(self, position: int, layer: Layer) -> str:
        """Return the digest in the header of a layer that a killed run has written; empty where none is."""
        found = os.pread(self._fd, len(_blob_header("", layer.size)), position)
        digest = found[-BLOCK:][len(BLOBS) + 1 :][:64].decode(errors="replace")
        return digest if found == _blob_header(digest, layer.size) else ""


@contextmanager
def open_stream(write: Callable[[bytes | memoryview], object], layers: Sequence[Layer]) -> Iterator[StreamTarget]:
    """Open a stream for an image of these layers."""
    yield StreamTarget(write, layers)


class StreamTarget:
    """A stream that gets an archive; nothing is written before all layers are known to be as pinned."""

    layers_at_a_time = LAYERS_AT_A_TIME

    def __init__(self, write: Callable[[bytes | memoryview], object], layers: Sequence[Layer]) -> None:
        self._write = write
        self._layers = layers
        self._found: dict[Layer, tuple[LayerCopy, Copy]] = {}

    def add(self, layer: Layer, copy: Copy) -> LayerCopy:
        """Read a layer for its digest."""
        found = copy(layer, None)
        self._found[layer] = found, copy
        return found

    def finish(self, documents: ImageDocuments) -> None:
        """Write the archive; IntegrityError if a model has changed since its digest was taken."""
        self._write(_head())
        for layer in self._layers:
            found, copy = self._found[layer]
            self._write(_blob_header(found.sha256, layer.size))
            if copy(layer, lambda content, at: self._write(content)).sha256 != found.sha256:
                raise IntegrityError(f"{layer.title} changed while it was read", hint="Run this again.")
        self._write(_tail(documents))


def _head() -> bytes:
    """Return the beginning of an archive: the mark of a layout, and the directories of the blobs."""
    directories = b"".join(header(TarEntry(path, Type.DIRECTORY)) for path in ("blobs", BLOBS))
    return _file(LAYOUT_NAME, LAYOUT) + directories


def _tail(documents: ImageDocuments) -> bytes:
    """Return the end of an archive: the documents."""
    blobs = [_file(f"{BLOBS}/{name}", content) for name, content in sorted(documents.blobs.items())]
    index = _file(INDEX_NAME, index_with(documents.image))
    return b"".join([*blobs, index, _file(ARCHIVE_LIST_NAME, documents.archive_list), END])


def _file(path: str, content: bytes) -> bytes:
    return header(TarEntry(path, Type.FILE, len(content))) + content + bytes(padding(len(content)))


def _blob_header(digest: str, size: int) -> bytes:
    """Return the header of a layer. No padding follows it, because a layer is an archive of whole blocks itself."""
    return header(TarEntry(f"{BLOBS}/{digest}", Type.FILE, size))


@contextmanager
def _unfinished_file(path: Path) -> Iterator[tuple[int, Path]]:
    """Open the file that becomes the archive: one that a killed run has left, or a new one.

    Its owner holds the lock of the file, so a run that is at work keeps its own. Where the file system has no locks,
    nothing is taken over. An error removes the file; a kill leaves it for the next run.
    """
    kept: tuple[int, Path] | None = None
    for name in sorted(glob.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}", root_dir=path.parent)):
        leftover = path.parent / name
        if (fd := _taken(leftover)) is None:
            continue
        if kept is None:
            kept = fd, leftover
        else:
            leftover.unlink(missing_ok=True)
            os.close(fd)
    while kept is None:
        kept = _created(path.with_name(f".{path.name}.{secrets.token_hex(8)}"))
    try:
        yield kept
    except Exception:
        kept[1].unlink(missing_ok=True)
        raise
    finally:
        os.close(kept[0])


def _created(unfinished: Path) -> tuple[int, Path] | None:
    """Create a file and take its lock; None if another run took it for a leftover in between."""
    fd = create_file(unfinished, os.O_RDWR | os.O_EXCL)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(fd), unfinished.lstat())
    except (BlockingIOError, FileNotFoundError):
        ours = False
    except OSError:  # the file system has no locks
        ours = True
    if ours:
        return fd, unfinished
    os.close(fd)
    return None


def _taken(leftover: Path) -> int | None:
    """Open a file that a killed run has left, with its lock; None for one of a run that is at work, or of a user."""
    try:
        fd = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and os.path.samestat(found, leftover.lstat()):
            return fd
    os.close(fd)
    return None
