"""The zip file that torch.save has written since torch 1.6: which entries it has, and where their bytes lie.

torch stores every entry as it is, so each is a span of the file and nothing has to be unpacked. A zip file that torch
does not write is refused: compressed, encrypted, with entries over one another or outside the one folder.

The directory has a CRC-32 of each entry. torch.load does not look at it (2.13), and so takes spoiled numbers for
weights; here a file with such an entry is refused. Where every CRC is 0 there are none: torch.save writes such files
after `torch.serialization.set_crc32_options(False)`.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modelcache.core.text import quote, size_in_words
from modelcache.system.threads import start_thread

# An entry takes some 70 bytes of it, so this is for more than 20,000 tensors in one file.
_MAX_DIRECTORY = 2 << 20
_MAX_BYTEORDER = 16
_CHUNK = 1 << 20

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# Bit 3 (sizes follow the data) and bit 11 (names are UTF-8) are what torch sets.
_FLAGS = 0x0808


class RefusedError(Exception):
    """Why a file is not converted: the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes lie in the file."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Entry(Span):
    """The bytes of an entry, as the zip directory names them."""

    name: str
    crc: int | None
    """None where the file has no CRCs."""


class TorchFile(io.FileIO):
    """A file with bounded reads, since `zipfile` reads a whole directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read all that is asked for, or refuse."""
        most = _MAX_DIRECTORY + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        if len(data) == most:
            raise RefusedError(f"its zip directory takes more than {size_in_words(_MAX_DIRECTORY)}")
        return data


def entries_of(file: TorchFile) -> dict[str, Entry]:
    """Return where each entry's bytes lie, by its name inside the one folder that all are in.

    `data.pkl` is among them, and the numbers in the others are in little-endian order.
    """
    _check_format(os.pread(file.fileno(), 262, 0))
    entries = _read_directory(file)
    if "data.pkl" not in entries:
        raise RefusedError("it has no data.pkl")
    if "byteorder" in entries and (order := read_entry(file, entries["byteorder"], _MAX_BYTEORDER)) != b"little":
        raise RefusedError(f"its bytes are not in little-endian order but {order!r}")
    return entries


def read_entry(file: TorchFile, entry: Entry, most: int) -> bytes:
    """Return the bytes of a small entry, compared with its CRC."""
    if entry.size > most:
        raise RefusedError(f"an entry that should be small takes more than {size_in_words(most)}")
    data = os.pread(file.fileno(), entry.size, entry.start)
    _check_crc(entry, zlib.crc32(data))
    return data


@contextmanager
def checking_crcs(file: TorchFile, entries: Iterable[Entry]) -> Iterator[None]:
    """Compare entries with their CRCs while the body runs, in a thread of its own where one can be had.

    Raises:
        RefusedError: an entry is damaged; the work of the body is of no use.
        OSError: the file cannot be read.

    """
    stopped = threading.Event()
    failures: list[Exception] = []

    def compare() -> None:
        try:
            buffer = memoryview(bytearray(_CHUNK))
            for entry in entries:
                if entry.crc is not None:
                    _check_crc(entry, _crc_of(file, entry, buffer, stopped))
        except Exception as error:  # noqa: BLE001  # raised below: an entry that was not compared is not sound
            failures.append(error)

    thread = start_thread(compare)
    if thread is None:
        compare()
    try:
        yield
    except BaseException:
        stopped.set()
        raise
    finally:
        if thread is not None:
            thread.join()
    if failures:
        raise failures[0]


def _crc_of(file: TorchFile, span: Span, buffer: memoryview, stopped: threading.Event) -> int:
    crc, at, end = 0, span.start, span.start + span.size
    while at < end and not stopped.is_set():
        count = os.preadv(file.fileno(), [buffer[: end - at]], at)
        if not count:
            break  # it became shorter, which no CRC fits
        crc, at = zlib.crc32(buffer[:count], crc), at + count
    return crc


def _check_crc(entry: Entry, found: int) -> None:
    if entry.crc not in (None, found):
        raise RefusedError(
            f"its zip entry {quote(entry.name)} is damaged: its CRC-32 is {found:08x}, not {entry.crc:08x}"
        )


def _check_format(start: bytes) -> None:
    if start.startswith(b"PK\x03\x04"):
        return
    if start.startswith(b"\x80"):
        raise RefusedError("it is a bare pickle, as torch wrote before 1.6")
    if start[257:].startswith(b"ustar"):
        raise RefusedError("it is a tar file, as torch wrote before 0.1.10")
    raise RefusedError("it is not a zip file as torch writes since 1.6")


def _read_directory(file: TorchFile) -> dict[str, Entry]:
    """Return the entries that the directory names; they begin with the file and do not overlap."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        why = error.__context__
        if isinstance(why, OSError) and why.errno != errno.EINVAL:  # a place before the file's beginning
            raise why from None  # zipfile takes a disk that cannot be read for a file that is no zip
        raise RefusedError(f"its zip directory cannot be read ({error})") from None
    infos.sort(key=lambda info: info.header_offset)
    folder = infos[0].filename.partition("/")[0] if infos else ""
    names = [_inner_name(info, folder) for info in infos]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise RefusedError("it is a TorchScript program, not a state dict")
    found: dict[str, Entry] = {}
    done, has_crcs = 0, any(info.CRC for info in infos)
    for name, info in zip(names, infos, strict=True):
        if name in found:
            raise RefusedError(f"its zip entry {quote(info.filename)} is there twice")
        if info.header_offset < done or (not found and info.header_offset):
            raise RefusedError(f"its zip entry {quote(info.filename)} does not begin where it should")
        span = _locate(file, info, end)
        found[name] = Entry(span.start, span.size, info.filename, info.CRC if has_crcs else None)
        done = span.start + span.size
    return found


def _inner_name(info: zipfile.ZipInfo, folder: str) -> str:
    # zipfile cuts a name at its first NUL; the uncut one tells.
    parts = info.orig_filename.split("/")
    plain = info.orig_filename.isascii() and info.orig_filename.isprintable() and "\\" not in info.orig_filename
    if not plain or len(parts) < 2 or parts[0] != folder or {"", ".", ".."} & set(parts):
        raise RefusedError(f"its zip entry {quote(info.orig_filename)} is not in the one folder that torch makes")
    return "/".join(parts[1:])


def _locate(file: TorchFile, info: zipfile.ZipInfo, end: int) -> Span:
    """Find an entry's bytes; only the header in front of them tells how long it is."""
    name = info.orig_filename.encode()
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & ~_FLAGS:
        raise RefusedError(f"its zip entry {quote(info.filename)} is compressed or encrypted")
    if not 0 <= info.header_offset < end:
        raise RefusedError(f"its zip entry {quote(info.filename)} lies outside the file")
    header = os.pread(file.fileno(), _LOCAL_HEADER.size + len(name), info.header_offset)
    if len(header) < _LOCAL_HEADER.size + len(name):
        raise RefusedError("it is cut short")
    signature, _, flags, method, *_, name_length, extra = _LOCAL_HEADER.unpack_from(header)
    local = (signature, flags, method, name_length, header[_LOCAL_HEADER.size :])
    if local != (b"PK\x03\x04", info.flag_bits, info.compress_type, len(name), name):
        raise RefusedError(f"its zip entry {quote(info.filename)} is another one than its directory says")
    start = info.header_offset + len(header) + extra
    if start + info.file_size > end:
        raise RefusedError(f"its zip entry {quote(info.filename)} reaches beyond the file")
    return Span(start, info.file_size)
