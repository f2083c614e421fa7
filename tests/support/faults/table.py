"""The table that the fault suite prints and docs/reliability.md shows: fault, tries, survived, worst recovery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

ROWS = (
    "SIGKILL before a file-system call",
    "SIGKILL several times in a row",
    "SIGKILL while bytes flow",
    "SIGKILL during export",
    "SIGKILL during push",
    "SIGTERM",
    "power cut",
    "replaced while programs load it by its id",
    "a call that writes is refused, or does half",
    "a call that reads is refused",
    "a call that a file system lacks",
    "too little space",
    "space runs out",
    "inodes run out",
    "the disk turns read-only, or goes away",
    "a read-only mount",
    "no permission, or a file in the way",
    "a limit on the size of files",
    "users of one group, one of them killed",
    "any umask",
    "too few threads",
    "too little memory",
    "too few descriptors",
    "odd surroundings",
    "a thousand directories, one in another",
    "8 processes at once",
    "8 processes where flock does nothing",
    "8 processes, 6 of them killed",
    "a dead holder where flock is refused",
    "a holder suspended, overtaken, and woken",
    "syncs in one process",
    "random operations on a cache",
    "a server silent, or stalled",
    "a connection reset, or closed",
    "status codes, and how long to wait",
    "answers that lie",
    "servers at random",
    "redirects that lead nowhere",
    "answers slow, or without end",
    "gone, gated, or taken down",
    "names, ports, and certificates",
    "proxies",
    "hostile listings and repositories",
    "links and odd files planted in a root",
    "lock and receipt edited",
    "spoiled documents",
    "words meant for the terminal",
    "secrets",
)
"""Every row there is, in the order in which they are printed."""


def lines(noted: Iterable[tuple[str, int, float]]) -> Iterator[str]:
    """Yield the lines of the table: of each row the sum of its tries and its longest recovery in seconds."""
    tries, worst = dict.fromkeys(ROWS, 0), dict.fromkeys(ROWS, 0.0)
    for row, count, seconds in noted:
        tries[row] += count
        worst[row] = max(worst[row], seconds)
    yield "| fault | tries | survived | worst recovery |"
    yield "|---|--:|--:|--:|"
    for row in ROWS:
        if tries[row]:
            yield _line(row, tries[row], worst[row])
    yield _line("all", sum(tries.values()), max(worst.values()))


def _line(name: str, tries: int, worst: float) -> str:
    # A test notes its tries at its end: those of one that failed are in no row.
    return f"| {name} | {tries:,} | {tries:,} | {f'{max(worst, 0.1):.1f} s' if worst else ''} |"
