"""Publishing one step at a time: what is on disk for good, when, and what stays when a step is not finished."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.core.errors import StorageError
from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.formats.receipt import format_receipt
from modelcache.store import publish
from modelcache.system import files
from tests.conftest import files_below, unavailable
from tests.support.published_model import CONTENT, pinned, published, written

MODEL = pinned()
ERRNOS = sorted(errno.errorcode)


def test_a_finalized_tree_holds_its_receipt_and_one_mtime(tmp_path: Path) -> None:
    """Modes and times are set on files and directories, the receipt included."""
    tree = written(tmp_path / "tree")
    publish.finalize_model(tree, MODEL)
    assert files_below(tree) == {**CONTENT, RECEIPT_NAME: format_receipt(MODEL)}
    for path in (tree, *tree.rglob("*")):
        assert path.stat().st_mtime == PUBLISHED_MTIME
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which paths are made durable, in that order."""
    paths: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    return paths


def test_everything_is_on_disk_before_it_has_a_name_and_the_name_afterwards(tmp_path: Path, synced: list[str]) -> None:
    """A power cut leaves the old version or the new one, never a name without bytes."""
    tree, home = written(tmp_path / "models" / "tree"), tmp_path / "models" / "home"
    publish.finalize_model(tree, MODEL)
    assert set(synced) == {str(path) for path in (tree, *tree.rglob("*"))}
    synced.clear()
    publish.publish(tree, home)
    assert synced == [str(home.parent)]
    publish.remove(home)
    assert synced == [str(home.parent)] * 2


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_the_old_version_goes_and_nothing_is_left(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the tree nor the version moved aside; one that a killed run had moved aside before goes as well."""
    if not exchanges:
        monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 30)
    home = published(tmp_path)
    state = home.parent / ".cache-models"
    written(state / f"{home.name}.old", {"older": b""})
    tree = written(state / "x" / "tree", {"new": b"1"})
    publish.publish(tree, home)
    assert files_below(home) == {"new": b"1"}
    assert [path.name for path in state.iterdir()] == ["x"]
    assert list((state / "x").iterdir()) == []


def test_another_process_at_the_same_point_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock holds and nothing can be exchanged, the old version may have been moved aside already."""
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 30)
    home = published(tmp_path)
    tree = written(home.parent / ".cache-models" / "x" / "tree", {"new": b"1"})
    rename, raced = os.rename, list[int]()

    def racing(source: object, target: object) -> None:
        if str(source) == str(home) and not raced:
            raced.append(1)
            rename(str(source), f"{target}")
            raise FileNotFoundError(errno.ENOENT, "gone", str(source))
        rename(str(source), str(target))

    monkeypatch.setattr(os, "rename", racing)
    publish.publish(tree, home)
    assert raced
    assert files_below(home) == {"new": b"1"}


def test_a_file_system_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no version is, there is no other way."""
    tree = written(tmp_path / "tree")

    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="full"):
        publish.publish(tree, tmp_path / "home")
    assert files_below(tree) == CONTENT


class Renames:
    """A file system that exchanges nothing, and refuses some renames."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: Callable[..., BaseException | None]) -> None:
        self.asked: list[tuple[Path, Path]] = []
        self._refuses = refuses
        self._rename = os.rename
        monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 30)
        monkeypatch.setattr(os, "rename", self)

    def __call__(self, source: Path, target: Path) -> None:
        """Rename as this file system does."""
        self.asked.append((Path(source), Path(target)))
        if error := self._refuses(Path(source), Path(target)):
            raise error
        self._rename(source, target)


def refusal(number: int) -> OSError:
    """What such a file system answers."""
    return OSError(number, os.strerror(number))


@pytest.fixture
def replacing(tmp_path: Path) -> tuple[Path, Path]:
    """A published model, and the tree that is to replace it."""
    home = published(tmp_path)
    return home, written(home.parent / ".cache-models" / "x" / "tree", {"new": b"1"})


def test_whatever_errno_refuses_to_rename_onto_a_version_it_is_replaced(
    replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is moved aside first, so that no file system is asked to do that: some would mix the two."""
    home, tree = replacing
    for number in ERRNOS:
        content = {"new": b"%d" % number}
        written(tree, content)
        with monkeypatch.context() as refusing:
            onto = Renames(
                refusing,
                lambda _, target, no=number: refusal(no) if target.is_dir() and any(target.iterdir()) else None,
            )
            publish.publish(tree, home)
        assert files_below(home.parent) == {f"{home.name}/new": content["new"]}, errno.errorcode[number]
        assert [target for _, target in onto.asked if target == home] == [home]


def test_the_old_version_comes_back_when_the_new_one_is_refused(
    replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal of the last way is told, with its own errno; the volume may be full, or the tree gone meanwhile."""
    home, tree = replacing
    before = files_below(home)
    for number in ERRNOS:
        with monkeypatch.context() as refusing:
            Renames(refusing, lambda source, _, no=number: refusal(no) if source == tree else None)
            with pytest.raises(OSError, match=re.escape(os.strerror(number))) as told:
                publish.publish(tree, home)
        assert told.value.errno == number
        assert files_below(home) == before
        assert files_below(tree) == {"new": b"1"}
        assert [path.name for path in (home.parent / ".cache-models").iterdir()] == ["x"]


def test_a_version_that_cannot_move_aside_stays(replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one in a lower layer of an image, which overlayfs neither exchanges nor renames; ENOENT: it has gone."""
    home, tree = replacing
    before = files_below(home)
    for number in ERRNOS:
        if number == errno.ENOENT:
            continue
        with monkeypatch.context() as refusing:
            asked = Renames(refusing, lambda source, _, no=number: refusal(no) if source == home else None).asked
            with pytest.raises(OSError, match=re.escape(os.strerror(number))) as told:
                publish.publish(tree, home)
        assert told.value.errno == number
        assert files_below(home) == before
        assert not [target for _, target in asked if target == home]


def test_nothing_steps_aside_for_a_tree_that_is_gone(
    replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process took the lease over, and removed the tree."""
    home, tree = replacing
    before = files_below(home)
    shutil.rmtree(tree)
    asked = Renames(monkeypatch, lambda *_: None).asked
    with pytest.raises(FileNotFoundError):
        publish.publish(tree, home)
    assert (files_below(home), asked) == (before, [])


def test_an_interruption_between_the_renames_puts_the_old_version_back(
    replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come at any point; the process lives on long enough."""
    home, tree = replacing
    before = files_below(home)
    Renames(monkeypatch, lambda source, _: KeyboardInterrupt() if source == tree else None)
    with pytest.raises(KeyboardInterrupt):
        publish.publish(tree, home)
    assert files_below(home) == before


def test_what_cannot_be_moved_back_is_recovered_later(
    replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk goes away after the old version was moved aside, and comes back."""
    home, tree = replacing
    before = files_below(home)
    with monkeypatch.context() as gone:
        Renames(gone, lambda source, target: refusal(errno.EIO) if target == home else None)
        with pytest.raises(OSError, match="Input/output"):
            publish.publish(tree, home)
    assert not home.exists()
    publish.recover_publish(home)
    assert files_below(home) == before


def test_who_publishes_in_between_is_replaced(replacing: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock holds: the place is taken again when the old version has just left it."""
    home, tree = replacing
    raced = list[int]()

    def racing(source: Path, target: Path) -> OSError | None:
        if (source, target) == (tree, home) and not raced:
            raced.append(1)
            written(home, {"of another user": b""})
            return refusal(errno.EPERM)
        return None

    Renames(monkeypatch, racing)
    publish.publish(tree, home)
    assert raced
    assert files_below(home.parent) == {f"{home.name}/new": b"1"}


def test_what_another_user_put_into_a_tree_is_not_published(tmp_path: Path) -> None:
    """It is named; the owner could change it after it has been hashed."""
    tree = written(tmp_path / "tree")
    try:
        os.chown(tree / "config.json", 4242, -1)
    except PermissionError:
        unavailable("files of another owner can only be made by root")
    with pytest.raises(StorageError, match=r"config\.json.*\buid 4242\b"):
        publish.finalize_model(tree, MODEL)


# recovering ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a file", "a link", "a dangling link"])
def test_what_is_no_version_is_not_put_back(tmp_path: Path, kind: str) -> None:
    """Only a directory can be an old version; anything else under that name is removed."""
    home = tmp_path / "models" / "home"
    state = home.parent / ".cache-models"
    state.mkdir(parents=True)
    other = written(tmp_path / "other")
    aside = state / "home.old"
    if kind == "a file":
        aside.touch()
    else:
        aside.symlink_to(other if kind == "a link" else tmp_path / "nothing")
    publish.recover_publish(home)
    assert not os.path.lexists(home)
    assert list(state.iterdir()) == []
    assert files_below(other) == CONTENT


def test_recovering_where_nothing_is_broken_changes_nothing(tmp_path: Path) -> None:
    """Also where there is no model at all."""
    home = published(tmp_path)
    before = files_below(tmp_path)
    publish.recover_publish(home)
    publish.recover_publish(home.with_name("nothing"))
    assert files_below(tmp_path) == before


def test_another_process_may_have_recovered_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the rename it went: that is no error."""
    home = tmp_path / "models" / "home"
    written(home.parent / ".cache-models" / "home.old")

    def gone(source: object, target: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(os, "rename", gone)
    publish.recover_publish(home)
    assert not home.exists()


# removing -----------------------------------------------------------------------------------------------------


def test_a_removed_model_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its files are removed, it leaves leftovers in the state directory, not half a model."""
    home = published(tmp_path)
    seen: list[tuple[bool, str, bool]] = []
    discard = files.discard

    def discarding(path: Path) -> None:
        seen.append((home.exists(), path.name.partition("~")[0], files_below(path).keys() == {*CONTENT, RECEIPT_NAME}))
        assert path.parent == home.parent / ".cache-models"
        assert len(path.name) == len(home.name) + 13
        discard(path)

    monkeypatch.setattr("modelcache.store.publish.discard", discarding)
    publish.remove(home)
    assert seen == [(False, home.name, True)]
    assert list(home.parent.iterdir()) == []


def test_the_state_of_others_stays(tmp_path: Path) -> None:
    """Another process may be fetching another model of the same collection."""
    home = published(tmp_path)
    other = written(home.parent / ".cache-models" / "other~1", {"x": b""})
    publish.remove(home)
    assert files_below(home.parent) == {".cache-models/other~1/x": b""}
    assert other.is_dir()


def test_where_the_state_is_a_link_nothing_is_removed(tmp_path: Path) -> None:
    """What lies behind it is not ours; the message names the link and what to do."""
    home = published(tmp_path)
    state = home.parent / ".cache-models"
    state.symlink_to(written(tmp_path / "other"))
    ways: list[Callable[[], None]] = [
        lambda: publish.remove(home),
        lambda: publish.refuse_linked_state([tmp_path, home.parent]),
    ]
    for way in ways:
        with pytest.raises(StorageError) as told:
            way()
        assert str(state) in told.value.message
        assert told.value.hint
        assert told.value.__cause__ is None  # it is not an error of the file system
    assert home.is_dir()
    assert files_below(tmp_path / "other") == CONTENT
    publish.refuse_linked_state([tmp_path])
