"""A root in which somebody has planted something: nothing outside it is written, read into it, or removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import tomlkit

from modelcache.formats.lockfile import parse_lock
from modelcache.formats.pin_table import to_table
from tests.conftest import EMBEDDING, Ran, Tool, files_below
from tests.faults.conftest import Tally
from tests.support.faults.bounds import EVIL, Outside, assert_bounded, assert_told, run_bounded
from tests.support.hub import StandInHub

SENTINEL = "sentinel"
NAME = EMBEDDING.replace("/", "__")


@pytest.fixture
def locked(one: Tool) -> Tool:
    """The tool, with a lock."""
    assert one("lock").exit_code == 0
    return one


def there(tool: Tool) -> Path:
    """The directory that is somebody else's."""
    return tool.folder.parent / SENTINEL


def collection(tool: Tool) -> Path:
    return tool.home(EMBEDDING).parent


def state(tool: Tool) -> Path:
    return collection(tool) / ".cache-models"


def sha256_of_weights(tool: Tool) -> str:
    (model,) = parse_lock((tool.folder / "models.lock").read_bytes(), "models.lock")
    return next(file.sha256 for file in model.files if file.path == "model.safetensors")


def state_is_a_link(tool: Tool) -> None:
    shutil.rmtree(collection(tool), ignore_errors=True)
    collection(tool).mkdir()
    state(tool).symlink_to(there(tool))


def state_is_a_dangling_link(tool: Tool) -> None:
    shutil.rmtree(collection(tool), ignore_errors=True)
    collection(tool).mkdir()
    state(tool).symlink_to(there(tool) / "new")


def home_is_a_link(tool: Tool) -> None:
    collection(tool).mkdir(exist_ok=True)
    tool.home(EMBEDDING).symlink_to(there(tool))


def home_is_a_dangling_link(tool: Tool) -> None:
    collection(tool).mkdir(exist_ok=True)
    tool.home(EMBEDDING).symlink_to(there(tool) / "new")


def lease_is_a_link(tool: Tool) -> None:
    state(tool).mkdir(parents=True, exist_ok=True)
    (state(tool) / f"{NAME}.lease").symlink_to(there(tool) / "draft~")


def lease_is_a_dangling_link(tool: Tool) -> None:
    state(tool).mkdir(parents=True, exist_ok=True)
    (state(tool) / f"{NAME}.lease").symlink_to(there(tool) / "new")


def staging_is_a_link(tool: Tool) -> None:
    state(tool).mkdir(parents=True, exist_ok=True)
    (state(tool) / f"{NAME}~ffffffffffff").symlink_to(there(tool))


def staging_of_nobody_is_a_link(tool: Tool) -> None:
    state(tool).mkdir(parents=True, exist_ok=True)
    (state(tool) / "nobody~ffffffffffff").symlink_to(there(tool))
    (state(tool) / ".gone~ffffffffffffffff").symlink_to(there(tool))
    (state(tool) / "file~ffffffffffff").write_text("x")


def staging_holds_links(tool: Tool) -> None:
    """Parts, kept files, originals and the tree lead elsewhere, to files of the right size and of others."""
    weights = sha256_of_weights(tool)
    staging = state(tool) / f"{NAME}~ffffffffffff"
    staging.mkdir(parents=True, exist_ok=True)
    for name in (weights, f"{weights}.kept", f"{weights}.ranges"):
        (staging / name).symlink_to(there(tool) / "config.json")
    (staging / "tree").symlink_to(there(tool))
    (staging / "originals").symlink_to(there(tool))


def aside_is_a_link(tool: Tool) -> None:
    state(tool).mkdir(parents=True, exist_ok=True)
    (state(tool) / f"{NAME}.old").symlink_to(there(tool))


def lock_beside_is_a_link(tool: Tool) -> None:
    """A name that a killed run could have left, as a link."""
    (tool.folder / ".models.lock.0123456789abcdef").symlink_to(there(tool) / "models.lock")
    (tool.folder / ".cache-models.stamp.0123").symlink_to(there(tool) / "models.lock")


def stamp_is_a_link(tool: Tool) -> None:
    (tool.folder / ".cache-models.stamp").symlink_to(there(tool) / "draft~")


PLANTS: dict[str, tuple[Callable[[Tool], None], int]] = {
    "state directory is a link": (state_is_a_link, 4),
    "state directory is a dangling link": (state_is_a_dangling_link, 4),
    "model's place is a link": (home_is_a_link, 4),
    "model's place is a dangling link": (home_is_a_dangling_link, 4),
    "lease is a link": (lease_is_a_link, 4),
    "lease is a dangling link": (lease_is_a_dangling_link, 4),
    "staging is a link": (staging_is_a_link, 0),
    "staging of nobody is a link": (staging_of_nobody_is_a_link, 0),
    "staging holds links": (staging_holds_links, 0),
    "what stepped aside is a link": (aside_is_a_link, 0),
    "files beside lock and stamp are links": (lock_beside_is_a_link, 0),
    "stamp is a link": (stamp_is_a_link, 0),
}


@pytest.mark.parametrize("what", PLANTS)
def test_a_link_out_of_the_root(locked: Tool, outside: Outside, tally: Tally, what: str) -> None:
    """No command writes, moves or removes anything through it; where it stands in the way, that is said."""
    plant, code = PLANTS[what]
    plant(locked)
    ran = locked("sync")
    assert_told(ran)
    assert ran.exit_code == code, ran.err
    if code:
        assert str(collection(locked)) in ran.err
    else:
        assert locked("verify").exit_code == 0
        assert not os.path.lexists(state(locked)), list(state(locked).iterdir())
        assert locked("sync").err.endswith("unchanged.\n")
    outside.assert_untouched()
    add = f"add {EMBEDDING} --manifest=other.toml"
    commands = ("lock --upgrade", add, "verify", "status", f"path {EMBEDDING}", "sync --dry-run", "prune")
    for command in commands:
        assert_told(locked(*command.split()))
        outside.assert_untouched()
    tally("links and odd files planted in a root", 1 + len(commands))


# files of ours that are none ------------------------------------------------------------------------------------


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)}/{path.name}")


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_hole_of_a_terabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def nested_a_million_deep(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000)


def four_million_bytes_of_lists(path: Path) -> None:
    path.write_bytes(b'{"format": 1, "files": [' + b"[]," * 1_300_000 + b"[]]}")


def bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


ODD = (
    a_pipe,
    a_socket,
    a_directory,
    a_link_to_a_device,
    a_hole_of_a_terabyte,
    nested_a_million_deep,
    four_million_bytes_of_lists,
    bytes_that_are_no_text,
    empty,
)
HEAVY = {a_pipe, a_link_to_a_device, a_hole_of_a_terabyte, nested_a_million_deep, four_million_bytes_of_lists}


def run(tool: Tool, odd: Callable[[Path], None], *words: str) -> Ran:
    """Run the tool where an odd file lies; where that could take all memory or for ever, as a process."""
    if odd not in HEAVY:
        ran: Ran = tool(*words)
        assert_told(ran)
        return ran
    bounded = run_bounded(tool.folder, *words)
    assert_bounded(bounded)
    return bounded


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_a_receipt_that_is_none(locked: Tool, outside: Outside, tally: Tally, odd: Callable[[Path], None]) -> None:
    """It is not believed, and nobody waits for it; the model is put together anew, and the odd thing goes."""
    assert locked("sync").exit_code == 0
    receipt = locked.home(EMBEDDING) / ".cache-models.json"
    receipt.unlink()
    odd(receipt)
    assert run(locked, odd, "verify").exit_code == 1
    assert run(locked, odd, "sync").exit_code == 0
    assert locked("verify").exit_code == 0
    tally("links and odd files planted in a root", 2)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_a_receipt_that_is_none_and_no_lock(
    locked: Tool, hub: StandInHub, outside: Outside, tally: Tally, odd: Callable[[Path], None], model: dict[str, bytes]
) -> None:
    """Nothing says which version is there, and the Hub has a newer one: it is left alone, and that is told."""
    assert locked("sync").exit_code == 0
    (locked.folder / "models.lock").unlink()
    hub.add(EMBEDDING, {**model, "README.md": b"moved on"})
    home = locked.home(EMBEDDING)
    before = {path: content for path, content in files_below(home).items() if path != ".cache-models.json"}
    (home / ".cache-models.json").unlink()
    odd(home / ".cache-models.json")
    ran = run(locked, odd, "sync")
    assert ran.exit_code == 4
    assert f"error: {home} " in ran.err
    assert all((home / path).read_bytes() == content for path, content in before.items())
    tally("links and odd files planted in a root", 1)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
def test_a_stamp_that_is_none(
    locked: Tool, hub: StandInHub, outside: Outside, tally: Tally, odd: Callable[[Path], None]
) -> None:
    """It is not believed, and nobody waits for it: the models are looked at, and no request is made."""
    assert locked("sync").exit_code == 0
    stamp = locked.folder / ".cache-models.stamp"
    stamp.unlink()
    odd(stamp)
    hub.forget()
    ran = run(locked, odd, "sync")
    assert (ran.exit_code, hub.requests) == (0, []), ran.err
    assert ran.err.endswith("unchanged.\n")
    tally("links and odd files planted in a root")


@pytest.mark.parametrize("name", ["models.lock", "models.toml"])
@pytest.mark.parametrize("odd", [one for one in ODD if one is not a_pipe], ids=lambda odd: odd.__name__)
def test_a_lock_or_a_manifest_that_is_none(
    locked: Tool, hub: StandInHub, outside: Outside, tally: Tally, odd: Callable[[Path], None], name: str
) -> None:
    """Exit 2, with its name and what it is; nothing is fetched."""
    (locked.folder / name).unlink()
    odd(locked.folder / name)
    hub.forget()
    ran = run(locked, odd, "sync")
    assert (ran.exit_code, hub.requests) == (0 if (odd, name) == (empty, "models.toml") else 2, []), ran.err
    assert not ran.exit_code or name in ran.err
    tally("links and odd files planted in a root")


def test_a_journal_that_claims_what_is_not_there(locked: Tool, hub: StandInHub, tally: Tally) -> None:
    """A foreign journal with a million gaps, or larger than any, is no reason to ask for a million ranges."""
    weights = sha256_of_weights(locked)
    gaps = b"".join(b"%d %d\n" % (at, at + 1) for at in range(0, 100_000, 2))
    for journal in (gaps, gaps * 35, b"0 99999999\n", b"5 3\n-1 9\nx y\n\xff\xff\n0 1"):
        staging = state(locked) / f"{NAME}~ffffffffffff"
        staging.mkdir(parents=True)
        (staging / weights).write_bytes(bytes(120_000))
        (staging / f"{weights}.ranges").write_bytes(journal)
        hub.forget()
        ran = run_bounded(locked.folder, "sync")
        assert_bounded(ran)
        assert ran.exit_code == 0, ran.err
        assert len([request for request in hub.requests if request.file == "model.safetensors"]) <= 4
        assert locked("verify").exit_code == 0
        shutil.rmtree(collection(locked))
    tally("links and odd files planted in a root", 4)


def test_a_file_of_a_model_that_is_a_link(locked: Tool, outside: Outside, tally: Tally) -> None:
    """A link, a pipe or a device in the place of a file is replaced by the file; a directory of links, too."""
    assert locked("sync").exit_code == 0
    home = locked.home(EMBEDDING)
    before = files_below(home)
    elsewhere = locked.folder / "elsewhere"
    shutil.copytree(home, elsewhere)
    for path, odd in (
        ("vocab.txt", lambda path: path.symlink_to(elsewhere / "vocab.txt")),
        ("config.json", os.mkfifo),
        ("modules.json", lambda path: path.symlink_to("/dev/zero")),
        ("1_Pooling", lambda path: path.symlink_to(elsewhere / "1_Pooling")),
        ("more", lambda path: path.symlink_to("/etc")),
        (".cache-models.json", lambda path: path.symlink_to(elsewhere / ".cache-models.json")),
    ):
        found = home / path
        if found.is_dir():
            shutil.rmtree(found)
        found.unlink(missing_ok=True)
        odd(found)
        ran = locked("verify")
        assert (ran.exit_code, path in ran.err) == (1, True), ran.err
        assert locked("sync").exit_code == 0
        assert files_below(home) == before
        assert not any(path.is_symlink() for path in home.rglob("*"))
        assert files_below(elsewhere) == before
    tally("links and odd files planted in a root", 6)


# a lock or a receipt that was edited ----------------------------------------------------------------------------

OUT = ("../../../sentinel/x", "/etc/passwd", "a/../../../x", "..", "a\0b", "C:\\x", ".cache-models.json", "x\n" + EVIL)
HASHES = ("../" * 20 + "x", "/etc/passwd", "0" * 63, "", "0" * 64 + "\n")
ORIGINS = (
    {"repository": "../../x", "commit": "0" * 40},
    {"repository": "a/b", "commit": "../" * 20},
    {"path": "../../x", "size": 1, "sha256": "0" * 64},
)
OF_A_FILE: Mapping[str, Sequence[object]] = {
    "path": OUT,
    "sha256": HASHES,
    "size": (-1, 1 << 62, 1.5, True, "1"),
    "from": ORIGINS,
    "made": ("rewritten", "written\n" + EVIL),
}
OF_THE_MODEL: Mapping[str, Sequence[object]] = {
    "id": ("../../sentinel", "a/..", "/etc/x", "a/b/c", "a", "", "a\0/b", "a/b\n" + EVIL),
    "commit": ("../" * 20, "main", "0" * 39),
    "revision": ("../../x", "x\n" + EVIL),
    "kind": ("../x", "models", 1),
    "licence": ("\x1b[2J", "mit\n" + EVIL),
    "set_digest": ("0" * 64, ""),
    "more\n" + EVIL: (1,),
}


@pytest.mark.parametrize("key", [*OF_A_FILE, *OF_THE_MODEL])
def test_a_lock_or_a_receipt_edited_to_point_outside(
    locked: Tool, hub: StandInHub, outside: Outside, tally: Tally, key: str
) -> None:
    """A lock ends with 2 and says what is wrong; a receipt is not believed. No request, nothing written."""
    assert locked("sync").exit_code == 0
    lock, home = locked.folder / "models.lock", locked.home(EMBEDDING)
    (model,) = parse_lock(lock.read_bytes(), lock.name)
    values = OF_A_FILE[key] if key in OF_A_FILE else OF_THE_MODEL[key]
    good, receipt = lock.read_bytes(), (home / ".cache-models.json").read_bytes()
    hub.forget()
    for value in values:
        table = to_table(model)
        if key in OF_A_FILE:
            table["files"][0] = {**table["files"][0], key: value}
            lines = sorted(f"{file['sha256']}  {file['path']}\n" for file in table["files"])
            table["set_digest"] = hashlib.sha256("".join(lines).encode()).hexdigest()
        else:
            table[key] = value
        lock.write_text(tomlkit.dumps({"lock_version": 1, "model": [table]}))
        before = files_below(locked.folder)
        for command in ("sync", "verify", "status", "prune", "lock --check", "add other/model", "export x/"):
            ran = locked(*command.split())
            assert_told(ran)
            assert ran.exit_code == 2, f"{command}: {value!r}: {ran.err}"
        assert files_below(locked.folder) == before
        lock.unlink()
        (home / ".cache-models.json").write_text(json.dumps({"format": 1, **table}))
        for command in ("verify", "status", f"path {EMBEDDING}"):
            ran = locked(*command.split())
            assert_told(ran)
            assert ran.exit_code == (0 if command == "status" else 1), f"{command}: {value!r}: {ran.err}"
        lock.write_bytes(good)
        (home / ".cache-models.json").write_bytes(receipt)
    assert hub.requests == []
    assert locked("sync").exit_code == 0
    tally("lock and receipt edited", 10 * len(values))
