"""`add` ended or refused at any call: models.toml and models.lock hold the old text or the new one, and go together."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import files_below
from tests.faults.conftest import Tally
from tests.support.faults.forked_runs import Fault
from tests.support.faults.scenarios import EMBEDDING, RERANKER, Workspace, first_version, reranker

pytestmark = pytest.mark.slow

WORDS = ("add", EMBEDDING)
ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)


@dataclass
class Adding:
    """A directory before and after one model is added to it."""

    workspace: Workspace
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    calls: int

    def run(self, fault: Fault) -> tuple[int, Mapping[str, bytes], Path]:
        """Add the model, with something wrong; return the exit code and what is there."""
        folder = self.workspace.folder / "run"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, content in self.before.items():
            (folder / name).write_bytes(content)
        ended = self.workspace.runs.run(folder, *WORDS, fault=fault)
        assert "Traceback" not in ended.err
        found = files_below(folder)
        assert plain(found).items() <= {*self.before.items(), *self.after.items()}, ended.err
        assert self.before.keys() <= found.keys()
        if found.get("models.toml") == self.after["models.toml"]:
            assert found["models.lock"] == self.after["models.lock"], "a table without its pin"
        return ended.code, found, folder

    def again(self, folder: Path) -> Mapping[str, bytes]:
        """Add it once more: now it is there. Return what else is."""
        ended = self.workspace.runs.run(folder, *WORDS)
        found = files_below(folder)
        assert (ended.code, plain(found)) == (0, self.after), ended.err
        return {name: content for name, content in found.items() if name not in self.after}


def plain(found: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the files of a directory without temporary ones."""
    return {name: content for name, content in found.items() if not name.startswith(".")}


@pytest.fixture(params=["to another model", "to nothing"])
def adding(request: pytest.FixtureRequest, workspace: Workspace) -> Adding:
    """A directory with a manifest and a lock, or an empty one."""
    workspace.hub.add(EMBEDDING, first_version())
    workspace.hub.add(RERANKER, reranker())
    folder = workspace.folder / "unbroken"
    folder.mkdir()
    if request.param == "to another model":
        workspace.well(folder, "add", RERANKER)
    before = files_below(folder)
    ended = workspace.runs.run(folder, *WORDS)
    assert ended.code == 0, ended.err
    return Adding(workspace, before, files_below(folder), ended.calls)


def test_killed_at_any_call(adding: Adding, tally: Tally) -> None:
    """The manifest never lists a model that the lock does not pin; the same command goes on."""
    for at in range(1, adding.calls + 1):
        code, _, folder = adding.run(Fault(at=at, do="kill"))
        assert code in (-signal.SIGKILL, 0)
        assert not adding.again(folder)
    tally("SIGKILL before a file-system call", adding.calls)


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_refused_to_write(adding: Adding, tally: Tally, number: int) -> None:
    """Exit 4, and both files are as they were; or 0, and both are new."""
    for at in range(1, adding.calls + 1):
        code, found, folder = adding.run(Fault(at=at, do=str(number)))
        assert code in (0, 4)
        assert found == (adding.after if code == 0 else adding.before)
        assert not adding.again(folder)
    tally("a call that writes is refused, or does half", adding.calls)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_refused_to_write_from_there_on(adding: Adding, tally: Tally, number: int) -> None:
    """The lock cannot even be set back: it has a pin more, which changes nothing.

    A temporary file that cannot be removed is removed when the file is written again.
    """
    for at in range(1, adding.calls + 1):
        code, _, folder = adding.run(Fault(at=at, do=str(number), onwards=True))
        assert code in (0, 4)
        adding.again(folder)
    tally("a call that writes is refused, or does half", adding.calls)
