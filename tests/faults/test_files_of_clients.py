"""What clients have written into a Hub view outlives a run that is killed at any point of writing or removing it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelcache.core.hub_view import HUB_NAME, view_folder
from modelcache.formats.lockfile import parse_lock
from tests.faults.conftest import Tally
from tests.support.faults.scenarios import EMBEDDING, Workspace, look, points

pytestmark = pytest.mark.slow

OTHER = "d" * 40


def write_as_a_client(folder: Path, commits: list[str]) -> dict[str, str]:
    """Write what a client that is online may; return the target of each link and the text of each file by its path."""
    links = {f"snapshots/{commit}/onnx/model.onnx": "../../../blobs/0123" for commit in commits}
    links |= {f"snapshots/{OTHER}/config.json": "../../blobs/0123"}
    files = {f"snapshots/{commit}/1_Pooling/extra.txt": "of a client" for commit in commits}
    files |= {"blobs/0123": "bytes", "refs/theirs": OTHER, f"trees/{OTHER}.json": "{}"}
    for path in {*links, *files}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    for path, target in links.items():
        (folder / path).symlink_to(target)
    for path, text in files.items():
        (folder / path).write_text(text)
    return links | files


def entries(folder: Path) -> dict[str, str]:
    """The target of each link and the text of each file."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in paths
    }


@pytest.mark.parametrize("name", ["first fetch", "upgrade", "upgrade without exchange", "prune"])
def test_nothing_of_a_client_is_lost(name: str, workspace: Workspace, tally: Tally) -> None:
    """In the snapshots that are moved aside, in that of the next version, and beside them."""
    scenario = workspace.scenario(name)
    pins = parse_lock((scenario.folder / "models.lock").read_bytes(), "models.lock")
    repository = f"{HUB_NAME}/{view_folder(EMBEDDING)}"
    there = [path.name for path in (scenario.folder / repository / "snapshots").glob("*")]
    commits = sorted({*there, *(pin.commit for pin in pins if pin.id == EMBEDDING)})
    assert commits
    theirs = write_as_a_client(scenario.folder / repository, commits)
    folder = scenario.copy(workspace.folder / "run")
    whole = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
    assert whole.code == 0, whole.err
    after = look(folder).views
    assert theirs.items() <= entries(folder / repository).items()
    tried, worst = points(whole.calls, 4), 0.0
    for at in tried:
        folder = scenario.copy(workspace.folder / "run")
        killed = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(at, "kill"))
        assert killed.code in (-signal.SIGKILL, 0), killed.err
        ended = workspace.runs.run(folder, *scenario.words, fault=scenario.fault)
        assert ended.code == 0, ended.err
        found = entries(folder / repository)
        assert theirs.items() <= found.items(), f"after {at} calls"
        assert look(folder).views == after, f"after {at} calls"
        assert not [path for path in found if path.startswith(".cache-models")], f"after {at} calls"
        worst = max(worst, ended.seconds)
    tally("SIGKILL before a file-system call", len(tried), worst)
