"""A hint is true: whatever a command finds wrong, `verify` is content once its hint was followed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cache_models
from modelcache.core.errors import CacheModelsError, IntegrityError
from modelcache.core.types import Verification
from modelcache.fastpath import is_quiet_start
from modelcache.stamp import facts_in, facts_in_stamp, has_changed, invalidate_stamp, models_in_place, write_stamp
from modelcache.store.inspect import inspect, mark_damaged, stamped_in
from tests.conftest import EMBEDDING, RERANKER, Ran, Tool, files_below, unavailable
from tests.support import tiny
from tests.support.hub import StandInHub
from tests.support.published_model import pinned, published

RECEIPT = ".cache-models.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def one(hub: StandInHub, tool: Tool, tmp_path: Path) -> Tool:
    """The tool, with one model in place."""
    hub.add(EMBEDDING, files_below(tiny.tiny_embedding(tmp_path / "embedding")), licence="mit")
    tool.want(EMBEDDING)
    assert tool("sync").exit_code == 0
    return tool


@contextmanager
def times_put_back(home: Path) -> Iterator[None]:
    """Let everything that is there before and after have the times that it had: no look at a stat shows the damage."""
    before = {path: path.lstat() for path in [home, *home.rglob("*")]}
    yield
    for path, found in before.items():
        if os.path.lexists(path):
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def write_in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Give a file other bytes and keep its inode."""
    content = change(path.read_bytes())
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def flip(path: Path) -> None:
    """Change the last byte."""
    write_in_place(path, lambda content: content[:-1] + bytes([content[-1] ^ 1]))


def edit(path: Path, old: bytes, new: bytes) -> None:
    """Replace words in place."""
    assert old in path.read_bytes()
    write_in_place(path, lambda content: content.replace(old, new))


def replaced_by_link(path: Path) -> None:
    """Put a link to the very bytes where something was."""
    aside = path.parent.parent.parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)


def replaced(path: Path, put: Callable[[Path], object]) -> None:
    """Put something else where a file or a directory was."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    put(path)


def flipped_without_receipt(home: Path) -> None:
    """Damage that may as well be somebody else's model."""
    flip(home / WEIGHTS)
    (home / RECEIPT).unlink()


def flip_all(home: Path) -> None:
    """Change a byte of each file but the receipt."""
    for path in files_below(home).keys() - {RECEIPT}:
        flip(home / path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a byte": lambda home: flip(home / WEIGHTS),
    "a byte of a small file": lambda home: flip(home / "1_Pooling/config.json"),
    "a byte of each file": flip_all,
    "cut short": lambda home: write_in_place(home / WEIGHTS, lambda content: content[:-1]),
    "empty": lambda home: write_in_place(home / WEIGHTS, lambda content: b""),
    "longer": lambda home: write_in_place(home / WEIGHTS, lambda content: content + b"x"),
    "a file gone": lambda home: (home / "config.json").unlink(),
    "a folder gone": lambda home: shutil.rmtree(home / "1_Pooling"),
    "a file too many": lambda home: (home / "extra.bin").write_bytes(b"x"),
    "a file too many below": lambda home: (home / "1_Pooling/extra.bin").write_bytes(b"x"),
    "a folder too many": lambda home: (home / "extra").mkdir(),
    "a link too many": lambda home: (home / "extra").symlink_to("config.json"),
    "a link for a file": lambda home: replaced_by_link(home / "config.json"),
    "a folder for a file": lambda home: replaced(home / "config.json", Path.mkdir),
    "a pipe for a file": lambda home: replaced(home / "config.json", os.mkfifo),
    "a file for a folder": lambda home: replaced(home / "1_Pooling", Path.touch),
    "receipt edited": lambda home: edit(home / RECEIPT, b'"mit"', b'"gpl"'),
    "receipt names another digest": lambda home: edit(home / RECEIPT, b'"sha256": "', b'"sha256": "0'),
    "receipt of another revision": lambda home: edit(home / RECEIPT, b'"main"', b'"moin"'),
    "receipt of another model": lambda home: edit(home / RECEIPT, b"tinyorg/embedding", b"tinyorg/embeddinh"),
    "receipt is no JSON": lambda home: edit(home / RECEIPT, b"{", b"["),
    "receipt cut short": lambda home: write_in_place(home / RECEIPT, lambda content: content[:100]),
    "receipt gone": lambda home: (home / RECEIPT).unlink(),
    "receipt a link": lambda home: replaced_by_link(home / RECEIPT),
    "receipt gone and a byte": flipped_without_receipt,
    "all gone": shutil.rmtree,
    "a file in its place": lambda home: replaced(home, Path.touch),
    "an empty directory in its place": lambda home: replaced(home, Path.mkdir),
    "a dangling link in its place": lambda home: replaced(home, lambda path: path.symlink_to("nowhere")),
}
A_LOOK_SHOWS = (
    "cut short",
    "a file gone",
    "a file too many",
    "a folder too many",
    "receipt edited",
    "receipt of another revision",
    "receipt is no JSON",
    "receipt gone",
    "an empty directory in its place",
)


def spoil(tool: Tool, damage: str) -> None:
    """Do it, and let nothing but the bytes show it."""
    home = tool.home(EMBEDDING)
    with times_put_back(home):
        DAMAGE[damage](home)


def follow(tool: Tool, said: str) -> Ran:
    """Do what a hint says, and what the hint of that says; return how the last command ended."""
    for _ in range(3):
        (hint,) = re.findall(r"^hint: (.*)$", said, re.MULTILINE)
        if aside := re.search(r"[Mm]ove (\S+) away", hint):
            subprocess.run(["rm", "-r", tool.home(EMBEDDING) if aside[1] == "it" else aside[1]], check=True)
        for command in re.findall(r"`cache-models ([^`]+)`", hint) or ["sync"]:
            ran = tool(*command.split())
        if ran.exit_code == 0:
            break
        said = ran.err
    return ran


@pytest.mark.parametrize("locked", [True, False], ids=["lock and stamp", "neither"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_verify_finds_is_mended_by_its_hint(one: Tool, damage: str, locked: bool) -> None:
    """Also where size and times are those of before, and a stamp vouches for them; or where the receipt is the pin."""
    if not locked:
        (one.folder / "models.lock").unlink()
        (one.folder / ".cache-models.stamp").unlink()
    spoil(one, damage)
    found = one("verify")
    if found.exit_code == 0:  # the receipt alone is the pin: what it says is so
        assert not locked
        assert damage == "receipt edited"
        return
    assert found.exit_code == 1, found
    mended = follow(one, found.err)
    assert mended.exit_code == 0, mended
    again = one("verify")
    assert again.exit_code == 0, again
    one("sync")
    assert is_quiet_start([], {})


@pytest.mark.parametrize("finder", [("verify", "--quick"), ("status",)], ids=" ".join)
@pytest.mark.parametrize("damage", A_LOOK_SHOWS)
def test_what_a_quick_look_finds_is_mended_by_sync(one: Tool, damage: str, finder: tuple[str, ...]) -> None:
    """What they see by themselves is not kept from `sync` by a stamp that vouches for other facts."""
    spoil(one, damage)
    found = one(*finder)
    assert found.exit_code == 1 or not re.search(r"\bready\b", found.out), found
    mended = follow(one, found.err if finder[0] == "verify" else "hint: `cache-models sync`")
    assert mended.exit_code == 0, mended
    assert one("verify").exit_code == 0


def by_check(tool: Tool) -> None:
    """`check` verifies every byte before it loads anything."""
    assert tool("check").exit_code == 1


def by_model_path(tool: Tool) -> None:
    """An application asks where its model is."""
    with pytest.raises(CacheModelsError):
        cache_models.model_path(EMBEDDING)


def by_path(tool: Tool) -> None:
    """So does a script."""
    assert tool("path", EMBEDDING).exit_code == 1


FINDERS: dict[str, tuple[Callable[[Tool], object], str]] = {
    "check": (by_check, "a byte"),
    "model_path": (by_model_path, "a file too many"),
    "path": (by_path, "receipt is no JSON"),
}


@pytest.mark.parametrize("finder", FINDERS)
def test_what_others_find_is_mended_by_sync(one: Tool, finder: str) -> None:
    """Each of them says that `sync` repairs it."""
    find, damage = FINDERS[finder]
    spoil(one, damage)
    find(one)
    ran = one("sync")
    assert ran.exit_code == 0, ran
    assert re.search(f"^  replace +{EMBEDDING} ", ran.err, re.MULTILINE)
    find_nothing = one("verify")
    assert find_nothing.exit_code == 0, find_nothing


def test_another_model_in_its_place_is_not_called_damaged(one: Tool) -> None:
    """`sync` would not repair it, so nothing says that; a whole one in the other collection is found all the same."""
    spoil(one, "receipt of another model")
    ran = one("path", EMBEDDING)
    assert ran.exit_code == 2
    assert re.search(r"tinyorg/embeddinh\b.*tinyorg/embedding\b", ran.err)
    assert "sync" not in ran.err
    one.want(rerankers=(EMBEDDING,))
    (one.folder / "models.lock").unlink()
    shutil.copytree(one.home(EMBEDDING), one.home(EMBEDDING, "reranker"))
    edit(one.home(EMBEDDING, "reranker") / RECEIPT, b"tinyorg/embeddinh", b"tinyorg/embedding")
    assert one("path", EMBEDDING).out == f"{one.home(EMBEDDING, 'reranker')}\n"


def by_program(tool: Tool) -> int:
    """A program that caches into the same root."""
    cache_models.cache_sentence_transformers([EMBEDDING], tool.folder / "cached_embedding_models")
    return 0


def from_another_root(tool: Tool) -> int:
    """With nothing but another root to take it from."""
    shutil.copytree(tool.folder, tool.folder.parent / "other", ignore=shutil.ignore_patterns("*.stamp"))
    other = tool.folder.parent / "other"
    assert tool("sync", "--root", str(other)).exit_code == 0  # what `verify` left is on the file itself
    assert tool("verify", "--root", str(other)).exit_code == 0
    return tool("sync", "--from", str(other)).exit_code


SYNCS: dict[str, Callable[[Tool], int]] = {
    "sync": lambda tool: tool("sync").exit_code,
    "nothing": lambda tool: tool().exit_code,
    "an id": lambda tool: tool("sync", EMBEDDING).exit_code,
    "locked": lambda tool: tool("sync", "--locked").exit_code,
    "a process": lambda tool: tool.run("sync", "--jobs=2").exit_code,
    "a program": by_program,
    "from another root": from_another_root,
}


@pytest.mark.parametrize("stamp", ["fits", "gone", "of another lock", "of --locked"])
@pytest.mark.parametrize("way", SYNCS)
def test_every_way_to_sync_mends(one: Tool, way: str, stamp: str) -> None:
    """With ids or without, demanded or not, from a program or from another root; whatever stamp there is."""
    if stamp == "gone":
        (one.folder / ".cache-models.stamp").unlink()
    elif stamp == "of another lock":
        with (one.folder / "models.lock").open("a") as file:
            file.write("# another one\n")
    elif stamp == "of --locked":
        one("sync", "--locked")
    spoil(one, "a byte")
    assert one("verify").exit_code == 1
    assert SYNCS[way](one) == 0
    found = one("verify")
    assert found.exit_code == 0, found
    assert not (one.folder / "cached_embedding_models/.cache-models").exists()


def test_a_model_that_no_command_found_wrong_is_believed(one: Tool) -> None:
    """The tests above would show nothing if `sync` read every byte anyway."""
    spoil(one, "a byte")
    assert one("sync").err.endswith("unchanged.\n")
    (one.folder / ".cache-models.stamp").unlink()
    assert one("sync").err.endswith("unchanged.\n")
    assert one("verify").exit_code == 1


def test_a_dry_run_forgets_nothing(one: Tool) -> None:
    """It says what would be done, the quick looks see it too, and the next run still knows."""
    spoil(one, "a byte")
    one("verify")
    for _ in range(2):
        assert f"{WEIGHTS} differs" in one("sync", "--dry-run").err
    assert one("verify", "--quick").exit_code == 1
    assert "damaged" in one("status").out
    assert "1 replaced" in one("sync").err


def test_a_false_alarm_costs_one_reading(one: Tool, hub: StandInHub) -> None:
    """What has been put right by hand is read and kept."""
    spoil(one, "a byte")
    one("verify")
    flip(one.home(EMBEDDING) / WEIGHTS)
    hub.forget()
    assert one("sync").err.endswith("unchanged.\n")
    assert hub.requests == []
    assert is_quiet_start([], {})


def test_another_version_is_left_as_it_is(one: Tool, hub: StandInHub, tmp_path: Path) -> None:
    """Between `lock --upgrade` and `sync` the old version is whole: no time of its files moves, and it loads."""
    (tmp_path / "embedding/README.md").write_text("new")
    hub.add(EMBEDDING, files_below(tmp_path / "embedding"), licence="mit")
    assert one("lock", "--upgrade").exit_code == 0
    home = one.home(EMBEDDING)
    before = {path: path.stat().st_mtime_ns for path in [home, *home.rglob("*")]}
    assert one("verify").exit_code == 1
    assert "other version" in one("status").out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert cache_models.model_path(EMBEDDING) == home
    assert "1 replaced" in one("sync").err


def test_two_runs_mend_it_once(one: Tool) -> None:
    """Both end well, and the model is whole."""
    spoil(one, "a byte")
    one("verify")
    runs = [one.process("sync") for _ in range(2)]
    for run in runs:
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
    assert one("verify").exit_code == 0


def test_only_the_damaged_model_is_read(pair: Tool) -> None:
    """A byte of another one, that no command has found, stays for `verify`."""
    pair("sync")
    flipped = [pair.home(EMBEDDING) / WEIGHTS, pair.home(RERANKER, "reranker") / WEIGHTS]
    with times_put_back(pair.home(EMBEDDING)):
        flip(flipped[0])
    assert pair("verify").exit_code == 1
    with times_put_back(pair.home(RERANKER, "reranker")):
        flip(flipped[1])
    assert "1 replaced, 1 unchanged" in pair("sync").err
    ran = pair("verify")
    assert (ran.exit_code, ran.err.count(WEIGHTS)) == (1, 1)
    assert pair("sync", EMBEDDING).exit_code == 0
    assert pair("verify", "--quick").exit_code == 1  # a run that is not about it does not make it believed
    assert "1 replaced" in pair("sync", RERANKER).err
    assert pair("verify").exit_code == 0


def test_a_model_that_the_manifest_does_not_list(pair: Tool) -> None:
    """`sync` leaves it alone, so the hint is another one; and no later start is slower for it."""
    pair("sync")
    spoil(pair, "a byte")
    pair.want(rerankers=(RERANKER,))
    pair("sync")
    found = pair("verify")
    assert found.exit_code == 1
    assert follow(pair, found.err).exit_code == 0
    assert pair("verify").exit_code == 0
    pair("sync")
    assert is_quiet_start([], {})


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a directory read-only for a while, as a pod that only reads a volume does."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("damage", ["a byte", "a file too many", "receipt edited", "receipt is no JSON"])
def test_a_root_that_cannot_be_written_gets_a_true_hint(one: Tool, damage: str) -> None:
    """Nothing can be noted there; where it can, `verify` and `sync` are what helps."""
    spoil(one, damage)
    home = one.home(EMBEDDING)
    try:
        with read_only(one.folder):
            found = one("verify")
            if damage in ("a file too many", "receipt is no JSON"):
                with pytest.raises(IntegrityError, match=EMBEDDING) as caught:
                    cache_models.model_path(EMBEDDING)
                assert caught.value.hint in found.err
    except subprocess.CalledProcessError:
        unavailable("mounting is not permitted here")
    assert re.search(f"^hint: {home} ", found.err, re.MULTILINE)
    assert follow(one, found.err).exit_code == 0
    assert one("verify").exit_code == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that any user can reach, unlike those of pytest."""
    if os.geteuid():
        unavailable("only root can become another user")
    folder = Path(tempfile.mkdtemp(prefix="cache-models-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_user(uid: int, work: Callable[[], bool]) -> bool:
    """Do something in a process of another user; return what it returned."""
    if (child := os.fork()) == 0:
        code = 2
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_user_who_owns_the_models_and_not_the_root(public: Path) -> None:
    """The stamp stays, so the directory gets another mtime than the one that is noted there."""
    home = published(public)
    for path in (home.parent, *home.parent.rglob("*")):
        os.chown(path, 10001, 10001)
    facts = inspect(home, pinned()).facts
    write_stamp(str(public), b"key", 1, facts)
    assert not as_user(10002, lambda: mark_damaged(home))
    assert not as_user(10002, lambda: mark_damaged(home, ["config.json"]))
    assert models_in_place(str(public), b"key") == 1
    assert as_user(10001, lambda: mark_damaged(home, ["config.json"]))
    assert models_in_place(str(public), b"key") is None
    assert facts_in_stamp(str(public)) == facts
    for path in (home, home / "config.json"):
        assert has_changed(facts[path.relative_to(public).as_posix()], facts_in(path.lstat()))


@pytest.mark.parametrize("stamp", [True, False], ids=["stamp", "no stamp"])
def test_a_user_who_may_write_to_the_root_and_owns_nothing(public: Path, stamp: bool) -> None:
    """As in OpenShift, where the next pod has another uid of the same group: the stamp says what to read."""
    home, pin = published(public), pinned()
    public.chmod(0o777)
    if stamp:
        write_stamp(str(public), b"key", 1, inspect(home, pin).facts)
    with times_put_back(home):
        flip(home / "config.json")
    assert inspect(home, pin, stamped_in(public)(home)).difference is None
    assert as_user(10002, lambda: mark_damaged(home, ["config.json"]))
    assert models_in_place(str(public), b"key") is None
    found = inspect(home, pin, stamped_in(public)(home)).verification
    assert found == Verification(changed=found.changed)
    assert [changed.path for changed in found.changed] == ["config.json"]


def test_the_stamp_vouches_for_all_models_but_one(tmp_path: Path) -> None:
    """It vouches for no run, and spares the next one to read what nothing was wrong with."""
    facts = {name: [1, 2, 3, 4] for name in ("c/a/x", "c/a/deep/x", "c/a", "c/ab", "c/ab/x", "c", "d/a/x")}
    write_stamp(str(tmp_path), b"key", 2, facts)
    assert invalidate_stamp(str(tmp_path), "c/a")
    noted = facts_in_stamp(str(tmp_path))
    assert {path for path, fact in noted.items() if fact == facts[path]} == {"c/ab", "c/ab/x", "c", "d/a/x"}
    assert models_in_place(str(tmp_path), b"key") is None


def test_a_stamp_that_cannot_be_written_anew_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk; only where it cannot be removed either, it may still be believed."""
    write_stamp(str(tmp_path), b"key", 2, {"c/a": [1]})

    def refuses(source: str, target: str = "") -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuses)
        patch.setattr(os, "unlink", refuses)
        assert not invalidate_stamp(str(tmp_path), "c/a")
    (tmp_path / ".cache-models.stamp.new").unlink()
    monkeypatch.setattr(os, "replace", refuses)
    assert invalidate_stamp(str(tmp_path), "c/a")
    assert list(tmp_path.iterdir()) == []
    assert invalidate_stamp(str(tmp_path), "c/a")
