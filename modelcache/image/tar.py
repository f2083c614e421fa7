"""Tar headers: written by the standard library, read one block at a time.

Written as POSIX.1-2001 (PAX), as the tools of images write them. Read in the same dialect, and with bounds: `tarfile`
takes memory for whatever size a header of an archive claims, and follows its links.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from modelcache.core.names import PUBLISHED_MTIME
from modelcache.core.text import escape

BLOCK = 512
END = bytes(2 * BLOCK)
"""The end of an archive."""

_LONGEST_PAX = 1 << 20
_MOST_ENTRIES = 1 << 18
"""A model has at most 50,000 files, and as many links."""
_MOST_DIGITS = 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Type(StrEnum):
    """The type of an entry."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    OTHER = "device, pipe or hard link"


_TYPES = {tarfile.REGTYPE: Type.FILE, tarfile.AREGTYPE: Type.FILE} | {
    tarfile.DIRTYPE: Type.DIRECTORY,
    tarfile.SYMTYPE: Type.SYMLINK,
}
_OTHERS = {tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}


class TarError(ValueError):
    """A tar archive that cannot be read, or that no tool of images writes; the text is the problem."""


class CutShortError(TarError):
    """The archive ends before one of its entries does."""


class EscapingPathError(TarError):
    """An entry has a path that leads out of the archive."""


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry of a tar archive."""

    path: str
    """POSIX, relative, without `.` and a slash at the end."""
    type: Type
    size: int = 0
    """Bytes of a file; of the others 0."""
    target: str = ""
    """Of a symbolic link."""
    start: int = 0
    """Where the content begins in an archive that was read, in bytes."""


def header(entry: TarEntry) -> bytes:
    """Return the header of an entry: of owner 0, with the mode and the mtime of published files."""
    info = tarfile.TarInfo(entry.path)
    info.type = {Type.DIRECTORY: tarfile.DIRTYPE, Type.SYMLINK: tarfile.SYMTYPE}.get(entry.type, tarfile.REGTYPE)
    info.mode = {Type.DIRECTORY: 0o755, Type.SYMLINK: 0o777}.get(entry.type, 0o644)
    info.size, info.linkname, info.mtime = entry.size, entry.target, PUBLISHED_MTIME
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> int:
    """Return how many bytes follow a content of this size, up to the next block."""
    return -size % BLOCK


def entries_of(read: Callable[[int, int], bytes], size: int) -> Iterator[TarEntry]:
    """Yield the entries of a tar archive of `size` bytes; `read` returns its bytes between two positions.

    Of the contents nothing is read.

    Raises:
        CutShortError: it ends too early.
        EscapingPathError: a path leads out of it.
        TarError: it is compressed, or in another dialect.

    """
    position, count = 0, 0
    attributes: Mapping[str, str] = {}
    while position < size:
        block = read(position, min(position + BLOCK, size))
        if not position and block.startswith((_GZIP, _ZSTD)):
            raise TarError("is compressed")
        if block == bytes(len(block)):
            return
        count += 1
        if count > _MOST_ENTRIES:
            raise TarError(f"has more than {_MOST_ENTRIES} entries")
        found = _parse(block)
        position += BLOCK
        if found.size < 0 or found.size > size - position:
            raise CutShortError(f"is cut short at {escape(found.name, 100)}")
        if found.type == tarfile.XHDTYPE:
            if found.size > _LONGEST_PAX:
                raise TarError(f"has attributes of {found.size} bytes")
            attributes = _records(read(position, position + found.size))
        else:
            entry = _entry(found, attributes, position)
            if entry.size > size - position:
                raise CutShortError(f"is cut short at {escape(entry.path, 100)}")
            found.size, attributes = entry.size, {}
            if entry.path:  # not the root itself
                yield entry
        position += found.size + padding(found.size)


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise TarError(f"is no tar archive ({error})") from None


def _entry(found: tarfile.TarInfo, attributes: Mapping[str, str], start: int) -> TarEntry:
    kind = _TYPES.get(found.type, Type.OTHER)
    path = attributes.get("path", found.name)
    if kind is Type.OTHER and found.type not in _OTHERS:
        raise TarError(f"has {escape(path, 100)} as an entry of type {found.type!r}, which is of another tar dialect")
    path = path.removesuffix("/")
    path = "" if path == "." else path.removeprefix("./")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or (path and ({"", "."} & set(parts))):
        raise EscapingPathError(f"has the path {escape(path, 100)!r}, which leads out of it")
    size = found.size
    if (text := attributes.get("size")) is not None:
        if not text.isdecimal() or len(text) > _MOST_DIGITS:
            raise TarError(f"has {escape(path, 100)} with a size that is no number")
        size = int(text)
    if kind is not Type.FILE:
        size = 0
    return TarEntry(path, kind, size, attributes.get("linkpath", found.linkname) if found.type != b"5" else "", start)


def _records(content: bytes) -> dict[str, str]:
    """Return the attributes that a PAX header has for the next entry: lines of `<length> <key>=<value>`."""
    attributes: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or len(length) > _MOST_DIGITS or not 0 < int(length) <= len(content):
            raise TarError("has attributes that cannot be read")
        line, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, equals, value = line.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise TarError("has attributes that cannot be read")
        if key.startswith(b"GNU.sparse"):
            raise TarError("has a sparse file, which is of another tar dialect")
        attributes[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
    return attributes
