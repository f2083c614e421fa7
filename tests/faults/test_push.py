"""`push` and `sync --from docker://` that die at any point: nothing half, and the next run moves only the rest."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcache.transfer.partial_file import written_ranges
from tests.faults.conftest import Tally
from tests.support.faults.forked_runs import WELL, End, Fault, ForkedRuns
from tests.support.faults.scenarios import ALL, points
from tests.support.pushed import (
    CONTENTS,
    LARGE,
    WEIGHTS,
    A,
    B,
    kind_of,
    lock,
    make_root,
    manifests_below,
    models_in,
    put,
)
from tests.support.registry import Request, StandInRegistry
from tests.support.registry.faults import Change
from tests.support.registry.site import Ask, Kind, Site

pytestmark = pytest.mark.slow

TEAM = "team/models"
DIGESTS = ".cache-models.layers"


@dataclass
class KillClient(Change):
    """Send a signal to the process that asks: before the answer, or once so many bytes of the body have come."""

    after: int | None = None
    sends: signal.Signals = signal.SIGKILL
    killed: list[str] = field(default_factory=list)
    """The requests that were its last."""
    _pid: int = 0
    _known: threading.Event = field(default_factory=threading.Event)

    def aim(self, pid: int) -> None:
        """Name the process that asks."""
        self._pid = pid
        self._known.set()

    def before(self, site: Site, ask: Ask) -> None:
        """Kill it now, or when the body is read."""
        if self.after is None:
            self._send(ask)
        else:
            ask.pieces = self._pieces(ask, ask.pieces, self.after)

    def _pieces(self, ask: Ask, pieces: Iterator[bytes], left: int) -> Iterator[bytes]:
        for piece in pieces:
            left -= len(piece)
            if left < 0 and not self.killed:
                self._send(ask)
            yield piece

    def _send(self, ask: Ask) -> None:
        assert self._known.wait(10)
        self.killed.append(f"{ask.method} {ask.path}")
        os.kill(self._pid, self.sends)


@dataclass(frozen=True)
class Prepared:
    """A push that is to be broken: a registry, with an older image or none, and what a whole push makes of it."""

    runs: ForkedRuns
    registry: StandInRegistry
    root: Path
    before: Path
    """The repositories before the push."""
    old: str | None
    new: str = ""
    requests: int = 0
    calls: int = 0

    @property
    def words(self) -> Sequence[str]:
        """The command."""
        return ["push", f"{self.registry.address}/{TEAM}:v1", "--log-format", "json"]

    def begin(self) -> None:
        """Make the registry and the root as they were."""
        self.registry.mend()
        shutil.rmtree(self.registry.storage.folder, ignore_errors=True)
        shutil.copytree(self.before, self.registry.storage.folder, copy_function=os.link)
        (self.root / DIGESTS).unlink(missing_ok=True)
        self.registry.forget()

    def run(self, fault: Fault = WELL) -> End:
        """Push."""
        return self.runs.run(self.root, *self.words, fault=fault)

    def run_until_killed(self, kill: KillClient, kind: Kind | None = None, *, nth: int = 1, times: int = 1) -> End:
        """Push, until the registry kills it."""
        self.registry.fail(kill, kind, nth=nth, times=times)
        run = self.runs.start(self.root, *self.words)
        kill.aim(run.pid)
        return run.end()

    def image(self) -> str | None:
        """What a reader finds under the tag: an image all of whose blobs are there, with their bytes."""
        tag = self.registry.tags(TEAM).get("v1")
        if tag is not None:
            manifests_below(self.registry, TEAM, tag)
        return tag

    def recover(self) -> float:
        """The tag is the old image or the new one; the next push makes it the new one, and sends nothing again."""
        assert self.image() in (self.old, self.new)
        there = set(self.registry.blobs(TEAM))
        self.registry.mend()
        self.registry.forget()
        ended = self.run()
        assert ended.code == 0, ended.err
        assert self.image() == self.new
        assert there.isdisjoint(digests_sent(self.registry.requests))
        assert sorted(path.name for path in self.root.glob(".cache-models.*")) == [DIGESTS]
        return ended.seconds


def digests_sent(requests: Sequence[Request]) -> set[str]:
    """The digests of the blobs whose bytes were sent."""
    bodies = [one for one in requests if one.kind == "upload body" and one.received]
    return {one.path.partition("digest=")[2].replace("%3A", ":") for one in bodies}


@pytest.fixture(params=[False, True], ids=["first", "over an older image"])
def prepared(
    request: pytest.FixtureRequest, registry: StandInRegistry, runs: ForkedRuns, quick_folder: Path, tmp_path: Path
) -> Prepared:
    """A push of two models, with nothing there, or with the image of an older commit under the tag."""
    root = quick_folder / "root"
    made = Prepared(runs, registry, root, tmp_path / "before", None)
    made.before.mkdir()
    made.registry.storage.folder.mkdir(exist_ok=True)
    old = None
    if request.param:
        make_root(root, {**CONTENTS, A: {**LARGE, "config.json": b"[]"}})
        assert made.run().code == 0
        old = made.image()
        shutil.copytree(registry.storage.folder, made.before, dirs_exist_ok=True)
    make_root(root)
    made.begin()
    ended = made.run()
    assert ended.code == 0, ended.err
    new = made.image()
    assert new
    assert new != old
    count = len(registry.requests)
    assert count >= 15
    return Prepared(runs, registry, root, made.before, old, new, count, ended.calls)


def test_killed_at_any_request(prepared: Prepared, tally: Tally) -> None:
    """SIGKILL before the answer to each request; before the last one the tag is as it was."""
    tried, worst, last = 0, 0.0, set()
    for nth in range(1, prepared.requests + 1):
        prepared.begin()
        kill = KillClient()
        ended = prepared.run_until_killed(kill, nth=nth)
        assert ended.code == -signal.SIGKILL, ended.err
        (found,) = kill.killed
        last.add(found.partition(" ")[0])
        if "PUT" not in found or "/manifests/v1" not in found:
            assert prepared.registry.tags(TEAM).get("v1") == prepared.old
        worst = max(worst, prepared.recover())
        tried += 1
    assert last == {"HEAD", "POST", "PUT"}
    tally("SIGKILL during push", tried, worst)


def test_killed_while_a_blob_is_sent(prepared: Prepared, tally: Tally) -> None:
    """After so many bytes of an upload: no half of a blob is to be seen, and the blob is sent anew."""
    sizes = [0, 1, 5000, 70_000, *range(1 << 20, len(WEIGHTS), (1 if ALL else 5) << 20)]
    tried, worst = 0, 0.0
    for after in sizes:
        prepared.begin()
        ended = prepared.run_until_killed(KillClient(after), "upload body", times=-1)
        assert ended.code in (-signal.SIGKILL, 0), ended.err  # 0: no blob had so many bytes
        assert (ended.code == 0) <= (after > 60_000 and prepared.old is not None)
        worst = max(worst, prepared.recover())
        tried += 1
    tally("SIGKILL during push", tried, worst)


def test_killed_at_any_call(prepared: Prepared, tally: Tally) -> None:
    """SIGKILL before a call that changes the root: the noted digests are the old ones or the new ones."""
    tried, worst = points(prepared.calls, 2), 0.0
    assert len(tried) > 5
    for at in tried:
        prepared.begin()
        ended = prepared.run(Fault(at=at, do="kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        worst = max(worst, prepared.recover())
    tally("SIGKILL during push", len(tried), worst)


@pytest.mark.parametrize("do", ["28", "30", "13"])
def test_a_call_is_refused(do: str, prepared: Prepared, tally: Tally) -> None:
    """A root that takes no digests costs nothing but the hashing of the next push."""
    tried, worst = points(prepared.calls, 5), 0.0
    for at in tried:
        prepared.begin()
        ended = prepared.run(Fault(at=at, do=do, onwards=True))
        assert ended.code == 0, ended.err
        assert prepared.image() == prepared.new
        worst = max(worst, prepared.recover())
    tally("a call that writes is refused, or does half", len(tried), worst)


def test_told_to_end_at_any_request(prepared: Prepared, tally: Tally) -> None:
    """SIGTERM ends it with 143, soon, and the next push goes on."""
    tried, worst = list(range(1, prepared.requests + 1, 1 if ALL else 4)), 0.0
    for nth in tried:
        prepared.begin()
        term = KillClient(sends=signal.SIGTERM)
        ended = prepared.run_until_killed(term, nth=nth)
        assert ended.code in (128 + signal.SIGTERM, 0), ended.err
        worst = max(worst, prepared.recover())
    tally("SIGTERM", len(tried), worst)


@dataclass(frozen=True)
class Pulled:
    """A sync that is to be broken."""

    runs: ForkedRuns
    registry: StandInRegistry
    source: Path
    folder: Path
    fault: Fault = WELL

    def begin(self, name: str = "run") -> Path:
        """Return an empty root with manifest and lock."""
        root = self.folder / name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for file in ("models.toml", "models.lock"):
            shutil.copy(self.source / file, root)
        self.registry.mend()
        self.registry.forget()
        return root

    def start(self, root: Path, fault: Fault = WELL) -> End:
        """Sync."""
        return self.runs.run(root, *self.words, fault=fault, env=self.env)

    @property
    def words(self) -> Sequence[str]:
        """The command."""
        return ["sync", "--from", f"docker://{self.registry.address}/{TEAM}:v1"]

    @property
    def env(self) -> dict[str, str]:
        """Where small layers are kept for a while."""
        return {**os.environ, "TMPDIR": str(self.folder)}

    def recover(self, root: Path) -> float:
        """Nothing half is to be seen; the next run completes it, and fetches only what is missing."""
        whole = models_in(self.source)
        found = {path: data for path, data in models_in(root).items() if "/.cache-models/" not in path}
        assert found.items() <= whole.items()
        homes = {path.split("/")[1] for path in found}
        assert {path for path in whole if path.split("/")[1] in homes} == set(found)
        written = sum(
            written_ranges(journal.with_suffix(""), len(WEIGHTS)).total()
            for journal in root.glob("*/.cache-models/*/*.ranges")
            if journal.with_suffix("").exists() and journal.with_suffix("").stat().st_size > 1 << 20
        )
        self.registry.mend()
        self.registry.forget()
        ended = self.start(root)
        assert ended.code == 0, ended.err
        assert models_in(root) == whole
        fetched = sum(one.sent for one in self.registry.asked(kind="blob"))
        small = sum(map(len, whole.values())) - len(WEIGHTS) + (64 << 10)
        missing = 0 if A.replace("/", "__") in homes else len(WEIGHTS) - written
        assert fetched <= missing + small + (600 << 10)  # what came and was not noted yet
        return ended.seconds


@pytest.fixture
def pulled(registry: StandInRegistry, runs: ForkedRuns, quick_folder: Path) -> Pulled:
    """An image in a registry, and the root that it was made of."""
    source = quick_folder / "source"
    make_root(source)
    assert runs.run(source, "push", f"{registry.address}/{TEAM}:v1").code == 0
    return Pulled(runs, registry, source, quick_folder)


def test_a_sync_is_killed_at_any_call(pulled: Pulled, tally: Tally) -> None:
    """SIGKILL before a call that changes the file system, wherever that is."""
    calls = pulled.start(pulled.begin()).calls
    tried, worst, partial = points(calls, max(1, calls // 20)), 0.0, 0
    for at in tried:
        root = pulled.begin()
        ended = pulled.start(root, Fault(at=at, do="kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        partial += any(root.glob("*/.cache-models/*/*.ranges"))
        worst = max(worst, pulled.recover(root))
    assert partial > 1
    tally("SIGKILL before a file-system call", len(tried), worst)


def test_a_sync_is_killed_at_any_request(pulled: Pulled, tally: Tally) -> None:
    """SIGKILL before an answer."""
    assert pulled.start(pulled.begin()).code == 0
    tried, worst = range(1, len(pulled.registry.requests) + 1), 0.0
    for nth in tried:
        root, kill = pulled.begin(), KillClient()
        pulled.registry.fail(kill, nth=nth)
        run = pulled.runs.start(root, *pulled.words, env=pulled.env)
        kill.aim(run.pid)
        ended = run.end()
        assert ended.code in (-signal.SIGKILL, 0), ended.err  # 0: this time it took fewer requests
        worst = max(worst, pulled.recover(root))
    tally("SIGKILL while bytes flow", len(tried), worst)


def test_a_sync_of_a_later_commit_is_killed(pulled: Pulled, tally: Tally) -> None:
    """The old model is whole until the new one is; the weights stay, and are not fetched for it."""
    changed = {**LARGE, "config.json": b'{"new": 1}'}
    old = models_in(pulled.source)
    start = pulled.begin("old")
    assert pulled.start(start).code == 0
    models = [put(pulled.source, A, changed, commit="d" * 40), put(pulled.source, B, CONTENTS[B])]
    lock(models, pulled.source)
    assert pulled.runs.run(pulled.source, "push", f"{pulled.registry.address}/{TEAM}:v1").code == 0
    new, worst = models_in(pulled.source), 0.0

    def begin() -> Path:
        root = pulled.begin()
        for path in start.iterdir():
            if path.is_dir():
                shutil.copytree(path, root / path.name, symlinks=True)
        return root

    calls = pulled.start(begin()).calls
    tried = points(calls, max(1, calls // 20))
    for at in tried:
        root = begin()
        ended = pulled.start(root, Fault(at=at, do="kill"))
        assert ended.code in (-signal.SIGKILL, 0), ended.err
        home = f"{kind_of(A).spec.collection}/acme__a/"
        found = {path: data for path, data in models_in(root).items() if path.startswith(home)}
        assert found in [{path: one[path] for path in one if path.startswith(home)} for one in (old, new)] or not found
        pulled.registry.forget()
        ended = pulled.start(root)
        assert ended.code == 0, ended.err
        assert models_in(root) == new
        assert sum(one.sent for one in pulled.registry.asked(kind="blob")) < 1 << 20
        worst = max(worst, ended.seconds)
    tally("SIGKILL before a file-system call", len(tried), worst)
