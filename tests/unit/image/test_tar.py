"""Tar headers: the standard library reads what is written, and is not needed to read what engines write."""

from __future__ import annotations

import collections
import io
import itertools
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelcache.core.names import PUBLISHED_MTIME
from modelcache.image.tar import BLOCK, END, TarEntry, TarError, Type, entries_of, header, padding
from tests.support.faults.fuzz import BUDGET, mutated, soon

LONG = "models/" + "/".join(["folder-" + "x" * 60] * 4) + "/model.safetensors"
NAMES = {
    "short": "models/hub",
    "100 characters": "a" * 100,
    "101 characters": "a" * 101,
    "255 characters in one part": "b" * 255,
    "deep": LONG,
    "not ASCII": "models/größe/模型.json",
    "long and not ASCII": "模" * 80 + "/ü",
    "as a shell has it": "models/a b;$(c)'d",
}
SIZES = [0, 1, 511, 512, 513, (8 << 30) - 1, 8 << 30, 1 << 50]


def read(content: bytes) -> list[TarEntry]:
    return list(entries_of(lambda start, end: content[start:end], len(content)))


def listed(content: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        return archive.getmembers()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", [Type.FILE, Type.DIRECTORY, Type.SYMLINK])
def test_the_standard_library_reads_what_is_meant(name: str, kind: Type) -> None:
    """Owner 0 without a name, the mode and the mtime of published files; a block is whole."""
    target = f"../../{name}" if kind is Type.SYMLINK else ""
    made = header(TarEntry(name, kind, target=target))
    assert len(made) % BLOCK == 0
    (found,) = listed(made + END)
    is_kind = {Type.FILE: found.isreg(), Type.DIRECTORY: found.isdir(), Type.SYMLINK: found.issym()}
    mode = {Type.FILE: 0o644, Type.DIRECTORY: 0o755, Type.SYMLINK: 0o777}[kind]
    assert is_kind[kind]
    assert (found.name, found.linkname, found.size) == (name, target, 0)
    assert (found.uid, found.gid, found.uname, found.gname) == (0, 0, "", "")
    assert (found.mode, found.mtime) == (mode, PUBLISHED_MTIME)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", [Type.FILE, Type.DIRECTORY, Type.SYMLINK])
def test_what_is_written_is_read_back(name: str, kind: Type) -> None:
    entry = TarEntry(name, kind, target="../x" * 40 if kind is Type.SYMLINK else "")
    made = header(entry)
    (found,) = read(made + END)
    assert found == TarEntry(name, kind, target=entry.target, start=len(made))


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size(size: int) -> None:
    """From 8 GiB on, the size does not fit the plain header; of the content nothing is read."""
    made = header(TarEntry("models/weights", Type.FILE, size))
    with tarfile.open(fileobj=io.BytesIO(made), mode="r:") as archive:
        info = archive.next()
    assert info
    assert (info.name, info.size) == ("models/weights", size)
    after = header(TarEntry("models/x", Type.FILE)) + END
    start, last = len(made), len(made) + size + padding(size)

    def look(begin: int, end: int) -> bytes:
        assert end <= start or begin >= last
        return made[begin:end] if begin < start else after[begin - last : end - last]

    found = list(entries_of(look, last + len(after)))
    assert [(entry.path, entry.size, entry.start) for entry in found] == [
        ("models/weights", size, start),
        ("models/x", 0, last + BLOCK),
    ]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 40])
def test_padding_ends_at_a_block(size: int) -> None:
    assert (size + padding(size)) % BLOCK == 0
    assert 0 <= padding(size) < BLOCK


def archive_of(*members: tuple[str, bytes | None, str], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of the standard library: names, contents (None: a directory), targets of links."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, content, target in members:
            info = tarfile.TarInfo(name)
            info.size, info.linkname, info.mtime = len(content or b""), target, 1.5  # a fraction needs a PAX header
            info.type = tarfile.SYMTYPE if target else tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content or b""))
    return made.getvalue()


MEMBERS = (
    ("./", None, ""),
    ("./models", None, ""),
    ("./models/one", b"1" * 700, ""),
    (LONG, b"2", ""),
    ("größe", b"", ""),
    ("link", b"", "models/one"),
    ("long/link", b"", "x/" * 90),
)


def test_an_archive_of_others_is_read() -> None:
    """With `./` before its names, the root as an entry, and attributes that say nothing to us."""
    content = archive_of(*MEMBERS)
    found = read(content)
    kinds = [Type.DIRECTORY, Type.FILE, Type.FILE, Type.FILE, Type.SYMLINK, Type.SYMLINK]
    assert [entry.path for entry in found] == ["models", "models/one", LONG, "größe", "link", "long/link"]
    assert [entry.type for entry in found] == kinds
    assert [entry.target for entry in found][-2:] == ["models/one", "x/" * 90]
    for entry, (_, data, _) in zip(found, MEMBERS[1:], strict=True):
        assert content[entry.start : entry.start + entry.size] == (data or b"")


def test_devices_and_hard_links_are_named() -> None:
    """The caller decides what they are worth; the next entry is found behind each."""
    made = io.BytesIO()
    types = [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, kind in enumerate(types):
            info = tarfile.TarInfo(f"odd-{number}")
            info.type, info.linkname = kind, "models/one"
            archive.addfile(info)
    found = read(made.getvalue())
    assert [entry.type for entry in found] == [Type.OTHER] * 4
    assert [entry.path for entry in found] == ["odd-0", "odd-1", "odd-2", "odd-3"]


def block(name: str = "a", size: int | bytes = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A header, field by field."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8
    head = (head + kind).ljust(257, b"\0") + magic
    head = head.ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """A header of attributes, and them."""
    content = b"".join(records)
    return block("././@PaxHeader", len(content), kind) + content + bytes(padding(len(content)))


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = next(size for size in itertools.count(len(text)) if size == len(str(size)) + len(text))
    return str(length).encode() + text


REFUSED = {
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "is compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "is compressed"),
    "no archive": (b"<html>" * 200, "is no tar archive"),
    "a wrong checksum": (block()[:148] + b"0000000\0" + block()[156:] + END, "is no tar archive"),
    "cut in a header": (block()[:300], "is no tar archive"),
    "cut in a content": (block(size=2000) + bytes(1000), "is cut short at a"),
    "cut in attributes": (block("pax", 600, b"x") + b"9 path=x\n", "is cut short at pax"),
    "shorter than its attributes say": (pax(record("size", "5000")) + block() + END, "is cut short at a"),
    "a size below 0": (block(size=b"\xff" * 11 + b"\xfe") + END, "is cut short at a"),
    "a size of 88 bits": (block(size=b"\x80" + b"\x7f" * 11) + END, "is cut short at a"),
    "a size that is no number": (block(size=b"twelve bytes") + END, "is no tar archive"),
    "an attribute size below 0": (pax(record("size", "-1")) + block() + END, "a with a size that is no number"),
    "an attribute size in words": (pax(record("size", "1e3")) + block() + END, "a with a size that is no number"),
    "an attribute size without end": (pax(record("size", "9" * 5000)) + block() + END, "a size that is no number"),
    "GNU: a long name": (archive_of((LONG, b"", ""), form=tarfile.GNU_FORMAT), "of type b'L', which is of another tar"),
    "GNU: a long link": (archive_of(("a", b"", "x/" * 90), form=tarfile.GNU_FORMAT), "of type b'K'"),
    "GNU: sparse": (block(kind=b"S") + END, "of type b'S'"),
    "PAX: sparse": (pax(record("GNU.sparse.major", "1")) + block() + END, "has a sparse file"),
    "PAX: for all entries": (pax(record("path", "b"), kind=b"g") + block() + END, "of type b'g'"),
    "Solaris": (block(kind=b"X") + END, "of type b'X'"),
    "a vendor's type": (block(kind=b"Z") + END, "of type b'Z'"),
    "attributes of 2 MiB": (block("pax", 2 << 20, b"x") + bytes(3 << 20), "has attributes of 2097152 bytes"),
    "attributes without a length": (pax(b"path=b\n") + block() + END, "attributes that cannot be read"),
    "attributes of length 0": (pax(b"0 path=b\n") + block() + END, "attributes that cannot be read"),
    "attributes beyond their end": (pax(b"99 path=b\n") + block() + END, "attributes that cannot be read"),
    "attributes of a huge length": (pax(b"9" * 5000 + b" a=b\n") + block() + END, "attributes that cannot be read"),
    "attributes without a value": (pax(b"7 path\n") + block() + END, "attributes that cannot be read"),
    "attributes without a line's end": (pax(b"8 path=b") + block() + END, "attributes that cannot be read"),
    "absolute": (block("/etc/passwd") + END, "'/etc/passwd', which leads out of it"),
    "absolute in attributes": (pax(record("path", "/etc/passwd")) + block() + END, "'/etc/passwd', which leads out"),
    "two slashes": (block("//") + END, "which leads out of it"),
    "above": (block("../a") + END, "'../a', which leads out of it"),
    "above in the middle": (block("a/../../b") + END, "'a/../../b', which leads out of it"),
    "above at the end": (block("a/..") + END, "'a/..', which leads out of it"),
    "not plain": (block("a/./b") + END, "'a/./b', which leads out of it"),
    "an empty part": (block("a//b") + END, "'a//b', which leads out of it"),
    "for a terminal": (block("/\x1b[2J") + END, r"'/\\x1b[2J', which leads out of it"),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(TarError) as refused:
        read(content)
    assert words in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_the_helpers_here_make_archives() -> None:
    """Or the table above would prove nothing: with nothing wrong, they are read."""
    content = pax(record("path", "b/c"), record("size", "700")) + block() + bytes(1024) + block("d") + END
    assert [(entry.path, entry.size) for entry in read(content)] == [("b/c", 700), ("d", 0)]
    assert [member.name for member in listed(content)] == ["b/c", "d"]
    with pytest.raises(TarError):
        read(block("a", 513) + bytes(BLOCK))
    assert read(block("a", 512) + bytes(BLOCK)) == [TarEntry("a", Type.FILE, 512, start=BLOCK)]


def test_an_attribute_is_of_the_next_entry_alone() -> None:
    content = pax(record("path", "b")) + block("a") + block("c") + END
    assert [entry.path for entry in read(content)] == ["b", "c"]


def endless(content: bytes) -> Callable[[int, int], bytes]:
    """A reader of the same bytes again and again."""
    return lambda start, end: (content * 3)[start % len(content) :][: end - start]


@pytest.mark.slow
@pytest.mark.parametrize("content", [block(), pax(record("path", "b"))], ids=["files", "attributes"])
def test_entries_without_end(content: bytes) -> None:
    """A server may send them for as long as it is read."""
    with pytest.raises(TarError, match="more than 262144 entries"):
        collections.deque(entries_of(endless(content), 1 << 60), maxlen=0)


PIECES = [block(), pax(record("path", "b")), b"\x80", b"\xff" * 12, b"../", b"/", b"size=", END, bytes(BLOCK)]
VALID = pax(record("path", "b/c"), record("size", "700")) + block() + bytes(1024) + block("d", 3) + b"abc"


def with_checksums(content: bytes) -> bytes:
    """The same with the checksum of each block as a reader wants it, so that more than the checksum is looked at."""
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    fixed = [b[:148] + b"%06o\0 " % (sum(b[:148]) + 256 + sum(b[156:])) + b[156:] if any(b) else b for b in blocks]
    return b"".join(fixed)


@BUDGET
@given(st.binary(max_size=2000) | mutated(VALID, PIECES) | mutated(VALID, PIECES).map(with_checksums))
@example(b"")
@example(bytes(100))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """In words, and soon; no entry is outside, or beyond the end."""
    with soon():
        words, found = "", []
        try:
            found = read(content)
        except TarError as refused:
            words = str(refused)
    assert words.isprintable()
    for entry in found:
        assert entry.path
        assert not entry.path.startswith("/")
        assert ".." not in entry.path.split("/")
        assert 0 <= entry.size <= len(content) - entry.start
