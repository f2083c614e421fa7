"""A root in which somebody has planted something: nothing outside it is written, read into it, or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelcache.lockfile import parse_lock
from tests.conftest import EMBEDDING, Tool
from tests.faults.bounds import Outside, assert_told
from tests.faults.conftest import Tally

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
    commands = ("lock --upgrade", "verify", "status", f"path {EMBEDDING}", "sync --dry-run", "prune")
    for command in commands:
        assert_told(locked(*command.split()))
        outside.assert_untouched()
    tally(f"planted: {what}", 1 + len(commands))
