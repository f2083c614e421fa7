"""Where the blobs of a layout are, in a directory and in an archive; and reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.core.errors import IntegrityError, PolicyError, UsageError
from modelcache.sources.oci_layout import Layout, LayoutArchive, LayoutDirectory, LocalBlob
from tests.support.oci_images import Entry, archive, tar

CONTENT = os.urandom((1 << 20) * 2 + 300)
NAME = "blobs/sha256/one"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a blob, and with names that lead elsewhere."""
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha256" / "directory").mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    (folder / "index.json").write_bytes(b"{}")
    (folder / "blobs" / "sha256" / "link").symlink_to("one")
    (folder / "other").write_bytes(b"x")
    return folder


def directory_of(folder: Path) -> Layout:
    """The layout as it is."""
    return LayoutDirectory(folder, "oci:x")


def archive_of(folder: Path) -> Layout:
    """The layout as an archive, which a link leads to."""
    (folder / "blobs" / "sha256" / "link").unlink()
    entries = [Entry(name, folder / name) for name in ("other", "index.json", NAME)]
    tar(folder / "one.tar", [*entries, Entry("./blobs/sha256/link", type=b"2", target="one")])
    (folder / "link.tar").symlink_to("one.tar")
    return LayoutArchive(folder / "link.tar", "oci-archive:x")


@pytest.mark.parametrize("open_layout", [directory_of, archive_of])
def test_a_blob_is_a_part_of_a_file(folder: Path, open_layout: Callable[[Path], Layout]) -> None:
    """Read from any place to any other, never beyond its end, and hashed."""
    layout = open_layout(folder)
    layout.refuse_absent()
    blob = layout.find(NAME)
    assert blob is not None
    assert (blob.size, blob.sha256()) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with blob.reading() as read:
        assert read(0, 10) == CONTENT[:10]
        assert read(1 << 20, (1 << 20) + 5) == CONTENT[1 << 20 : (1 << 20) + 5]
        assert read(blob.size - 4, blob.size + 100) == CONTENT[-4:]
    assert blob.path.read_bytes()[blob.start : blob.start + blob.size] == CONTENT
    assert layout.find("blobs/sha256/two") is None
    with pytest.raises(IntegrityError, match="link is no plain file"):
        layout.find("blobs/sha256/link")


def test_a_directory_in_the_place_of_a_blob(folder: Path) -> None:
    """In an archive it is the directory that the blobs are in."""
    with pytest.raises(IntegrityError, match="directory is no plain file"):
        directory_of(folder).find("blobs/sha256/directory")
    assert directory_of(folder).find("other/below") is None


def test_an_archive_has_no_other_files(folder: Path) -> None:
    """Only the names that a layout has are kept in memory."""
    assert archive_of(folder).find("other") is None


def test_an_archive_is_read_once_and_its_contents_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its headers, however many blobs are looked up; one descriptor at a time."""
    path = archive(folder, folder.parent / "one.tar")
    asked, pread = [], os.pread
    before = len(os.listdir("/proc/self/fd"))

    def counting(fd: int, count: int, position: int) -> bytes:
        asked.append(count)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        return pread(fd, count, position)

    monkeypatch.setattr(os, "pread", counting)
    layout = LayoutArchive(path, "oci-archive:x")
    assert not asked
    assert all(layout.find(name) is not None for name in (NAME, "index.json") * 10)
    assert sum(asked) < 10_000


def test_more_blobs_than_any_image_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is flat."""
    monkeypatch.setattr("modelcache.sources.oci_layout._MOST_BLOBS", 2)
    with pytest.raises(PolicyError, match="more than 2 blobs"):
        LayoutArchive(archive(folder, folder.parent / "one.tar"), "x").find("index.json")


def test_a_path_without_a_layout(tmp_path: Path, folder: Path) -> None:
    """The message has the path, and for a mix-up the other scheme."""
    (tmp_path / "file").touch()
    for layout, words in (
        (LayoutDirectory(tmp_path / "x", ""), f"there is no directory {tmp_path}/x"),
        (LayoutDirectory(tmp_path / "file" / "x", ""), f"there is no directory {tmp_path}/file/x"),
        (LayoutDirectory(tmp_path / "file", ""), f"{tmp_path}/file is no directory"),
        (LayoutArchive(tmp_path / "x", ""), f"there is no file {tmp_path}/x"),
        (LayoutArchive(folder, ""), f"{folder} is no file"),
    ):
        with pytest.raises(UsageError) as error:
            layout.refuse_absent()
        assert error.value.message == words


def test_a_blob_is_opened_as_a_plain_file(tmp_path: Path) -> None:
    """It may have been replaced by a link since it was found."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="link"), LocalBlob(tmp_path / "link", 0, 1).reading():
        pass
