"""A model directory against its pin: what is missing, extra or changed, each by its path, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.core.types import LARGEST_TEXT, Changed, Verification
from modelcache.formats.receipt import format_receipt
from modelcache.stamp import facts_of
from modelcache.store.inspect import Difference, compare, difference_of, facts_below, facts_within, verify
from tests.support.published_model import CONTENT, pinned, published

MODEL = pinned()
DIGESTS = {file.path: file.sha256 for file in MODEL.files}
RECEIPT = Changed(RECEIPT_NAME, "the receipt of this version", "another")
POOL = ThreadPoolExecutor(4)


def spoilt(home: Path, path: str) -> None:
    """Change one byte; the size stays."""
    data = (home / path).read_bytes()
    (home / path).write_bytes(bytes([data[0] ^ 1]) + data[1:])


def linked(home: Path, path: str) -> None:
    """Put a link to the very bytes where a file was."""
    (home / path).rename(home.parent / "moved")
    (home / path).symlink_to(home.parent / "moved")


def replaced_by_folder(home: Path, path: str) -> None:
    """Put a directory where a file was."""
    (home / path).unlink()
    (home / path).mkdir()


def longer_receipt(home: Path, size: int) -> None:
    """Let the receipt go on."""
    with (home / RECEIPT_NAME).open("ab") as file:
        file.truncate(size)


def each(*steps: Callable[[], object]) -> None:
    """Do one after the other."""
    for step in steps:
        step()


CASES: dict[str, tuple[Callable[[Path], object], Verification]] = {
    "nothing": (lambda home: None, Verification()),
    "a file is gone": (lambda home: (home / "config.json").unlink(), Verification(missing=("config.json",))),
    "two are gone": (
        lambda home: each((home / "model.safetensors").unlink, (home / "README.md").unlink),
        Verification(missing=("README.md", "model.safetensors")),
    ),
    "a file below is gone": (
        lambda home: (home / "deep/er/one.json").unlink(),
        Verification(missing=("deep/er/one.json",)),
    ),
    "a folder is gone": (
        lambda home: each((home / "deep/er/one.json").unlink, (home / "deep/er").rmdir),
        Verification(missing=("deep/er/one.json",)),
    ),
    "a file too many": (lambda home: (home / "deep/x").write_text(""), Verification(extra=("deep/x",))),
    "two too many": (
        lambda home: each((home / "x").touch, (home / "a").touch),
        Verification(extra=("a", "x")),
    ),
    "a folder too many": (lambda home: (home / "deep/er/x").mkdir(), Verification(extra=("deep/er/x",))),
    "a pipe": (lambda home: os.mkfifo(home / "pipe"), Verification(extra=("pipe",))),
    "a link in a file's place": (
        lambda home: linked(home, "config.json"),
        Verification(missing=("config.json",), extra=("config.json",)),
    ),
    "a folder in a file's place": (
        lambda home: replaced_by_folder(home, "config.json"),
        Verification(missing=("config.json",), extra=("config.json",)),
    ),
    "a file in a folder's place": (
        lambda home: each((home / "deep/er/one.json").unlink, (home / "deep/er").rmdir, (home / "deep/er").touch),
        Verification(missing=("deep/er/one.json",), extra=("deep/er",)),
    ),
    "longer": (
        lambda home: (home / "config.json").write_bytes(b"{}\n"),
        Verification(changed=(Changed("config.json", "2 bytes", "3 bytes"),)),
    ),
    "no receipt": (lambda home: (home / RECEIPT_NAME).unlink(), Verification(missing=(RECEIPT_NAME,))),
    "another receipt": (
        lambda home: (home / RECEIPT_NAME).write_bytes(format_receipt(pinned(commit="d" * 40))),
        Verification(changed=(RECEIPT,)),
    ),
    "a link for a receipt": (lambda home: linked(home, RECEIPT_NAME), Verification(changed=(RECEIPT,))),
    "a receipt of the largest size": (
        lambda home: longer_receipt(home, LARGEST_TEXT),
        Verification(changed=(RECEIPT,)),
    ),
    "a receipt that is too large": (
        lambda home: longer_receipt(home, LARGEST_TEXT + 1),
        Verification(changed=(RECEIPT,)),
    ),
    "a folder for a receipt": (
        lambda home: replaced_by_folder(home, RECEIPT_NAME),
        Verification(changed=(RECEIPT,)),
    ),
    "everything": (
        lambda home: each(
            (home / "README.md").unlink,
            (home / "x").touch,
            partial((home / "config.json").write_text, "longer"),
            partial((home / "deep/two.json").write_text, "longer"),
            partial(longer_receipt, home, 1),
        ),
        Verification(
            ("README.md",),
            ("x",),
            (
                RECEIPT,
                Changed("config.json", "2 bytes", "6 bytes"),
                Changed("deep/two.json", "3 bytes", "6 bytes"),
            ),
        ),
    ),
}


@pytest.mark.parametrize("quick", [False, True], ids=["every byte", "quick"])
@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_told(tmp_path: Path, case: str, quick: bool) -> None:
    """Names, sizes and the receipt are looked at either way, and are told sorted."""
    home = published(tmp_path)
    spoil, expected = CASES[case]
    spoil(home)
    found = verify(home, MODEL, quick=quick)
    assert found == expected
    assert found.ok == (case == "nothing")


@pytest.mark.parametrize("pool", [None, POOL], ids=["alone", "several at a time"])
def test_a_changed_byte_is_told_by_both_digests(tmp_path: Path, pool: ThreadPoolExecutor | None) -> None:
    """Only whoever reads the file finds it."""
    home = published(tmp_path)
    spoilt(home, "config.json")
    (changed,) = verify(home, MODEL, pool=pool).changed
    assert (changed.path, changed.expected) == ("config.json", f"{DIGESTS['config.json'][:12]}…")
    assert changed.found != changed.expected
    assert len(changed.found) == 13
    assert verify(home, MODEL, quick=True).ok


@pytest.mark.parametrize("place", ["nothing", "a file"])
def test_of_what_is_no_directory_all_is_missing(tmp_path: Path, place: str) -> None:
    """Not an error: it is merely not there."""
    if place == "a file":
        (tmp_path / "x").touch()
    found = verify(tmp_path / "x", MODEL)
    assert found == Verification(missing=tuple(sorted([RECEIPT_NAME, *CONTENT])))


def test_a_receipt_may_have_the_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of more bytes is not read, since nothing that long can be right."""
    home, size = published(tmp_path), len(format_receipt(MODEL))
    monkeypatch.setattr("modelcache.store.inspect.LARGEST_TEXT", size)
    assert verify(home, MODEL).ok
    monkeypatch.setattr("modelcache.store.inspect.LARGEST_TEXT", size - 1)
    assert verify(home, MODEL) == Verification(changed=(RECEIPT,))


def test_a_receipt_that_goes_meanwhile_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the reading a version may be replaced: told as changed, never a traceback."""
    home = published(tmp_path)

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr("modelcache.store.inspect.read_own", gone)
    assert verify(home, MODEL) == Verification(changed=(RECEIPT,))


# the fast look ------------------------------------------------------------------------------------------------


def touched(home: Path, path: str) -> None:
    """Give a file another mtime."""
    os.utime(home / path, (1, 1))


def in_four_places(home: Path) -> None:
    """One too many, one gone, one longer, one changed."""
    (home / "x").touch()
    (home / "README.md").unlink()
    (home / "config.json").write_bytes(b"longer")
    spoilt(home, "deep/two.json")


GLANCES: dict[str, tuple[Callable[[Path], object], Difference | None]] = {
    "nothing": (lambda home: None, None),
    "touched": (lambda home: touched(home, "config.json"), None),
    "changed": (
        lambda home: spoilt(home, "config.json"),
        Difference("config.json differs", frozenset(["config.json"])),
    ),
    "no receipt": (lambda home: (home / RECEIPT_NAME).unlink(), Difference("it has no receipt")),
    "another receipt": (
        lambda home: (home / RECEIPT_NAME).write_bytes(format_receipt(pinned(commit="d" * 40))),
        Difference("another version is there"),
    ),
    "gone": (lambda home: home.rename(home.parent / "x"), Difference("")),
    "one too many, one gone": (
        lambda home: each((home / "x").touch, (home / "README.md").unlink),
        Difference("README.md differs and 1 more", frozenset(["README.md", "x"])),
    ),
    "three": (
        in_four_places,
        Difference("README.md differs and 3 more", frozenset(["README.md", "x", "config.json", "deep/two.json"])),
    ),
    "a name that a terminal would obey": (
        lambda home: (home / "\x1b[2J").touch(),
        Difference("\\x1b[2J differs", frozenset(["\x1b[2J"])),
    ),
}


@pytest.mark.parametrize("case", GLANCES)
def test_a_glance(tmp_path: Path, case: str) -> None:
    """What is in place is None; else the reason, and which files cannot be used again."""
    home = published(tmp_path)
    spoil, expected = GLANCES[case]
    spoil(home)
    assert difference_of(home, MODEL) == expected


def test_what_the_stamp_vouches_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what has the mtime that all files are published with; anything else is hashed, and only that."""
    home = published(tmp_path)
    touched(home, "config.json")
    stamped = facts_within(facts_below(home), home)
    assert sorted(stamped) == sorted([RECEIPT_NAME, "deep", "deep/er", *CONTENT])
    assert stamped["config.json"] == facts_of(str(home / "config.json"))
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.relative_to(home).as_posix())
        return DIGESTS[read[-1]]

    monkeypatch.setattr("modelcache.store.inspect.sha256_of", reading)
    assert difference_of(home, MODEL, stamped) is None
    assert read == []
    assert difference_of(home, MODEL) is None
    assert read == ["config.json"]
    stamped["README.md"] = [0, 0, 0]
    assert difference_of(home, MODEL, stamped) is None
    assert read == ["config.json", "README.md"]


def test_a_quick_comparison_asks_the_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it vouches for is not read again: a root of gigabytes with other times is compared in no time."""
    home = published(tmp_path)
    touched(home, "config.json")
    stamped = facts_within(facts_below(home), home)
    monkeypatch.setattr("modelcache.store.inspect.sha256_of", None)
    assert compare(home, MODEL, stamped, quick=True, pool=POOL).ok
    with pytest.raises(TypeError):
        compare(home, MODEL, {}, quick=True, pool=POOL)


def test_a_name_that_ends_like_a_slash_is_told_whole(tmp_path: Path) -> None:
    """Only the slash of the directory itself is cut off."""
    home = published(tmp_path, {"aXX": b"x", "bX": b"y"})
    facts = facts_below(home)
    assert {path.rpartition("/")[2] for path in facts} == {home.name, RECEIPT_NAME, "aXX", "bX"}


def test_facts_are_told_by_their_place_in_the_root(tmp_path: Path) -> None:
    """Of the directory itself too; those of another model are another's."""
    home = published(tmp_path)
    facts = facts_below(home)
    name = "cached_embedding_models/tinyorg__embedding"
    assert sorted(facts) == sorted([name, *(f"{name}/{path}" for path in (RECEIPT_NAME, "deep", "deep/er", *CONTENT))])
    assert len(facts[name]) == 1
    assert stat.S_ISDIR(home.stat().st_mode)
    assert facts[f"{name}/config.json"][:2] == [2, PUBLISHED_MTIME * 10**9]
    assert facts_within({f"{name}2/config.json": [1]}, home) == {}


def test_compare_reads_every_byte_or_what_looks_touched(tmp_path: Path) -> None:
    """A byte that was changed with its mtime put back is found by reading only; a touched one by both."""
    home = published(tmp_path)
    spoilt(home, "config.json")
    spoilt(home, "README.md")
    os.utime(home / "config.json", (PUBLISHED_MTIME, PUBLISHED_MTIME))
    assert [one.path for one in compare(home, MODEL, {}, quick=False, pool=POOL).changed] == [
        "README.md",
        "config.json",
    ]
    quick = compare(home, MODEL, {}, quick=True, pool=POOL)
    assert quick == Verification(changed=(Changed("README.md", "its pinned bytes", "others"),))
    (home / "deep/two.json").unlink()
    assert compare(home, MODEL, {}, quick=True, pool=POOL) == Verification(("deep/two.json",), (), quick.changed)
    assert compare(home.parent / "nothing", MODEL, {}, quick=True, pool=POOL).missing == tuple(
        sorted([RECEIPT_NAME, *CONTENT])
    )
