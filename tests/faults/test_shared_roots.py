"""Roots that several users share, and umasks of every kind: who can go on with what, and who can write where."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.faults.conftest import Tally
from tests.support.faults.forked_runs import Fault
from tests.support.faults.losses import bytes_of
from tests.support.faults.scenarios import COLLECTIONS, EMBEDDING, STATE, Workspace, look, points, second_version
from tests.support.faults.volumes import Volume, mounted

GROUP = 7000
# Of one group, which is the first one of the first of them.
ONE = Fault(user=7001, group=GROUP, segment=200_000)
OTHER = Fault(user=7002, shares=GROUP, segment=200_000)
STRANGER = Fault(user=7003)


@pytest.fixture
def volume() -> Iterator[Volume]:
    """A file system that any user may look at."""
    with mounted("tmpfs", size=64 << 20, inodes=2000) as made:
        Path(os.environ["HOME"]).chmod(0o711)  # there each user looks for a token
        yield made


@pytest.fixture(params=[0o2775, 0o775], ids=["setgid", "no setgid"])
def claim(request: pytest.FixtureRequest, volume: Volume) -> Path:
    """A root that the group may write, as fsGroup and OpenShift make it."""
    claim = volume.folder / "claim"
    claim.mkdir()
    os.chown(claim, 0, GROUP)
    claim.chmod(request.param)
    return claim


def modes_below(root: Path) -> dict[str, int]:
    """The mode of everything."""
    return {path.relative_to(root).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o000], ids=oct)
def test_users_of_one_group_go_on_with_each_others_work(
    umask: int, claim: Path, volume: Volume, workspace: Workspace, tally: Tally
) -> None:
    """One of them is killed at any point of replacing a model; another one does it, and leaves nothing of it."""
    one, other = replace(ONE, umask=umask), replace(OTHER, umask=umask)
    scenario = workspace.scenario("first fetch")
    folder = scenario.copy(volume.folder / "project")
    sync = ("sync", "--locked", "--root", str(claim))
    ended = workspace.runs.run(folder, *sync, fault=one)
    assert ended.code == 0, ended.err
    assert workspace.runs.run(folder, *sync, fault=other).code == 0
    workspace.hub.add(EMBEDDING, second_version())
    workspace.well(folder, "lock", "--upgrade", "--root", str(volume.folder / "elsewhere"))
    kept = volume.folder / "kept"
    subprocess.run(["cp", "-a", claim, kept], check=True)
    calls = workspace.runs.run(folder, *sync, fault=one).calls
    worst, tried = 0.0, points(calls, 16)
    for at in tried:
        subprocess.run(["rm", "-rf", claim], check=True)
        subprocess.run(["cp", "-a", kept, claim], check=True)
        workspace.runs.run(folder, *sync, fault=replace(one, at=at, do="kill"))
        ended = workspace.runs.run(folder, *sync, fault=other)
        assert ended.code == 0, f"after {at} calls: {ended.err}"
        verified = workspace.runs.run(folder, "verify", "--root", str(claim), fault=one)
        assert verified.code == 0, f"after {at} calls: {verified.err}"
        workspace.hub.forget()
        assert (workspace.runs.run(folder, *sync, fault=one).code, workspace.hub.requests) == (0, [])
        modes = modes_below(claim)
        shared = stat.S_IMODE(claim.stat().st_mode)
        assert not [path for path in modes if STATE in path.split("/")], f"after {at} calls"
        assert {path: mode for path, mode in modes.items() if (claim / path).is_dir() and mode != shared} == {}, (
            f"after {at}"
        )
        plain = [path for path in modes if (claim / path).is_file() and not (claim / path).is_symlink()]
        assert {modes[path] for path in plain} == {0o644}
        assert {path.stat().st_gid for path in claim.rglob("*") if path.is_dir()} == {GROUP}
        worst = max(worst, ended.seconds)
    workspace.want(folder, rerankers=["tinyorg/reranker"])
    workspace.well(folder, "lock")
    refused = workspace.runs.run(folder, "prune", "--root", str(claim), fault=STRANGER)
    assert (refused.code, "Permission denied" in refused.err) == (4, True), refused.err
    pruned = workspace.runs.run(folder, "prune", "--root", str(claim), fault=one)
    assert pruned.code == 0, pruned.err
    assert [path.name for path in (claim / COLLECTIONS[0]).iterdir()] == []
    tally("users of one group, one of them killed", len(tried), worst)


@pytest.mark.parametrize("name", ["first fetch", "first fetch without a lock", "upgrade", "conversion without a lock"])
@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_others_can_write_at_no_instant(name: str, umask: int, workspace: Workspace, tally: Tally) -> None:
    """Whatever the umask, there is nothing between two calls that others can reach and change; at the end all can read.

    As a process that is killed at a call leaves what was there in that instant.
    """
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    fault = replace(scenario.fault, umask=umask)
    ended = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=fault)
    assert ended.code == 0, ended.err
    assert look(folder).models == scenario.after.models
    found = modes_below(folder)
    assert {found[path] for path in found if path in COLLECTIONS} == {0o755}
    assert found[".cache-models.stamp"] == 0o644
    tried = points(ended.calls, 8)
    for at in tried:
        workspace.runs.run(scenario.copy(folder), *scenario.words, fault=replace(fault, at=at, do="kill"))
        assert writable_by_others(folder) == [], f"after {at} calls"
    tally("any umask", len(tried))


def writable_by_others(folder: Path) -> list[str]:
    """What somebody else can change below a directory, having to pass through all that is above it."""
    found: list[str] = []
    folders = [folder]
    for above in folders:
        for path in above.iterdir():
            mode = path.lstat().st_mode
            if mode & 0o022 and not stat.S_ISLNK(mode):  # the mode of a link means nothing
                found.append(f"{path.relative_to(folder)} {mode:o}")
            if stat.S_ISDIR(mode) and mode & 0o011:
                folders.append(path)
    return found


def test_a_model_that_cannot_be_moved_stays(volume: Volume, workspace: Workspace, tally: Tally) -> None:
    """As one in a lower layer of an image: overlayfs moves no directory of it. That is told, and nothing is lost."""
    scenario = workspace.scenario("upgrade")
    lower, upper, work, top = (volume.folder / name for name in ("lower", "upper", "work", "top"))
    scenario.copy(lower)
    for path in (upper, work, top):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    if subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", top], check=False).returncode:
        unavailable("an overlay cannot be mounted here")
    try:
        ended = workspace.runs.run(top, *scenario.words)
        assert ended.code == 4, ended.err
        assert os.strerror(errno.EXDEV) in ended.err
        assert re.search("^hint: .*overlayfs", ended.err, re.MULTILINE)
        assert bytes_of(look(top)) == bytes_of(scenario.before)
    finally:
        subprocess.run(["umount", top], check=True)
    tally("a call that a file system lacks")
