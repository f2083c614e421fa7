"""The zip file around a pickle is one that torch writes, and lies about nothing, or is refused."""

from __future__ import annotations

import errno
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.convert.pickle_to_safetensors import convert
from modelcache.convert.torch_file import TorchFile, entries_of
from tests.support import tiny
from tests.support.torch_files import GOOD, STORAGE, MiB, one, refusal, tensor, without_crcs, written, zipped


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "data.pkl|not a zip file"),
        (GOOD[1:], "no data.pkl"),
        (GOOD[:1], "no data for the storage"),
        ([*GOOD, ("other/x", b"")], '"other/x" is not in the one folder'),
        ([*GOOD, ("x", b"")], '"x" is not in the one folder'),
        ([*GOOD, ("/archive/x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/../x", b"")], "not in the one folder"),
        ([*GOOD, ("archive//x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/", b"")], "not in the one folder"),
        ([*GOOD, ("archive/\\x", b"")], "not in the one folder"),
        ([*GOOD, ("archive/\x1b[2J", b"")], "not in the one folder"),
        ([*GOOD, ("archive/ö", b"")], "not in the one folder"),
        ([*GOOD, ("archive/byteorder", b"big")], "not in little-endian order"),
        ([*GOOD, ("archive/byteorder", b"little" * 100)], "should be small"),
        ([*GOOD, ("archive/constants.pkl", b"")], "TorchScript"),
        ([*GOOD, ("archive/code/__torch__.py", b"")], "TorchScript"),
    ],
)
def test_another_zip_is_refused(entries: list[tuple[str, bytes]], reason: str, pickled: Path, converted: Path) -> None:
    written(pickled, entries)
    told = refusal(pickled, converted)
    assert any(part in told for part in reason.split("|"))


def test_compressed_entries_are_refused(pickled: Path, converted: Path) -> None:
    written(pickled, GOOD, zipfile.ZIP_DEFLATED)
    assert '"archive/data.pkl" is compressed or encrypted' in refusal(pickled, converted)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(pickled: Path, converted: Path) -> None:
    written(pickled, [*GOOD, GOOD[1]])
    assert '"archive/data/0" is there twice' in refusal(pickled, converted)


def patched(path: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A good file with something else in its directory's entry of data/0; its place is given."""
    content = bytearray(written(path, GOOD).read_bytes())
    change(content, content.rfind(b"PK\1\2"))
    path.write_bytes(content)
    return path


def put(form: str, offset: int, value: int) -> Callable[[bytearray, int], None]:
    return lambda content, place: struct.pack_into(form, content, place + offset, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("<I", 42, 0), "another one than|does not begin"),
        (put("<I", 42, 5), "does not begin where it should"),
        (put("<I", 42, 1 << 30), "outside the file"),
        (put("<I", 42, 0xFFFFFFFF), "outside the file"),
        (put("<I", 20, 1 << 30), "compressed"),
        (put("<Q", 20, 1 << 30 | 1 << 62), "reaches beyond the file"),
        (put("<H", 8, 1), "encrypted"),
        (put("<H", 10, 8), "compressed"),
        (put("<H", 6, 99), "zip directory cannot be read"),
        (put("<B", 46, 0), "not in the one folder"),
        (put("<B", 46 + 13, ord("1")), "another one than its directory says"),
        (put("<H", 28, 13), "zip directory cannot be read"),
        (put("<I", 0, 0), "zip directory cannot be read"),
    ],
)
def test_a_directory_that_lies_is_refused(
    change: Callable[[bytearray, int], None], reason: str, pickled: Path, converted: Path
) -> None:
    patched(pickled, change)
    told = refusal(pickled, converted)
    assert any(part in told for part in reason.split("|")), told


def test_something_before_the_zip_is_refused(pickled: Path, converted: Path) -> None:
    content = written(pickled, GOOD).read_bytes()
    pickled.write_bytes(b"PK\3\4" + bytes(60) + content)
    assert "does not begin where it should" in refusal(pickled, converted)


def test_a_zip_with_64_bit_fields_is_read(pickled: Path, converted: Path) -> None:
    """As torch writes for storages over 4 GB: real sizes stand in the extra field."""
    content = bytearray(written(pickled, GOOD).read_bytes())
    place = content.rfind(b"PK\1\2")
    header = struct.unpack_from("<I", content, place + 42)[0]
    extra = struct.pack("<HHQQQ", 1, 24, len(STORAGE), len(STORAGE), header)
    struct.pack_into("<II", content, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", content, place + 30, len(extra))
    struct.pack_into("<I", content, place + 42, 0xFFFFFFFF)
    end = content.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<HII", content, end + 10)
    size += len(extra)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, end + len(extra), 1)
    last = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    pickled.write_bytes(content[:end] + extra + record + locator + last)

    convert(pickled, converted)
    assert converted.read_bytes().endswith(STORAGE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a zip file"),
        (b"PK", "not a zip file"),
        (b"PK\3\4", "zip directory cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a zip file"),
        (pickle.dumps(1, protocol=2), "a bare pickle"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "a tar file"),
    ],
)
def test_what_is_no_zip_is_called_what_it_is(content: bytes, reason: str, pickled: Path, converted: Path) -> None:
    pickled.write_bytes(content)
    assert reason in refusal(pickled, converted)


def test_a_disk_that_fails_is_not_taken_for_a_bad_file(pickled: Path) -> None:
    """Zipfile says "not a zip file" to an input/output error; that would be refused for good, with 5."""

    class Failing(TorchFile):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with Failing(written(pickled, GOOD)) as file, pytest.raises(OSError, match="Input/output error"):
        entries_of(file)


def test_a_huge_directory_is_not_read(pickled: Path, converted: Path) -> None:
    with zipfile.ZipFile(pickled, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.comment = b"x"
    content = bytearray(pickled.read_bytes())
    place = content.rfind(b"PK\5\6")
    content[place:place] = bytes(5 * MiB)
    place = content.rfind(b"PK\5\6")
    struct.pack_into("<II", content, place + 12, 5 * MiB, 0)
    pickled.write_bytes(content)

    assert "directory takes more than" in refusal(pickled, converted)


ENTRIES = ("data.pkl", "byteorder", "data/0", "version")


def spoiled(path: Path, name: str, *, crcs: bool = True) -> Path:
    """A good file with one bit changed in the last byte of an entry."""
    zipped(path, one(tensor()))
    content = bytearray(path.read_bytes() if crcs else without_crcs(path.read_bytes()))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"archive/{name}")
    content[info.header_offset + 30 + len(info.filename) + info.file_size - 1] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ENTRIES)
def test_a_damaged_entry_is_refused_by_name(name: str, pickled: Path, converted: Path) -> None:
    """A bit of the numbers, of the pickle, or of what nobody reads; nothing of the result is left."""
    spoiled(pickled, name)
    told = refusal(pickled, converted)
    assert f'"archive/{name}" is damaged: its CRC-32 is ' in told
    assert list(converted.parent.iterdir()) == [pickled]


def test_a_file_without_crcs_is_converted(pickled: Path, converted: Path) -> None:
    """As torch.save writes it when it is told to: all are 0, and say nothing; as soon as one is not, all count."""
    zipped(pickled, one(tensor()))
    pickled.write_bytes(without_crcs(pickled.read_bytes()))
    convert(pickled, converted)
    assert converted.read_bytes().endswith(STORAGE)
    converted.unlink()

    content = bytearray(zipped(pickled, one(tensor())).read_bytes())
    struct.pack_into("<I", content, content.find(b"PK\1\2") + 16, 0)
    pickled.write_bytes(content)
    assert '"archive/data.pkl" is damaged' in refusal(pickled, converted)


def test_damage_in_a_large_file_is_found_wherever_it_is(pickled: Path, converted: Path) -> None:
    """Also in the last byte of the last entry, and in numbers that no tensor names."""
    tiny.write_pickle(pickled, 9_000_000)
    with zipfile.ZipFile(pickled, "a") as archive:
        archive.writestr("archive/data/99", b"\5" * 100)
        ends = {}
        for name in ("data/0", "data/1", "data/99"):
            info = archive.getinfo(f"archive/{name}")
            ends[name] = info.header_offset + 30 + len(info.filename) + info.file_size
    content = pickled.read_bytes()
    for name, place in (("data/0", ends["data/0"] - 2_000_003), *((name, end - 1) for name, end in ends.items())):
        pickled.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert f'"archive/{name}" is damaged: its CRC-32 is' in refusal(pickled, converted)


def test_without_a_thread_to_be_had_the_numbers_are_checked_all_the_same(
    pickled: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are copied instead of while."""

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    spoiled(pickled, "data/0")
    assert '"archive/data/0" is damaged' in refusal(pickled, converted)
    zipped(pickled, one(tensor()))
    convert(pickled, converted)
    assert converted.read_bytes().endswith(STORAGE)
