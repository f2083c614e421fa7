"""Promise 1: at every instant a model's path names one whole version or nothing."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from modelcache.store import publish
from modelcache.system import files
from modelcache.system.files import exchange, link_or_copy
from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support.hub import StandInHub


def tree(folder: Path, content: str) -> Path:
    """A version of a model whose two files must belong together."""
    folder.mkdir(parents=True)
    (folder / "one").write_text(content)
    (folder / "two").write_text(content)
    return folder


def test_exchange_swaps_two_directories(tmp_path: Path) -> None:
    """The file system that tests run on can do it; otherwise the tests below would prove little."""
    one, other = tree(tmp_path / "a", "1"), tree(tmp_path / "b", "2")
    assert exchange(one, other)
    assert ((one / "one").read_text(), (other / "one").read_text()) == ("2", "1")


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
def test_reader_never_sees_a_half_model(tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that opens the directory once sees one version, whole, while versions replace each other.

    Where the file system cannot exchange, there may be an instant with no model, but never a mixed one.
    """
    if not can_exchange:
        refuse_exchange(monkeypatch)
    home = tmp_path / "models" / "home"
    publish.publish(tree(tmp_path / "models" / ".cache-models" / "first", "0"), home)
    seen, absent, ended = set(), 0, threading.Event()

    def read() -> None:
        nonlocal absent
        while not ended.is_set():
            try:
                fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                absent += 1
                continue
            try:
                seen.add(content(fd, "one") == content(fd, "two"))
            except FileNotFoundError:
                pass  # the version this reader had open was removed after it was replaced: it is still no mixture
            finally:
                os.close(fd)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 150):
        publish.publish(tree(tmp_path / "models" / ".cache-models" / str(number), str(number)), home)
    ended.set()
    reader.join()
    assert seen == {True}
    assert (home / "two").read_text() == "149"
    assert sorted(path.name for path in (tmp_path / "models" / ".cache-models").iterdir()) == []
    if can_exchange:
        assert absent == 0


def test_recovery_moves_an_old_version_back(tmp_path: Path) -> None:
    """Killed between the two renames: the old version is moved back; killed after them: it is removed."""
    home = tmp_path / "models" / "home"
    aside = tmp_path / "models" / ".cache-models" / "home.old"
    tree(aside, "old")
    publish.recover_publish(home)
    assert (home / "one").read_text() == "old"
    tree(aside, "older")
    publish.recover_publish(home)
    assert (home / "one").read_text() == "old"
    assert not aside.exists()


def test_an_interrupted_exchange_is_finished_by_the_next_sync(pair: Tool, hub: StandInHub) -> None:
    """`sync` finds the old version beside its place and needs no request to have it back."""
    pair("sync")
    home = pair.home(EMBEDDING)
    before = files_below(home)
    (home.parent / ".cache-models").mkdir()
    home.rename(home.parent / ".cache-models" / f"{home.name}.old")
    hub.forget()
    assert pair("sync").exit_code == 0
    assert files_below(home) == before
    assert hub.requests == []
    assert not (home.parent / ".cache-models").exists()


def test_an_upgrade_works_where_names_cannot_be_exchanged(
    pair: Tool, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two renames do it too, with hard links refused as well."""
    pair("sync")
    refuse_exchange(monkeypatch)
    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "embedding" / "vocab.txt").write_text("new")
    hub.add(EMBEDDING, tmp_path / "embedding")
    pair("lock", "--upgrade")
    assert pair("sync").exit_code == 0
    assert (pair.home(EMBEDDING) / "vocab.txt").read_text() == "new"
    assert pair("verify").exit_code == 0


def test_modes_and_times_that_are_refused_do_not_matter(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without modes and times, sizes and hashes decide; the second start is quiet all the same."""
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert pair("sync").exit_code == 0
    assert pair("sync").err.endswith("unchanged.\n")
    (pair.folder / ".cache-models.stamp").unlink()
    assert pair("sync").err.endswith("unchanged.\n")


def test_a_folder_that_cannot_be_listed_is_not_published(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in it would be neither on disk for good nor readable by others: 4, and the next run publishes."""
    scandir, refusals = os.scandir, [1]

    def refused(path: Any = ".") -> Any:
        if str(path).endswith("/tree/1_Pooling") and refusals:
            refusals.pop()
            raise OSError(errno.EMFILE, "Too many open files", path)
        return scandir(path)

    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", refused)
        ran = pair("sync")
    assert (ran.exit_code, "Too many open files" in ran.err) == (4, True)
    assert not pair.home(EMBEDDING).exists()
    assert pair("sync").exit_code == 0


@pytest.mark.parametrize("what", ["file", "symlink"])
def test_something_else_in_a_models_place_is_not_overwritten(pair: Tool, what: str, tmp_path: Path) -> None:
    """A file or a link where the directory belongs ends with 4 and stays."""
    home = pair.home(EMBEDDING)
    home.parent.mkdir()
    if what == "file":
        home.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    ran = pair("sync")
    assert ran.exit_code == 4
    assert str(home) in ran.err
    assert home.is_file() or home.is_symlink()


def test_prune_removes_only_what_the_lock_does_not_name(pair: Tool) -> None:
    """A model that is no longer pinned goes; a directory without a receipt stays and is named."""
    assert pair("prune").exit_code == 2
    pair("sync")
    (pair.home("not/ours")).mkdir()
    pair.want(EMBEDDING)
    pair("lock")
    ran = pair("prune", "--dry-run")
    assert RERANKER in ran.err
    assert pair.home(RERANKER, "reranker").is_dir()
    ran = pair("prune")
    assert (ran.exit_code, ran.err.splitlines()[-1]) == (0, f"1 model removed from {pair.folder}.")
    assert re.search("^  leave .*/not__ours ", ran.err, re.MULTILINE)
    assert [pair.home(EMBEDDING).is_dir(), pair.home(RERANKER, "reranker").exists()] == [True, False]
    assert pair.home("not/ours").is_dir()


def test_prune_says_so_when_it_cannot_look(pair: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that may not be listed is not taken for one that holds nothing to remove."""
    pair("sync")
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    ran = pair("prune")
    assert (ran.exit_code, "not permitted" in ran.err) == (4, True)


def test_link_or_copy_copies_across_file_systems(tmp_path: Path) -> None:
    """Another device refuses links; the bytes come all the same."""
    source = Path("/dev/shm") / f"cache-models-test-{os.getpid()}"
    source.write_text("x")
    try:
        link_or_copy(source, tmp_path / "y")
    finally:
        source.unlink()
    assert (tmp_path / "y").read_text() == "x"


def content(folder: int, name: str) -> bytes:
    """Read a file of a directory that is open, whatever that directory is called by now."""
    file = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.read(file, 9)
    finally:
        os.close(file)


def refuse(*args: object, **kwargs: object) -> None:
    """What a file system says that has no such call."""
    raise PermissionError(1, "Operation not permitted")


def refuse_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the kernel's flag unknown, as it is to older kernels and to some network file systems: EINVAL."""
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 30)
