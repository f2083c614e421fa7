"""A repository on the Hub or in a directory: which of its entries are read, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelcache.core.errors import PolicyError
from modelcache.core.types import ListedFile
from modelcache.sources.directory import DirectoryRepository
from modelcache.sources.hub_repository import HubRepository
from tests.support.hub import StandInHub
from tests.unit.sources.test_hub_api import to

UNREADABLE = [
    (ListedFile("../secret", 6), "leaves the model's directory"),
    (ListedFile("a/../../secret", 6), "leaves the model's directory"),
    (ListedFile("/etc/passwd", 6), "leaves the model's directory"),
    (ListedFile("a\0b", 6), "has characters or a name"),
    (ListedFile("link.json", 0, entry="symlink"), "is a symlink; only plain files are shipped"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a file, a few links, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "link.json").symlink_to(tmp_path / "secret")
    (made / "latest").symlink_to(tmp_path)
    (made / "gone").symlink_to("nowhere")
    return made


@pytest.mark.parametrize(("file", "problem"), UNREADABLE, ids=lambda one: repr(getattr(one, "path", one)))
def test_what_is_no_plain_file_inside_is_not_read(
    hub: StandInHub, folder: Path, file: ListedFile, problem: str
) -> None:
    """Neither on this disk nor from the Hub, whoever asks for it."""

    def looked_for(file: ListedFile) -> Iterator[Path]:
        pytest.fail(f"{file.path} is looked for")
        yield folder

    hub.add("a/b", {"config.json": b"{}"})
    connected = to(hub.url)
    online = HubRepository(
        "a/b", connected.revision("a/b", "main"), connected, looked_for, looked_for, lambda sha256, content: None
    )
    asked = len(hub.requests)
    for repository in (online, DirectoryRepository("a/b", folder)):
        with pytest.raises(PolicyError) as caught:
            repository.read(file)
        assert problem in caught.value.message
    assert len(hub.requests) == asked


def test_a_directory_lists_links_as_what_they_are(folder: Path) -> None:
    """They are judged when it is known whether they would be shipped."""
    found = DirectoryRepository("a/b", folder).files
    assert {path: file.entry for path, file in found.items()} == {
        "config.json": "file",
        "link.json": "symlink",
        "latest": "link to a directory",
        "gone": "symlink",
    }
