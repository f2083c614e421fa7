"""A file system that refuses: one call, or every one from there on. It is told, and nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.faults.conftest import Tally
from tests.support.faults.forked_runs import Fault
from tests.support.faults.losses import bytes_of, refuse_losses
from tests.support.faults.scenarios import ALL, EMBEDDING, SCENARIOS, STATE, Workspace, look

pytestmark = pytest.mark.slow

WRITING = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE]
READING = [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE]
ONWARDS = [errno.ENOSPC, errno.EROFS, errno.EIO]


def faults(fault: Fault, numbers: Sequence[int], calls: int, tries: int) -> Iterator[Fault]:
    """Yield what may befall a command of so many calls: each error at a few of them, at others for every error."""
    ways = [(number, onwards) for number in numbers for onwards in (False, True) if not onwards or number in ONWARDS]
    stride = 1 if ALL else max(1, calls // tries)
    for place, (number, onwards) in enumerate(ways):
        for at in range(1 + place * stride // len(ways), calls + 1, stride):
            yield replace(fault, at=at, do=str(number), onwards=onwards)


@pytest.mark.parametrize("name", SCENARIOS)
def test_refused_to_write(name: str, workspace: Workspace, tally: Tally) -> None:
    """Full, over quota, broken, read-only, not ours, too many files open: 0 or 4, and the old version is whole."""
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    tries, worst = 0, 0.0
    for fault in faults(scenario.fault, WRITING, scenario.calls, 4):
        ended = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=fault)
        assert ended.code in (0, 4), f"{fault}: {ended.err}"
        tries, worst = tries + 1, max(worst, refuse_losses(workspace, scenario, folder, ended))
    tally("a call that writes is refused, or does half", tries, worst)


@pytest.mark.parametrize("name", SCENARIOS)
def test_refused_to_read(name: str, workspace: Workspace, tally: Tally) -> None:
    """What lies below the root cannot be opened, read or looked at: that is 4, or 2 where it is lock or manifest.

    No model moves for it, and none is fetched anew that is there.
    """
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    fault = replace(scenario.fault, reads=str(folder))
    calls = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=fault).calls
    tries, worst = 0, 0.0
    for struck in faults(fault, READING, calls, 4):
        ended = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=struck)
        assert ended.code in (0, 4) or (ended.code == 2 and os.strerror(int(struck.do)) in ended.err), (
            f"{struck}: {ended.err}"
        )
        if ended.code == 0:  # modes and times are not refused here
            assert look(folder).models == scenario.after.models, struck
        tries, worst = tries + 1, max(worst, refuse_losses(workspace, scenario, folder, ended))
    tally("a call that reads is refused", tries, worst)


def test_no_byte_is_published_that_could_not_be_read(workspace: Workspace, tally: Tally) -> None:
    """Each single read is refused, as of another user's file: a link to the old version that was not hashed is gone."""
    scenario, folder = workspace.scenario("upgrade"), workspace.folder / "run"
    fault = replace(scenario.fault, reads=str(folder), do=str(errno.EACCES))
    calls = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=replace(fault, at=0)).calls
    for at in range(1, calls + 1):
        ended = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=replace(fault, at=at))
        if ended.code == 0:
            assert look(folder).models == scenario.after.models, f"call {at}: {ended.err}"
    tally("a call that reads is refused", calls)


@pytest.mark.parametrize("words", [["verify"], ["verify", "--quick"], ["status"], ["path", EMBEDDING]], ids=" ".join)
def test_looking_at_what_cannot_be_read(words: list[str], workspace: Workspace, tally: Tally) -> None:
    """The commands that only look end with 4 as well, and take nothing that they could not read for damaged."""
    scenario = workspace.scenario("upgrade")
    folder = workspace.folder / "unbroken"
    fault = Fault(reads=str(folder))
    calls, tries = workspace.runs.run(folder, *words, fault=fault).calls, 0
    for struck in faults(fault, READING, calls, 12):
        ended = workspace.runs.run(folder, *words, fault=struck)
        assert ended.code in (0, 4) or (ended.code == 2 and os.strerror(int(struck.do)) in ended.err), (
            f"{struck}: {ended.err}"
        )
        tries += 1
    assert look(folder) == scenario.settled
    tally("a call that reads is refused", tries)


# Of a file system that has little more than files and names.
LACKING = "exchange replace link copy mode time folder lock"
# How network and FUSE file systems say that; test_disk and test_publish_steps try every errno, call by call.
SAID = [
    "EPERM",
    "ENOENT",
    "EIO",
    "EBADF",
    "EACCES",
    "EXDEV",
    "EISDIR",
    "EINVAL",
    "EMFILE",
    "ENOSPC",
    "ENOSYS",
    "ENOTSUP",
]


@pytest.mark.parametrize(
    "name", ["first fetch with what lock kept", "upgrade", "conversion without a lock", "sync --from"]
)
def test_whatever_a_file_system_lacks_there_is_another_way(name: str, workspace: Workspace, tally: Tally) -> None:
    """All calls that have another way are refused for good, with one errno after the other: it ends as ever.

    With EAGAIN, flock says that somebody has the lock; a mode or time that is refused for want of space is told;
    and EINTR is no refusal: Python calls again.
    """
    scenario, folder = workspace.scenario(name), workspace.folder / "run"
    numbers = sorted(set(errno.errorcode) - {errno.EINTR}) if ALL else [getattr(errno, one) for one in SAID]
    worst = 0.0
    for number in numbers:
        lacking = LACKING
        if number == errno.EAGAIN:
            lacking = lacking.replace("lock", "")
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            lacking = lacking.replace("mode time", "")
        fault = replace(scenario.fault, refuses=lacking, refused=number)
        ended = workspace.runs.run(scenario.copy(folder), *scenario.words, fault=fault)
        assert ended.code == 0, f"{errno.errorcode[number]}: {ended.err}"
        assert bytes_of(look(folder)) == bytes_of(scenario.after), errno.errorcode[number]
        verified = workspace.runs.run(folder, "verify", fault=fault)
        assert verified.code == 0, verified.err
        workspace.hub.forget()
        quiet = workspace.runs.run(folder, *scenario.sync, fault=fault)
        assert (quiet.code, workspace.hub.requests) == (0, []), quiet.err
        assert not list(folder.glob(f"*/{STATE}"))
        worst = max(worst, ended.seconds)
    tally("a call that a file system lacks", len(numbers), worst)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_write_is_short(name: str, workspace: Workspace, tally: Tally) -> None:
    """A file system may take half of what it is given: the rest is given again."""
    scenario = workspace.scenario(name)
    folder = scenario.copy(workspace.folder / "run")
    ended = workspace.runs.run(folder, *scenario.words, fault=scenario.struck(1, "short", onwards=True))
    assert ended.code == 0, ended.err
    assert look(folder).models == scenario.after.models
    assert workspace.runs.run(folder, *scenario.sync).code == 0
    assert look(folder) == scenario.settled
    tally("a call that writes is refused, or does half")
