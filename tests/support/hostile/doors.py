"""The table of hostile models: which function of `payloads` each runs, told what, and how harm is seen from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.hostile.outside import DEEP, FORGED, MARK, TYPED, Outside, Run, good_answer

MANY = 2048
"""Megabytes that fill a disk: more than any bound, and little enough for this machine."""


@dataclass(frozen=True)
class Door:
    """One way out."""

    name: str
    told: Callable[[Outside], Mapping[str, Any]]
    """What the payload is told: where the door is."""
    harm: Callable[[Outside, Run, Door], bool]
    """Whether harm was done, looked at from outside when all has ended."""
    payload: str = ""
    """The function that tries it, where it has not the same name."""
    owner: str = "hostile"
    """Models are loaded in the order of their names."""
    only_root: bool = False
    """Whether it takes privileges to do harm."""

    @property
    def id(self) -> str:
        """The model's."""
        return f"{self.owner}/{self.name.replace('_', '-')}"


def reached(outside: Outside, run: Run, door: Door) -> bool:
    """Something arrived where the test listens."""
    del run
    return outside.reached(door.name)


def altered(outside: Outside, run: Run, door: Door) -> bool:
    """A file of the test's own is no more what it was."""
    del run
    return outside.altered(door.name)


def hit(outside: Outside, run: Run, door: Door) -> bool:
    """A process of the test's own is no more, or no more what it was."""
    del run
    return not outside.unharmed(door.name)


def got(outside: Outside, run: Run, door: Door) -> bool:
    """The model reads another number of tokens when it got something: a way to tell that no cut takes away."""
    del outside
    return run.got(door.id)


def filled(outside: Outside, run: Run, door: Door) -> bool:
    """All was written."""
    return run.most >= MANY << 20 or got(outside, run, door)


def dug(outside: Outside, run: Run, door: Door) -> bool:
    """The directories are there, or the models that follow are not."""
    del door
    return run.spoiled or outside.deep_left()


def spoiled(outside: Outside, run: Run, door: Door) -> bool:
    """The check told nothing of an honest model, or something wrong; a plain load's pipe took the words."""
    del outside
    return run.spoiled or door.id in run.spoken


def swollen(outside: Outside, run: Run, door: Door) -> bool:
    """All was kept in memory, or read for as long as somebody wrote."""
    return run.swollen or got(outside, run, door) or spoiled(outside, run, door)


def passed_the_next(outside: Outside, run: Run, door: Door) -> bool:
    """The model that follows passes, whose numbers are none; a plain load's pipe took the words."""
    del outside
    return door.id in run.spoken or run.passed(f"{door.id}-broken")


def odd(name: str, text: str) -> Door:
    """Return the door of an answer that is none."""
    return Door(name, lambda out: {"text": text, "times": 1, "end": out.number}, spoiled, payload="speaks")


FILES = (
    Door(
        "clears_the_covers",
        lambda out: {"marker": str(out.home / "marker")},
        lambda out, run, door: (out.home / "marker").exists(),
    ),
    Door(
        "overwrites_another_model",
        lambda out: {"path": str(out.victim)},
        lambda out, run, door: out.victim_altered(),
    ),
    Door("changes_modes_and_times", lambda out: {"path": out.file("changes_modes_and_times")}, altered),
    Door(
        "leaves_files",
        lambda out: {"folders": [str(path) for path in out.places], "name": out.token},
        lambda out, run, door: any((place / out.token).exists() for place in out.places),
    ),
    Door("digs_deep", lambda out: {"name": DEEP, "levels": 5000}, dug),
    Door("swaps_the_scratch", lambda out: {"folder": out.folder_of("swaps_the_scratch")}, altered),
    Door("floods_stdout", lambda out: {"megabytes": 300}, got),
    Door("fills_the_scratch", lambda out: {"megabytes": MANY}, filled),
)
SECRETS = (
    Door("reads_the_token", lambda out: {"mark": MARK}, got),
    Door("reads_credentials", lambda out: {"paths": out.credentials, "mark": MARK}, got),
    Door("reads_a_key", lambda out: {"number": out.key, "mark": MARK}, got),
    Door("reads_a_device", lambda out: {"path": "/dev/kmsg"}, got, only_root=True),
)
SOCKETS = (
    Door("connects", lambda out: {"port": out.tcp("connects")}, reached),
    Door("sends_a_datagram", lambda out: {"port": out.udp("sends_a_datagram")}, reached),
    Door("joins_the_network", lambda out: {"port": out.tcp("joins_the_network")}, reached, only_root=True),
    Door("connects_by_io_uring", lambda out: {"port": out.tcp("connects_by_io_uring")}, reached),
    Door("calls_an_agent", lambda out: {"path": out.agent("calls_an_agent")}, reached),
    Door("sends_to_a_log", lambda out: {"path": out.log("sends_to_a_log")}, reached),
    Door("connects_a_pair_to_a_log", lambda out: {"path": out.log("connects_a_pair_to_a_log")}, reached),
    Door("calls_by_an_abstract_name", lambda out: {"name": out.abstract("calls_by_an_abstract_name")}, reached),
    Door("writes_to_a_fifo", lambda out: {"path": out.fifo("writes_to_a_fifo")}, reached),
)
PROCESSES = (
    Door("alters_shared_memory", lambda out: {"path": out.shared}, altered),
    Door("alters_a_segment", lambda out: {"number": out.segment}, lambda out, run, door: out.segment_altered()),
    Door("kills_a_process", lambda out: {"number": out.process("kills_a_process")}, hit),
    Door("kills_by_owning_a_socket", lambda out: {"number": out.process("kills_by_owning_a_socket")}, hit),
    Door("squeezes_a_process", lambda out: {"number": out.process("squeezes_a_process")}, hit),
    Door("traces_a_process", lambda out: {"number": out.process("traces_a_process")}, hit),
    Door(
        "writes_into_memory",
        lambda out: {"number": out.number, "address": out.address},
        lambda out, run, door: out.memory_altered(),
    ),
    Door(
        "takes_a_descriptor",
        lambda out: {"number": out.number, "descriptor": out.descriptor},
        lambda out, run, door: out.written(),
    ),
    Door(
        "leaves_a_daemon",
        lambda out: {"name": out.token, "seconds": 100},
        lambda out, run, door: out.lives(out.token),
    ),
    Door(
        "keeps_filling",
        lambda out: {"name": f"{out.token}-f", "seconds": 60},
        lambda out, run, door: run.spoiled or out.lives(f"{out.token}-f"),
    ),
)
VERDICTS = (
    Door(
        "speaks_for_the_next",
        lambda out: {"text": f"{good_answer()}\n", "times": 1, "end": out.number},
        passed_the_next,
        payload="speaks",
    ),
    odd("answers_an_empty_object", "{}\n"),
    odd("answers_a_list", "[]\n"),
    odd("answers_deeply", "[" * 100_000 + "\n"),
    odd("answers_other_words", '{"error": 5, "answers": [{}], "seconds": "long", "limit": {}}\n'),
    odd("answers_no_text", "{\udcff\n"),
    Door(
        "answers_without_end",
        lambda out: {"text": " " * 65536, "times": 8192, "end": out.number},
        swollen,
        payload="speaks",
    ),
    Door("forges_rows", lambda out: {"text": FORGED}, lambda out, run, door: run.forged),
    Door("types_on_the_terminal", lambda out: {"text": TYPED}, lambda out, run, door: TYPED in run.text),
)
MACHINE = (
    Door(
        "renames_the_host",
        lambda out: {"name": "hostile"},
        lambda out, run, door: out.host_renamed(),
        only_root=True,
    ),
    Door(
        "sets_the_kernel",
        lambda out: {"path": "/proc/sys/kernel/msgmax", "number": 4711},
        lambda out, run, door: out.kernel_set(4711),
        only_root=True,
    ),
)
# Last, since it ends everything where it does harm.
END = (Door("kills_the_check", lambda out: {"end": out.number}, lambda out, run, door: run.killed, owner="last"),)

DOORS = (*FILES, *SECRETS, *SOCKETS, *PROCESSES, *VERDICTS, *MACHINE, *END)
