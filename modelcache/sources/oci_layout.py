"""An OCI image layout on this machine, as a directory or as one tar archive: where its blobs are.

Both are read alike: a blob is a part of a file. In an archive that is found by the headers alone.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from modelcache.core.errors import IntegrityError, PolicyError, UsageError
from modelcache.core.text import escape, size_in_words
from modelcache.core.types import LARGEST_TEXT
from modelcache.image.descriptors import Descriptor, DocumentError
from modelcache.image.documents import ARCHIVE_LIST_NAME, INDEX_NAME, read_index
from modelcache.image.tar import CutShortError, EscapingPathError, TarEntry, TarError, Type, entries_of
from modelcache.sources.schemes import FORMS
from modelcache.system.files import open_plain

_HINT = f"--from (CACHE_MODELS_FROM) takes {FORMS}."
_NO_LAYOUT_HINT = (
    "`docker save` before version 25 and `podman save` without --format write another form: load it with `podman load`,"
    " and write it again with `podman save --format oci-archive --uncompressed`."
)
WRITE_AGAIN = "Write the image again with `cache-models export` or `push`."
COPY_AGAIN = "Copy the image again from where it was made."
_BLOBS = "blobs/"
_MOST_BLOBS = 100_000
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A part of a file on this machine."""

    path: Path
    start: int
    size: int

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, int], bytes]]:
        """Open it; the function that is yielded returns its bytes between two positions."""
        with open_plain(self.path) as file:
            yield lambda start, end: os.pread(file.fileno(), min(end, self.size) - start, self.start + start)

    def sha256(self) -> str:
        """Hash it, in flat memory."""
        digest = hashlib.sha256()
        with self.reading() as read:
            for start in range(0, self.size, _CHUNK):
                digest.update(read(start, start + _CHUNK))
        return digest.hexdigest()


class Layout(Protocol):
    """The files of a layout, by name."""

    def refuse_absent(self) -> None:
        """Refuse a path where nothing is, or another thing; UsageError says which."""

    def find(self, name: str) -> LocalBlob | None:
        """Return a file, by its path in the layout; None where none is.

        Raises:
            IntegrityError: something else than a plain file is there.

        """


class ImageLayout:
    """The images of a layout, as a store of blobs; `name` is for messages."""

    is_remote = False

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout = layout
        self._name = name

    def images(self) -> Sequence[Descriptor]:
        """Return the images and indexes that index.json names.

        Raises:
            UsageError: it is absent, or no layout.

        """
        self._layout.refuse_absent()
        index = self._layout.find(INDEX_NAME)
        if index is None:
            message = f"{self._name} is no OCI image layout: it has no {INDEX_NAME}"
            raise UsageError(message, hint=_NO_LAYOUT_HINT)
        try:
            return read_index(self._small(INDEX_NAME, index))
        except DocumentError as error:
            raise UsageError(f"{self._name}: {INDEX_NAME} {error}", hint=WRITE_AGAIN) from None

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a small blob; its digest is not checked."""
        return self._small(descriptor.digest, self.layer(descriptor))

    def layer(self, descriptor: Descriptor) -> LocalBlob:
        """Return the blob of a descriptor, which has the size that this says; IntegrityError if it is not there."""
        blob = self._layout.find(f"{_BLOBS}sha256/{descriptor.hex}")
        if blob is None:
            raise IntegrityError(f"{self._name} lacks the blob {descriptor.digest}", hint=COPY_AGAIN)
        if blob.size != descriptor.size:
            message = f"{self._name}: the blob {descriptor.digest} has {blob.size} bytes instead of {descriptor.size}"
            raise IntegrityError(message, hint=COPY_AGAIN)
        return blob

    def _small(self, what: str, blob: LocalBlob) -> bytes:
        if blob.size > LARGEST_TEXT:
            message = f"{self._name}: {what} has more than {size_in_words(LARGEST_TEXT)}"
            raise UsageError(message, hint=WRITE_AGAIN)
        with blob.reading() as read:
            return read(0, blob.size)


class LayoutDirectory:
    """A layout as a directory; `name` is for messages."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name

    def refuse_absent(self) -> None:
        """Refuse a path where no directory is."""
        _refuse_absent(self._path, "directory", stat.S_ISDIR)

    def find(self, name: str) -> LocalBlob | None:
        """Return a file; IntegrityError for a link, a device or a directory."""
        status = _stat(self._path / name, follow=False)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise _no_plain_file(self._name, name)
        return LocalBlob(self._path / name, 0, status.st_size)


class LayoutArchive:
    """A layout as one tar archive, which is not compressed; `name` is for messages."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name

    def refuse_absent(self) -> None:
        """Refuse a path where no file is."""
        _refuse_absent(self._path, "file", stat.S_ISREG)

    def find(self, name: str) -> LocalBlob | None:
        """Return a file.

        Raises:
            IntegrityError: an entry of another type has its name, or the archive is cut short.
            PolicyError: the archive has a path that leads out of it.
            UsageError: it is compressed, or no tar archive that can be read.

        """
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.type is not Type.FILE:
            raise _no_plain_file(self._name, name)
        return LocalBlob(self._file.path, entry.start, entry.size)

    @cached_property
    def _file(self) -> LocalBlob:
        path = Path(os.path.realpath(self._path))  # the archive itself may be named by a link
        return LocalBlob(path, 0, path.stat().st_size)

    @cached_property
    def _entries(self) -> Mapping[str, TarEntry]:
        found: dict[str, TarEntry] = {}
        try:
            with self._file.reading() as read:
                for entry in entries_of(read, self._file.size):
                    if entry.path in (INDEX_NAME, ARCHIVE_LIST_NAME) or entry.path.startswith(_BLOBS):
                        found[entry.path] = entry
                    if len(found) > _MOST_BLOBS:
                        raise PolicyError(
                            f"{self._name} has more than {_MOST_BLOBS} blobs", hint="Do not use this archive."
                        )
        except CutShortError as error:
            raise IntegrityError(f"{self._name} {error}", hint="Copy the archive again.") from None
        except EscapingPathError as error:
            raise PolicyError(f"{self._name} {error}", hint="Do not use this archive.") from None
        except TarError as error:
            hint = "An archive is a tar file, as `docker save` writes it; gunzip or unzstd one that is compressed."
            raise UsageError(f"{self._name} {error}", hint=hint) from None
        return found


def _refuse_absent(path: Path, noun: str, is_one: Callable[[int], bool]) -> None:
    status, where = _stat(path), escape(str(path))
    if status is None:
        raise UsageError(f"there is no {noun} {where}", hint=_HINT)
    if not is_one(status.st_mode):
        raise UsageError(f"{where} is no {noun}", hint=_HINT)


def _no_plain_file(image: str, name: str) -> IntegrityError:
    return IntegrityError(f"{image}: {name} is no plain file", hint="Write the image again.")


def _stat(path: Path, *, follow: bool = True) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
