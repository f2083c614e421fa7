"""First starts: no lock and no file is there."""

from __future__ import annotations

from scripts.benches.bed import Bed, curl, hf_command, hub_same, hub_whole, naive, ours
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import Runs, in_turn


def cold(bed: Bed) -> Scenario:
    """Fetch one large embedding model and one large reranker."""
    megabytes = 100 if bed.quick else 1112
    models = [bed.large("embedding", "embedding", megabytes), bed.large("reranker", "reranker", megabytes)]
    peers = [ours(bed, models), curl(bed, models), hub_same(bed, models), naive(bed, models)]
    runs = in_turn(peers, bed.rounds, bed.asked)
    mine, size = runs["cache-models"], sum(model.size for model in models)
    again = peers[0]
    for peer in peers:  # leftover files would decide which memory the next peers get
        peer.before()
    once = in_turn([again, curl(bed, models, parallel=True), hub_whole(bed, models), hf_command(bed, models)], 1)
    beside = once.pop(again.name)
    return Scenario(
        f"cold, {megabytes / 1000:.1f} GB embedding model and {megabytes / 1000:.1f} GB reranker",
        [*told(runs, mine), *((f"{name}, once", words) for name, words in told(once, beside))],
        [
            Figure("ours / curl without hashing", mine.over(runs["curl"]), 1.6, "<="),
            Figure("hub with the same files / ours", runs["hub, same files"].over(mine), 2.3, ">="),
            Figure("naive / ours", runs["naive"].over(mine), 7, ">="),
            Figure("written / the set", mine.written / size, 1.01, "<="),
            Figure("peak disk / the set", mine.disk / size, 1.01, "<="),
            Figure("peak memory", mine.peak, 48, "<=", "MiB"),
        ],
    )


def small(bed: Bed) -> Scenario:
    """Fetch many small models of a dozen files."""
    count = 10 if bed.quick else 40
    models = [bed.small(f"small-{number}") for number in range(count)]
    files = sum(len(model.files) for model in models)
    runs = in_turn([ours(bed, models), hub_same(bed, models), curl(bed, models)], bed.rounds, bed.asked)
    mine = runs["cache-models"]
    return Scenario(
        f"cold, {count} small models of {files // count} files",
        told(runs, mine),
        [
            Figure("hub with the same files / ours", runs["hub, same files"].over(mine), 3, ">="),
            Figure("requests a model beyond its files", (mine.requests - files) / count, 3, "<=", ""),
        ],
    )


def told(runs: dict[str, Runs], mine: Runs) -> list[tuple[str, str]]:
    """Return a line per peer: its time, memory, bytes written and requests."""
    return [
        (
            name,
            f"{timed(one.seconds)}  {one.over(mine):7.2f} x ours  {one.processor:7.2f} s of processor  "
            f"{one.peak:6.0f} MiB  {one.written / 1e6:7,.0f} MB written  {one.requests:5} requests",
        )
        for name, one in runs.items()
    ]


def timed(seconds: float) -> str:
    """Format a time, short ones in milliseconds."""
    return f"{seconds * 1000:8.1f} ms" if seconds < 0.2 else f"{seconds:8.2f} s "
