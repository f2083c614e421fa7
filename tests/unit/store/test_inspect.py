"""A model directory against its pin: what is missing, extra or changed, each by its path, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from modelcache.core.errors import IntegrityError
from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME
from modelcache.core.types import LARGEST_TEXT, Changed, LockedModel, Verification
from modelcache.formats.receipt import format_receipt
from modelcache.stamp import facts_in
from modelcache.store.inspect import compare_with_receipt, facts_within, inspect, refuse_incomplete, verify
from modelcache.store.layout import receipt_bytes
from tests.conftest import PROJECT
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
        Verification(changed=(Changed("config.json", 2, 3),)),
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
                Changed("config.json", 2, 6),
                Changed("deep/two.json", 3, 6),
            ),
        ),
    ),
}


def by_names_and_sizes(home: Path, model: LockedModel) -> Verification:
    """Return how a directory that is about to be published differs from its pin."""
    try:
        refuse_incomplete(home, model)
    except IntegrityError as error:
        return error.verification
    return Verification()


@pytest.mark.parametrize("compare", [verify, by_names_and_sizes], ids=["every byte", "quick"])
@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_told(tmp_path: Path, case: str, compare: Callable[[Path, LockedModel], Verification]) -> None:
    """Names, sizes and the receipt are looked at either way, and are told sorted."""
    home = published(tmp_path)
    spoil, expected = CASES[case]
    spoil(home)
    found = compare(home, MODEL)
    assert found == expected
    assert found.ok == (case == "nothing")


@pytest.mark.parametrize("pool", [None, POOL], ids=["alone", "several at a time"])
def test_a_changed_byte_is_told_by_both_digests(tmp_path: Path, pool: ThreadPoolExecutor | None) -> None:
    """Only a reading of the file finds it."""
    home = published(tmp_path)
    spoilt(home, "config.json")
    (changed,) = verify(home, MODEL, pool=pool).changed
    found = hashlib.sha256((home / "config.json").read_bytes()).hexdigest()
    assert changed == Changed("config.json", DIGESTS["config.json"], found)
    assert found != DIGESTS["config.json"]
    assert compare_with_receipt(home)[1].ok


@pytest.mark.parametrize("place", ["nothing", "a file"])
def test_of_what_is_no_directory_all_is_missing(tmp_path: Path, place: str) -> None:
    """Not an error: it is merely not there."""
    if place == "a file":
        (tmp_path / "x").touch()
    found = verify(tmp_path / "x", MODEL)
    assert found == Verification(missing=tuple(sorted([RECEIPT_NAME, *CONTENT])))


def test_a_receipt_may_have_the_largest_size(tmp_path: Path) -> None:
    """One of more bytes is not read, since nothing that long can be right."""
    receipt = tmp_path / RECEIPT_NAME
    receipt.write_bytes(bytes(LARGEST_TEXT))
    assert len(receipt_bytes(tmp_path)) == LARGEST_TEXT
    receipt.write_bytes(bytes(LARGEST_TEXT + 1))
    assert receipt_bytes(tmp_path) == b""


def test_a_receipt_that_goes_meanwhile_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the reading a version may be replaced: told as changed, never a traceback."""
    home, scandir = published(tmp_path), os.scandir

    def listing(path: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = [(entry, entry.stat(follow_symlinks=False)) for entry in entries]
        (home / RECEIPT_NAME).unlink(missing_ok=True)
        return nullcontext(entry for entry, _ in found)

    monkeypatch.setattr(os, "scandir", listing)
    assert verify(home, MODEL) == Verification(changed=(RECEIPT,))


# the fast look ------------------------------------------------------------------------------------------------


def touched(home: Path, path: str) -> None:
    """Give a file another mtime."""
    os.utime(home / path, (1, 1))


def spoilt_with_times(home: Path, path: str) -> None:
    """Change one byte; size and mtime stay, so that only reading the file finds it."""
    before = (home / path).stat()
    spoilt(home, path)
    os.utime(home / path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_four_places(home: Path) -> None:
    """One too many, one gone, one longer, one changed."""
    (home / "x").touch()
    (home / "README.md").unlink()
    (home / "config.json").write_bytes(b"longer")
    spoilt(home, "deep/two.json")


def other_version(home: Path) -> None:
    """The receipt of another commit, and one of its files with another size."""
    (home / RECEIPT_NAME).write_bytes(format_receipt(pinned(commit="d" * 40)))
    (home / "config.json").write_bytes(b"longer")


# How the directory differs, and which of its files cannot be used again.
LOOKS: dict[str, tuple[Callable[[Path], object], str | None, set[str]]] = {
    "nothing": (lambda home: None, None, set()),
    "touched": (lambda home: touched(home, "config.json"), None, set()),
    "changed": (lambda home: spoilt(home, "config.json"), "config.json differs", {"config.json"}),
    "no receipt": (lambda home: (home / RECEIPT_NAME).unlink(), "it has no receipt", set(CONTENT)),
    "another receipt": (other_version, "another version is there", {"config.json"}),
    "gone": (lambda home: home.rename(home.parent / "x"), "", set(CONTENT)),
    "one too many, one gone": (
        lambda home: each((home / "x").touch, (home / "README.md").unlink),
        "README.md differs and 1 more",
        {"README.md"},
    ),
    "three": (
        in_four_places,
        "README.md differs and 3 more",
        {"README.md", "config.json", "deep/two.json"},
    ),
    "a link of the same size": (
        lambda home: each((home / "config.json").unlink, partial((home / "config.json").symlink_to, "ab")),
        "config.json differs and 1 more",
        {"config.json"},
    ),
    "a name that a terminal would obey": (lambda home: (home / "\x1b[2J").touch(), "\\x1b[2J differs", set()),
}


@pytest.mark.parametrize("case", LOOKS)
def test_an_inspection(tmp_path: Path, case: str) -> None:
    """What is in place is None; else the reason, and which files the next version can take from here."""
    home = published(tmp_path)
    spoil, difference, lost = LOOKS[case]
    spoil(home)
    found = inspect(home, MODEL)
    assert found.difference == difference
    assert found.reusable == {sha256 for path, sha256 in DIGESTS.items() if path not in lost}
    assert found.verification.ok == (difference is None)


def test_what_the_stamp_vouches_for_is_not_read(tmp_path: Path) -> None:
    """Nor what has the mtime that all files are published with; anything else is hashed, and only that."""
    home = published(tmp_path)
    touched(home, "config.json")
    stamped = facts_within(inspect(home, MODEL).facts, home)
    assert sorted(stamped) == sorted([RECEIPT_NAME, "deep", "deep/er", *CONTENT])
    assert stamped["config.json"] == facts_in((home / "config.json").lstat())
    spoilt_with_times(home, "config.json")
    spoilt_with_times(home, "README.md")
    assert inspect(home, MODEL, stamped).verification.ok
    assert inspect(home, MODEL).difference == "config.json differs"
    stamped["README.md"] = [0, 0, 0]
    assert inspect(home, MODEL, stamped).difference == "README.md differs"
    stamped[RECEIPT_NAME] = [0, 0, 0]  # facts of another version say nothing of this one
    assert inspect(home, MODEL, stamped).difference == "README.md differs and 1 more"


def test_a_name_that_ends_like_a_slash_is_told_whole(tmp_path: Path) -> None:
    """Only the slash of the directory itself is cut off."""
    home = published(tmp_path, {"aXX": b"x", "bX": b"y"})
    facts = inspect(home, pinned(CONTENT)).facts
    assert {path.rpartition("/")[2] for path in facts} == {home.name, RECEIPT_NAME, "aXX", "bX"}


def test_facts_are_told_by_their_place_in_the_root(tmp_path: Path) -> None:
    """Of the directory itself too; those of another model are another's."""
    home = published(tmp_path)
    facts = inspect(home, pinned(CONTENT)).facts
    name = "cached_embedding_models/tinyorg__embedding"
    assert sorted(facts) == sorted([name, *(f"{name}/{path}" for path in (RECEIPT_NAME, "deep", "deep/er", *CONTENT))])
    assert len(facts[name]) == 1
    assert stat.S_ISDIR(home.stat().st_mode)
    assert facts[f"{name}/config.json"][:2] == [2, PUBLISHED_MTIME * 10**9]
    assert facts_within({f"{name}2/config.json": [1]}, home) == {}


def test_every_byte_or_what_looks_touched(tmp_path: Path) -> None:
    """A byte that was changed with its mtime put back is found by reading only; a touched one by both."""
    home = published(tmp_path)
    spoilt_with_times(home, "config.json")
    spoilt(home, "README.md")
    assert [changed.path for changed in verify(home, MODEL, pool=POOL).changed] == ["README.md", "config.json"]
    quick = inspect(home, MODEL).verification
    assert [changed.path for changed in quick.changed] == ["README.md"]
    assert quick.changed[0].expected == DIGESTS["README.md"]
    (home / "deep/two.json").unlink()
    assert inspect(home, MODEL).verification == Verification(("deep/two.json",), (), quick.changed)
    absent = inspect(home.parent / "nothing", MODEL).verification
    assert absent.missing == tuple(sorted([RECEIPT_NAME, *CONTENT]))


COUNTING = """
import json, os, sys
from pathlib import Path
from modelcache.store.inspect import inspect
from tests.support.published_model import pinned

home, events = Path(sys.argv[1]), []

def hook(event, args):
    if event in ("open", "os.scandir") and isinstance(args[0], (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(args[0]))
        if path.is_relative_to(home):
            seen = (event, path.relative_to(home).as_posix())
            opener = event == "open" and args[1] is None and seen in events[-1:]  # os.open within open
            events.extend([] if opener else [seen])

sys.addaudithook(hook)
found = inspect(home, pinned())
print(json.dumps([found.difference, events]))
"""


@pytest.mark.parametrize("damage", ["none", "a byte", "a file gone", "a file too many", "another version"])
def test_one_walk_and_one_receipt(tmp_path: Path, damage: str) -> None:
    """Also of a model that differs: on a network file system each listing and each reading is a way there and back."""
    home = published(tmp_path)
    if damage == "a byte":
        spoilt(home, "config.json")
    elif damage == "a file gone":
        (home / "README.md").unlink()
    elif damage == "a file too many":
        (home / "x").touch()
    elif damage == "another version":
        other_version(home)
    ran = subprocess.run([sys.executable, "-c", COUNTING, home], cwd=PROJECT, capture_output=True, check=True)
    difference, events = json.loads(ran.stdout)
    assert (difference is None) == (damage == "none")
    read = [["open", "config.json"]] if damage == "a byte" else []
    walk = [["os.scandir", folder] for folder in (".", "deep", "deep/er")]
    assert events == [*walk, ["open", RECEIPT_NAME], *read]
