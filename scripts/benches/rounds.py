"""Peers in turn, round by round, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_STOPWATCH = str(Path(__file__).with_name("stopwatch.py"))
PROJECT = Path(__file__).resolve().parents[2]
TOOL = str(PROJECT / "cache_models.py")
# Settings of the caller can change the results: PYTHONDONTWRITEBYTECODE, for example, makes a program that runs from
# its source folder, like this tool, compile itself at each start.
_NOT_OURS = ("PYTHON", "HF_", "TRANSFORMERS_", "CACHE_MODELS_", "SSL_CERT_", "REQUESTS_CA_", "CURL_CA_")


@dataclass(frozen=True, slots=True)
class Ran:
    """The cost of one command. `peak` is the memory of its largest process, `written` the bytes given to the disk."""

    code: int
    seconds: float
    processor: float
    peak: int
    written: int
    disk: int
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to do the work: a command, its directory, and `before`, which clears its old files."""

    name: str
    command: Sequence[str]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    watch: bool = False
    """Measure the disk space below the folder while the command runs."""


class FailedError(Exception):
    """A timed command ended with an unexpected exit code."""


def run(
    command: Sequence[str], folder: Path, env: Mapping[str, str], *, watch: bool = False, meant: int | None = 0
) -> Ran:
    """Run one command in a clean environment plus `env`.

    Raises:
        FailedError: it ended with another code than `meant`; the message has its output.

    """
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_NOT_OURS) and not name.lower().endswith("_proxy")
    }
    words = [sys.executable, "-I", "-S", _STOPWATCH, str(folder) if watch else "", *command]
    # Its output may be needed, but an unread pipe would block it, so it goes to a file.
    with (folder.parent / "said.txt").open("w+b") as said:
        ended = subprocess.run(words, cwd=folder, env={**clean, **env}, stdout=subprocess.PIPE, stderr=said, check=True)
        ran = Ran(**json.loads(ended.stdout))
        if meant is not None and ran.code != meant:
            said.seek(0)
            raise FailedError(f"{' '.join(command)}\nended with {ran.code}:\n{said.read().decode(errors='replace')}")
    return ran


def in_turn(peers: Sequence[Peer], rounds: int, asked: Callable[[], int] = lambda: 0) -> dict[str, Runs]:
    """Run each peer once per round, beginning with another peer each round; `asked` counts requests."""
    done: dict[str, list[Ran]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        start = number % len(peers)
        for peer in (*peers[start:], *peers[:start]):
            for each in peers:  # of all peers: otherwise each one uses memory of its own, and some memory is slower
                each.before()
            if peer.watch:
                os.sync()  # otherwise this peer would wait for the writes of the previous one
            before = asked()
            ran = run(peer.command, peer.folder, peer.env, watch=peer.watch)
            counted = Ran(
                ran.code, ran.seconds, ran.processor, ran.peak, ran.written, ran.disk, requests=asked() - before
            )
            done[peer.name].append(counted)
            if sys.stderr.isatty() or os.environ.get("BENCH_TELL"):
                print(f"  round {number + 1}  {peer.name:<28} {ran.seconds:8.2f} s", file=sys.stderr)
    return {name: Runs(name, tuple(runs)) for name, runs in done.items()}


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of one peer, in the order of the rounds."""

    name: str
    all: tuple[Ran, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(ran.seconds for ran in self.all)

    @property
    def processor(self) -> float:
        """The median of the CPU time in seconds."""
        return statistics.median(ran.processor for ran in self.all)

    @property
    def peak(self) -> float:
        """The most memory of any run, in MiB."""
        return max(ran.peak for ran in self.all) / 2**20

    @property
    def written(self) -> int:
        """The most bytes written by any run."""
        return max(ran.written for ran in self.all)

    @property
    def disk(self) -> int:
        """The most disk space that any run took."""
        return max(ran.disk for ran in self.all)

    @property
    def requests(self) -> int:
        """The most requests of any run."""
        return max(ran.requests for ran in self.all)

    def over(self, other: Runs) -> float:
        """How many times as long this took as the other: the median of the ratios of the rounds."""
        return statistics.median(a.seconds / b.seconds for a, b in zip(self.all, other.all, strict=True))
