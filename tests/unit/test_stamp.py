"""The stamp: it vouches for exactly what it saw, and any doubt takes the long way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.stamp import (
    STAMP_NAME,
    facts_in,
    facts_in_stamp,
    has_changed,
    key_of,
    models_in_place,
    remove_stamp,
    write_stamp,
)
from modelcache.store.inspect import inspect
from tests.support.published_model import CONTENT, pinned, published, written

KEY = key_of(b"manifest", b"lock", locked=False)
LARGEST = 32 << 20
FACTS = {"a": [1, 2, 3, 4], "b": [5]}


def text(
    *, key: bytes = KEY, length: int | None = None, models: object = 1, lines: bytes = b"", end: bytes = b"end"
) -> bytes:
    """What a stamp says."""
    told = len(key) if length is None else length
    return b"cache-models stamp 4 %b %d\n%b\n%b%b\n" % (str(models).encode(), told, key, lines, end)


def stamped(root: Path) -> Path:
    """A root with one model, and a stamp for it; return the model's directory."""
    home = published(root)
    write_stamp(str(root), KEY, 1, {str(path): fact for path, fact in inspect(home, pinned()).facts.items()})
    return home


def test_each_word_of_a_run_is_in_its_key() -> None:
    """What is wanted, what is pinned, whether the pin was demanded; and where one ends and the next begins."""
    keys = [
        key_of(manifest, lock, locked=locked)
        for manifest, lock in [(b"a", b"b"), (b"a", None), (b"a", b""), (b"ab", b""), (b"", b"ab"), (b"alocked ", b"b")]
        for locked in (False, True)
    ]
    assert len(set(keys)) == len(keys)


def test_what_is_as_it_was_is_in_place(tmp_path: Path) -> None:
    """Under the key that it was stamped with, and no other."""
    stamped(tmp_path)
    assert models_in_place(str(tmp_path), KEY) == 1
    assert models_in_place(str(tmp_path), KEY[::-1]) is None
    assert models_in_place(str(tmp_path / "elsewhere"), KEY) is None


def test_a_removed_stamp_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the stamp nor what a killed run has left of one; what belongs to others stays."""
    stamped(tmp_path)
    before = {path.name for path in tmp_path.iterdir()} - {STAMP_NAME}
    (tmp_path / f"{STAMP_NAME}.new").touch()
    for _ in range(2):
        remove_stamp(str(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == before


def replaced_by_a_copy(path: Path) -> None:
    """Put an equal copy in its place, as `cp -a` and `mv` do: only inode and ctime are other ones."""
    aside, copy = path.with_name("aside"), path.with_name("copy")
    before = path.parent.stat()
    path.rename(aside)
    subprocess.run(["cp", "-a", aside, copy], check=True)  # while the first is there: its inode is not given anew
    copy.rename(path)
    subprocess.run(["rm", "-r", aside], check=True)
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


DOUBTS: dict[str, Callable[[Path], object]] = {
    "written": lambda home: (home / "config.json").write_bytes(b"{}"),
    "touched": lambda home: os.utime(home / "config.json", (1, 1)),
    "replaced": lambda home: os.replace(written(home.parent / "x", CONTENT) / "config.json", home / "config.json"),
    "copied, with its times": lambda home: replaced_by_a_copy(home / "config.json"),
    "all of it copied, with its times": replaced_by_a_copy,
    "added": lambda home: (home / "new").touch(),
    "added below": lambda home: (home / "deep" / "er" / "new").touch(),
    "removed": lambda home: (home / "README.md").unlink(),
    "moved away": lambda home: home.rename(home.with_name("x")),
    "a link": lambda home: home.rename(home.with_name("x")).with_name(home.name).symlink_to(home.with_name("x")),
    "at work": lambda home: (home.parent / ".cache-models").mkdir(),
    "a dangling link of a run at work": lambda home: (home.parent / ".cache-models").symlink_to("nothing"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_any_doubt_takes_the_long_way(tmp_path: Path, doubt: str) -> None:
    """Writing, replacing, adding or removing a file changes a noted fact."""
    home = stamped(tmp_path)
    DOUBTS[doubt](home)
    assert models_in_place(str(tmp_path), KEY) is None


def in_place(path: Path, content: bytes) -> None:
    """Change the bytes of a file, and nothing else that can be put back."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def linked_for_a_moment(path: Path) -> None:
    """Link and unlink: a backup, or `publish` of a later version, did."""
    (path.parent.parent / "y").hardlink_to(path)
    (path.parent.parent / "y").unlink()


# What moves the ctime alone; the last is the hole that the module speaks of.
CTIME_ALONE: dict[str, Callable[[Path], object]] = {
    "chown": lambda path: os.chown(path, os.geteuid(), os.getegid()),
    "chmod": lambda path: path.chmod(0o640),
    "a second name": lambda path: (path.parent.parent / "x").hardlink_to(path),
    "a second name, taken away": linked_for_a_moment,
    "other bytes in place, with the times put back": lambda path: in_place(path, b"[]"),
}


@pytest.mark.parametrize("change", CTIME_ALONE.values(), ids=CTIME_ALONE)
def test_a_ctime_that_moves_alone_is_no_change(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """A kubelet's chown at each start is none: nothing is read, and the note stays as it is."""
    home = stamped(tmp_path)
    note = (tmp_path / STAMP_NAME).read_bytes()
    before = (home / "config.json").stat().st_ctime_ns
    change(home / "config.json")
    assert (home / "config.json").stat().st_ctime_ns != before
    assert models_in_place(str(tmp_path), KEY) == 1
    assert (tmp_path / STAMP_NAME).read_bytes() == note


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        ([1, 2, 3, 4], False),
        ([1, 2, 9, 4], False),
        ([1, 2, 3, 9], False),
        ([1, 2, 9, 9], True),
        ([9, 2, 3, 4], True),
        ([1, 9, 3, 4], True),
        ([1], True),
        ([1, 2], True),
    ],
    ids=["nothing", "inode", "ctime", "inode and ctime", "size", "mtime", "a directory now", "half of it"],
)
def test_what_counts_as_a_change(tmp_path: Path, now: list[int], changed: bool) -> None:
    """Size or mtime, or inode and ctime both: the same rule for the quiet path and for the long one."""
    assert has_changed([1, 2, 3, 4], now) is changed
    assert has_changed(now, [1, 2, 3, 4]) is changed
    assert has_changed([1], [2])
    assert not has_changed([1], [1])


@pytest.mark.parametrize("moved", [2, 3, None], ids=["inode", "ctime", "both"])
def test_the_quiet_path_follows_the_rule(tmp_path: Path, moved: int | None) -> None:
    """With a note in which numbers are other ones than on disk, as after a mount that gives other inodes."""
    home = published(tmp_path)
    facts = inspect(home, pinned()).facts
    for fact in facts.values():
        for number in [2, 3] if moved is None else [moved]:
            if len(fact) == 4:
                fact[number] += 1
    write_stamp(str(tmp_path), KEY, 1, facts)
    assert models_in_place(str(tmp_path), KEY) == (None if moved is None else 1)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"end\n",
        text(key=b"another"),
        text(length=-1),
        text(length=len(KEY) - 1),
        text(length=len(KEY) + 1),
        text(length=10**9),
        text(models="one"),
        text(models=""),
        text(models="1 1"),
        text(end=b""),
        text(end=b"en"),
        text()[:-1],
        text() + b"\n",
        text().replace(b"stamp 4", b"stamp 2"),
        text().replace(b"stamp 4 ", b"stamp 33 "),
        text(lines=b"1\ta\0b\n"),
        text(lines=b"1\tnothing\n"),
        text(lines=b"nothing\n"),
        text(lines=b"\n"),
    ],
)
def test_a_note_that_says_something_else_vouches_for_nothing(tmp_path: Path, note: bytes) -> None:
    """It lies where others may write, and a run may be killed while it writes it."""
    (tmp_path / STAMP_NAME).write_bytes(note)
    assert models_in_place(str(tmp_path), KEY) is None


def test_the_notes_of_these_tests_are_ones(tmp_path: Path) -> None:
    """Else those above would show nothing; and it is what is written."""
    (tmp_path / STAMP_NAME).write_bytes(text())
    assert models_in_place(str(tmp_path), KEY) == 1
    write_stamp(str(tmp_path), KEY, 1, FACTS)
    assert (tmp_path / STAMP_NAME).read_bytes() == text(lines=b"1 2 3 4\ta\n5\tb\n")
    assert facts_in_stamp(str(tmp_path)) == FACTS


def test_facts_are_of_the_file_itself(tmp_path: Path) -> None:
    """Size, times and inode of a file, one time of a directory, and of a link the link's own."""
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("file")
    found = (tmp_path / "file").stat()
    assert facts_in((tmp_path / "file").lstat()) == [3, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]
    for mode in (0o700, 0o755):
        tmp_path.chmod(mode)
        assert facts_in(tmp_path.lstat()) == [tmp_path.stat().st_mtime_ns]
    assert facts_in((tmp_path / "link").lstat())[0] == len("file")


def test_a_stamp_is_written_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left beside it, also of a run that was killed there; what belongs to others stays."""
    (tmp_path / f"{STAMP_NAME}.0123").touch()
    (tmp_path / "other.stamp").touch()
    seen: list[object] = []
    replace = os.replace

    def noting(source: str, target: str) -> None:
        seen.append(Path(source).read_bytes())
        assert Path(source).parent == tmp_path
        replace(source, target)

    monkeypatch.setattr(os, "replace", noting)
    write_stamp(str(tmp_path), KEY, 2, FACTS)
    assert seen == [(tmp_path / STAMP_NAME).read_bytes()]
    assert sorted(path.name for path in tmp_path.iterdir()) == [STAMP_NAME, "other.stamp"]


def test_a_root_that_cannot_be_written_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, and nothing half written."""
    write_stamp(str(tmp_path / "nothing"), KEY, 1, {})

    def refuses(source: str, target: str) -> None:
        raise OSError(30, "read-only")

    monkeypatch.setattr(os, "replace", refuses)
    write_stamp(str(tmp_path), KEY, 1, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "too large"])
def test_what_is_no_stamp_is_not_read(tmp_path: Path, kind: str) -> None:
    """No link is followed, no pipe is waited for, no end of a flood."""
    path, note = tmp_path / STAMP_NAME, text()
    match kind:
        case "link":
            (tmp_path / "x").write_bytes(note)
            path.symlink_to("x")
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "too large":
            path.write_bytes(text(key=b" " * (LARGEST - len(text(key=b"")))))
            assert models_in_place(str(tmp_path), KEY) is None
            path.write_bytes(text(key=b" " * LARGEST))
    assert models_in_place(str(tmp_path), KEY) is None
    assert facts_in_stamp(str(tmp_path)) == {}


def test_a_stamp_is_closed_to_programs_that_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read with flags that protect against other users who may write there."""
    write_stamp(str(tmp_path), KEY, 1, {})
    asked: list[int] = []
    opening = os.open

    def noting(path: str, flags: int) -> int:
        asked.append(flags)
        return opening(path, flags)

    monkeypatch.setattr(os, "open", noting)
    assert models_in_place(str(tmp_path), KEY) == 1
    assert asked[:1] == [os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK]
