"""A model from a directory (`path`), and paths as they are printed: absolute, and without `..`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EMBEDDING, Ran, Tool
from tests.support import tiny
from tests.support.hub import StandInHub

HOUSE = "acme/house"


@pytest.fixture
def house(tool: Tool, tmp_path: Path) -> Path:
    """The directory of a whole model, which the manifest names by way of `..`."""
    tool.want(HOUSE, extra='path = "../models/house"\n')
    return tiny.tiny_embedding(tmp_path / "models" / "house")


def is_absent(folder: Path) -> None:
    shutil.rmtree(folder)


def is_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def has_empty_folders(folder: Path) -> None:
    is_empty(folder)
    (folder / "1_Pooling").mkdir()


def has_hidden_files(folder: Path) -> None:
    is_empty(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    (folder / ".gitattributes").write_text("x")


def is_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def leads_nowhere(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("gone")


SPOILT: dict[Callable[[Path], None], str] = {
    is_absent: "there is no directory ",
    is_empty: "is empty",
    has_empty_folders: "is empty",
    has_hidden_files: "hidden files only",
    is_a_file: "is a file",
    leads_nowhere: "is a link to nothing",
}


def assert_told(ran: Ran, folder: Path, words: str) -> None:
    """One error with the model, the directory, what it is instead, and a hint about `path`."""
    first, *rest = ran.err.splitlines()
    assert (ran.exit_code, ran.out) == (4, ""), ran.err
    assert first.startswith(f"error: {HOUSE}: ")
    assert str(folder) in first
    assert words in first
    assert [line for line in rest if line.startswith("hint: `path`")] == rest


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("command", ["lock", "sync"])
def test_an_empty_path_folder_is_told_as_empty(
    house: Path, tool: Tool, command: str, spoil: Callable[[Path], None]
) -> None:
    """And one that is absent, a file, or full of hidden files, as that."""
    spoil(house)
    assert_told(tool(command), house, SPOILT[spoil])
    assert not (tool.folder / "models.lock").exists()


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_path_folder_that_is_emptied_after_the_lock_is_told_as_empty(
    house: Path, tool: Tool, spoil: Callable[[Path], None]
) -> None:
    """The lock has the files, and the directory no longer does."""
    assert tool("lock").exit_code == 0
    shutil.rmtree(tool.home(HOUSE).parent, ignore_errors=True)  # what `lock` has kept
    spoil(house)
    assert_told(tool("sync"), house, SPOILT[spoil])


@pytest.mark.parametrize("spoil", [is_absent, is_empty], ids=lambda spoil: spoil.__name__)
def test_a_path_folder_that_cannot_be_used_stops_no_other_model(
    house: Path, tool: Tool, hub: StandInHub, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """It is the cause of its own model; a model that comes after it is published all the same."""
    hub.add(EMBEDDING, tiny.tiny_embedding(tmp_path / "embedding"))
    tool.want(HOUSE, extra=f'path = "../models/house"\n[[embedding]]\nid = "{EMBEDDING}"\n')
    assert tool("lock").exit_code == 0
    spoil(house)
    ran = tool("sync", "--jobs=1")
    assert [line for line in ran.err.splitlines() if line.startswith("error")] == [ran.err.splitlines()[-2]]
    assert (ran.exit_code, HOUSE in ran.err.splitlines()[-2]) == (4, True)
    assert tool("path", EMBEDDING).exit_code == 0


def test_a_path_folder_with_other_bytes_is_not_told_as_empty(house: Path, tool: Tool) -> None:
    """There a file is missing, and it is named."""
    assert tool("lock").exit_code == 0
    shutil.rmtree(tool.home(HOUSE).parent, ignore_errors=True)
    (house / "model.safetensors").unlink()
    ran = tool("sync")
    assert ran.exit_code == 1
    assert "model.safetensors" in ran.err


def test_printed_paths_have_no_dots(house: Path, tool: Tool, tmp_path: Path) -> None:
    """Whatever way the manifest and --root name them."""
    root = tmp_path / "y"
    words = ("--root", "../y")
    assert house.is_dir()
    said = [tool("sync", *words), tool("sync", *words), tool("verify", *words), tool("status", *words)]
    said += [tool("path", HOUSE, *words), tool("path", EMBEDDING, *words), tool("sync", *words, "--from", "../a/../b")]
    (root / "cached_embedding_models" / "acme__house" / "model.safetensors").unlink()
    said += [tool("verify", *words)]
    (house / "config.json").write_text("{")
    said += [tool("lock", "--upgrade", *words)]
    assert [ran.exit_code for ran in said] == [0, 0, 0, 0, 0, 2, 0, 1, 5]
    absent = [tool("prune", "--lockfile=../z.lock"), tool("verify", "--locked", "--lockfile=../z.lock")]
    assert [(ran.exit_code, str(tmp_path / "z.lock") in ran.err) for ran in absent] == [(2, True)] * 2
    assert said[4].out == f"{root}/cached_embedding_models/acme__house\n"
    assert str(root) in said[0].err + said[2].err
    for ran in said + absent:
        assert os.pardir + os.sep not in ran.out + ran.err


def test_a_path_behind_a_link_is_the_directory_that_the_kernel_opens(tool: Tool, tmp_path: Path) -> None:
    """`link/../house` is beside the directory that the link leads to, and not beside the link."""
    tiny.tiny_embedding(tmp_path / "far" / "house")
    (tmp_path / "far" / "inner").mkdir()
    (tool.folder / "link").symlink_to(tmp_path / "far" / "inner")
    tool.want(HOUSE, extra='path = "link/../house"\n')
    assert tool("sync", "--root", "link/../y").exit_code == 0
    assert tool("path", HOUSE, "--root", "link/../y").out.startswith(f"{tmp_path}/far/y/")
    again = tool.run("sync", "--root", "link/../y")
    assert again.err == f"1 model ready in {tmp_path}/far/y: unchanged.\n"
