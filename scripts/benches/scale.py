"""How the cost grows with the number of models and with their size: the points of the plot."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from scripts.benches.bed import Bed, curl, hub_same, ours
from scripts.benches.goals import Scenario
from scripts.benches.quiet import filled
from scripts.benches.rounds import TOOL, Peer, Runs, in_turn

Lines = dict[str, dict[str, list[float]]]


def scale(bed: Bed) -> Scenario:
    """Measure several sizes; large ones once, because they take long and vary little."""
    counts = (1, 5, 20) if bed.quick else (1, 2, 5, 10, 20, 50, 100, 200)
    megabytes = (10, 100) if bed.quick else (10, 100, 1000, 10_000)
    points = {"later start": _later(bed, counts), "bytes": _bytes(bed, megabytes), "models": _models(bed, counts[::2])}
    peers = [
        (f"{title}: {name}", "  ".join(f"{x:g}: {y:.3g} s" for x, y in zip(*at.values(), strict=True)))
        for title, lines in points.items()
        for name, at in lines.items()
    ]
    return Scenario("cost against the number of models and their bytes", peers, points=points)


def _later(bed: Bed, counts: Sequence[int]) -> Lines:
    roots = {count: filled(bed, f"scale-{count}", count) for count in counts}
    peers = [Peer(f"{count}", [sys.executable, TOOL], root) for count, root in roots.items()]
    bare = Peer("python -c pass", [sys.executable, "-c", "pass"], bed.folder)
    runs = in_turn([*peers, bare], 3 if bed.quick else 21)
    floor = runs.pop("python -c pass").seconds
    return {
        "cache-models": _line(counts, [runs[str(count)] for count in counts]),
        "python -c pass": {"x": list(map(float, counts)), "y": [floor] * len(counts)},
    }


def _bytes(bed: Bed, megabytes: Sequence[int]) -> Lines:
    found: dict[str, list[Runs]] = {}
    for size in megabytes:
        model = bed.large(f"scale-{size}-mb", "embedding", size, sparse=True)
        here = Bed(bed.folder / f"bytes-{size}", bed.hub, bed.quick)
        here.folder.mkdir()
        peers = [ours(here, [model]), curl(here, [model]), hub_same(here, [model])]
        _collect(found, in_turn(peers, 1 if size > 100 else min(3, bed.rounds)))
        for peer in peers:
            peer.before()
    return {name: _line(megabytes, runs) for name, runs in found.items()}


def _models(bed: Bed, counts: Sequence[int]) -> Lines:
    found: dict[str, list[Runs]] = {}
    for count in counts:
        models = [bed.small(f"small-{number}") for number in range(count)]
        here = Bed(bed.folder / f"models-{count}", bed.hub, bed.quick)
        here.folder.mkdir()
        peers = [ours(here, models), curl(here, models), hub_same(here, models)]
        _collect(found, in_turn(peers, 1 if count > 20 else min(3, bed.rounds)))
    return {name: _line(counts, runs) for name, runs in found.items()}


def _collect(found: dict[str, list[Runs]], runs: dict[str, Runs]) -> None:
    for name, one in runs.items():
        found.setdefault(name, []).append(one)


def _line(at: Sequence[int], runs: Sequence[Runs]) -> dict[str, list[float]]:
    return {"x": list(map(float, at)), "y": [one.seconds for one in runs]}
