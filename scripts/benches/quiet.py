"""Later starts with all models in place: the cost of every start of a container."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from scripts.benches.bed import Bed, Model, below, hub_same, naive
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import TOOL, Peer, in_turn, run
from tests.support import tiny


def quiet(bed: Bed) -> Scenario:
    """Start again over five models."""
    sizes = (20, 20, 8, 8, 8) if bed.quick else (1112, 1112, 400, 400, 400)
    kinds = ("embedding", "reranker", "embedding", "embedding", "reranker")
    models = [
        bed.large(f"quiet-{number}", kind, size, sparse=True)
        for number, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    root, size = bed.root("cache-models", models), sum(model.size for model in models) / 1e9
    bed.fill(root)
    mine = Peer("cache-models", [sys.executable, TOOL], root)
    bare = Peer("python -c pass", [sys.executable, "-c", "pass"], root)
    fast = in_turn([mine, bare], 5 if bed.quick else 41, bed.asked)
    slow = in_turn([mine, _warm(hub_same(bed, models)), _warm(naive(bed, models))], bed.rounds, bed.asked)
    ours, again = fast["cache-models"], slow["cache-models"]
    files = sum(path != ".cache-models.json" for one in root.glob("cached_*/*") for path in below(one))
    return Scenario(
        f"quiet restart, {len(models)} models, {files} files, {size:.1f} GB in place",
        [*told(fast, ours), *told({name: one for name, one in slow.items() if one is not again}, again)],
        [
            Figure("ours / python -c pass", ours.over(fast["python -c pass"]), 2.5, "<="),
            Figure("hub warm / ours", slow["hub, same files"].over(again), 10, ">="),
            Figure("naive warm / ours", slow["naive"].over(again), 200, ">="),
            Figure("requests", ours.requests, 0, "<=", ""),
            Figure("peak memory", ours.peak, 20, "<=", "MiB"),
        ],
    )


def _warm(peer: Peer) -> Peer:
    """Return a peer that has already run once, so that its files are in place."""
    peer.before()
    run(peer.command, peer.folder, peer.env)
    return Peer(peer.name, peer.command, peer.folder, peer.env)


def many(bed: Bed) -> Scenario:
    """Start again with few and with many models in place."""
    counts = (5, 50) if bed.quick else (5, 200)
    peers = [Peer(str(count), [sys.executable, TOOL], filled(bed, f"many-{count}", count)) for count in counts]
    runs = in_turn(peers, 5 if bed.quick else 41, bed.asked)
    few, lots = (runs[str(count)] for count in counts)
    grows = sorted((b.seconds - a.seconds) * 1000 for a, b in zip(few.all, lots.all, strict=True))
    growth = grows[len(grows) // 2] / (counts[1] - counts[0])
    return Scenario(
        f"quiet restart, {counts[1]} models, {counts[1] * 10:,} files",
        [(f"{count} models", f"{runs[str(count)].seconds * 1000:7.1f} ms") for count in counts],
        [Figure("grows a model by", growth, 0.15, "<=", "ms")],
    )


def filled(bed: Bed, name: str, count: int) -> Path:
    """Return a root with that many models of ten files, all in place."""
    source = bed.folder / "ten-files"
    if not source.exists():
        tiny.tiny_embedding(source)
        for surplus in ("vocab.txt", "README.md"):
            (source / surplus).unlink()
    root = bed.root(name, [])
    models = []
    for number in range(count):
        model_id = f"bench/{name}-{number}"
        bed.hub.add(model_id, source)
        models.append(Model(model_id, "embedding", source))
    shutil.rmtree(root)
    bed.fill(bed.root(name, models))
    return root
