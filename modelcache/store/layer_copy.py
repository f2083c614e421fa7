"""Write a layer from the published models, or compare a copy of it; each byte is read once and hashed in that read.

The SHA-256 of a layer and that of each of its files are taken in two threads, while this one reads and writes.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from modelcache.core.errors import IntegrityError
from modelcache.core.types import Changed, LockedModel
from modelcache.image.layers import Layer, LayerFile
from modelcache.store.layout import Places
from modelcache.system.files import open_plain, storage_errors
from modelcache.system.threads import Pool

if TYPE_CHECKING:
    from hashlib import _Hash

Copy = Callable[[Layer, "Write | None"], "LayerCopy"]
"""`copy_layer` from a certain root."""
Write = Callable[["bytes | memoryview", int], object]
"""Takes bytes and their position in the layer. The bytes may change after it has returned."""

LAYERS_AT_A_TIME = min(max(1, (os.cpu_count() or 1) // 3), 2)
"""How many layers are copied at a time: each takes three threads and buffers of 8 MiB.

A container may have few of the processors and little of the memory of its machine.
"""

_CHUNK = 1 << 20
_CHUNKS = 8
_PIECE = 1 << 17
"""Bytes that are sent at a time: a slow line has to take them within --timeout."""


@dataclass(frozen=True, slots=True)
class LayerCopy:
    """A layer as it was read: its SHA-256, and the files that have other bytes than they are pinned with."""

    sha256: str
    changed: tuple[tuple[LockedModel, Changed], ...] = ()
    written: bool = True
    """False for one that was there."""


def copy_layer(layer: Layer, places: Places, write: Write | None) -> LayerCopy:
    """Read a layer from the published models, and give its bytes to `write`; without one, only hash them.

    Where a file is not as pinned, the bytes of the layer are of no use. StorageError where one cannot be read.
    """
    position = 0
    with _LayerHashes() as hashes:
        for part in layer.parts():
            for piece in [hashes.add(part)] if isinstance(part, bytes) else _pieces(part, places, hashes):
                if write:
                    write(piece, position)
                position += len(piece)
    return hashes.result()


def compare_layer(layer: Layer, copy: Path, start: int) -> str | None:
    """Return the SHA-256 of the copy of a layer that begins at `start` in a file; None where another one is there.

    Its headers are compared, and each file with its pin.
    """
    with open_plain(copy) as file, _LayerHashes() as hashes:
        for part in layer.parts():
            if not isinstance(part, bytes):
                start += sum(map(len, hashes.pieces_of(part, file.fileno(), start)))
            elif os.pread(file.fileno(), len(part), start) == hashes.add(part):
                start += len(part)
            else:
                return None
    found = hashes.result()
    return None if found.changed else found.sha256


def layer_pieces(layer: Layer, places: Places) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a layer as they are now, to be sent; a piece is valid until the next one is asked for.

    Nothing is hashed: the receiver compares the whole with the digest. IntegrityError where a file is gone or shorter.
    """
    buffer = memoryview(bytearray(_PIECE))
    for part in layer.parts():
        if isinstance(part, bytes):
            yield part
            continue
        path, done = _path_of(part, places), 0
        with storage_errors(f"read {path}"):
            try:
                with open_plain(path) as file:
                    while done < part.size and (count := os.readv(file.fileno(), [buffer[: part.size - done]])):
                        yield buffer[:count]
                        done += count
            except FileNotFoundError:
                pass  # another process replaces or removes the model
        if done < part.size:
            raise IntegrityError(f"{path} has changed while it was sent", hint="Run this again.")


def _path_of(file: LayerFile, places: Places) -> Path:
    return places.home(file.model.kind, file.model.id) / file.file.path


def _pieces(file: LayerFile, places: Places, hashes: _LayerHashes) -> Iterator[memoryview]:
    """Yield the bytes of a file of a published model."""
    path = _path_of(file, places)
    with storage_errors(f"read {path}"), ExitStack() as opened:
        try:
            source = opened.enter_context(open_plain(path))
        except FileNotFoundError:  # another process replaces or removes the model
            hashes.lacks(file)
            return
        yield from hashes.pieces_of(file, source.fileno(), 0)


class _LayerHashes:
    """Takes the SHA-256 of a layer and of its files."""

    def __init__(self) -> None:
        self._layer = hashlib.sha256()
        self._files: list[tuple[LayerFile, _Hash, int]] = []
        # A pool of one thread does its tasks in order.
        self._layer_thread, self._file_thread = Pool(1, "layer"), Pool(1, "file")
        self._chunks = [(bytearray(_CHUNK), list[Future[None]]()) for _ in range(_CHUNKS)]
        self._next_chunk = cycle(self._chunks)
        self._headers = deque[Future[None]]()

    def __enter__(self) -> _LayerHashes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thread in (self._layer_thread, self._file_thread):
            thread.shutdown()

    def add(self, content: bytes) -> bytes:
        """Hash bytes that belong to no file of a model."""
        self._headers.append(self._layer_thread.submit(self._layer.update, content))
        while self._headers and self._headers[0].done():
            _finish([self._headers.popleft()])
        return content

    def pieces_of(self, file: LayerFile, fd: int, start: int) -> Iterator[memoryview]:
        """Read the bytes of a file, hash them, and yield them; fewer where the open file ends early."""
        digest, done = hashlib.sha256(), 0
        while done < file.size:
            buffer, busy = next(self._next_chunk)
            _finish(busy)
            view = memoryview(buffer)[: file.size - done]
            count = os.preadv(fd, [view], start + done)
            if not count:
                break
            view = view[:count]
            busy[:] = [
                self._layer_thread.submit(self._layer.update, view),
                self._file_thread.submit(digest.update, view),
            ]
            yield view
            done += count
        self._files.append((file, digest, done))

    def lacks(self, file: LayerFile) -> None:
        """Note a file that is not there: none of its bytes were read."""
        self._files.append((file, hashlib.sha256(), 0))

    def result(self) -> LayerCopy:
        """Return what was read, after the last byte; a failure of a thread is raised here at last."""
        _finish(chain(self._headers, *(busy for _, busy in self._chunks)))
        changed: list[tuple[LockedModel, Changed]] = []
        for file, digest, done in self._files:
            if done != file.size:
                changed.append((file.model, Changed(file.file.path, file.size, done)))
            elif digest.hexdigest() != file.sha256:
                changed.append((file.model, Changed(file.file.path, file.sha256, digest.hexdigest())))
        return LayerCopy(self._layer.hexdigest(), tuple(changed))


def _finish(tasks: Iterable[Future[None]]) -> None:
    """Wait for hashes; LimitError, wherever that is, if a thread had too little memory."""
    with storage_errors("hash a layer"):
        for task in tasks:
            task.result()
