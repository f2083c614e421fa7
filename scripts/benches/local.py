"""Local work without a Hub: hashing models on disk, and converting a pickle to safetensors."""

from __future__ import annotations

import sys

from scripts.benches.bed import Bed
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import PROJECT, TOOL, Peer, in_turn
from tests.support import tiny

_HASH_ALL = """
import hashlib, os, sys
from concurrent.futures import ThreadPoolExecutor
def one(path):
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
paths = [os.path.join(above, name) for above, _, names in os.walk(".") for name in names]
with ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(one, sorted(paths, key=os.path.getsize, reverse=True)))
"""
_TORCH = """
import sys, torch
from safetensors.torch import save_file
tensors = torch.load(sys.argv[1], weights_only=True, mmap=True)
save_file({name: tensor.clone() for name, tensor in tensors.items()}, sys.argv[2], metadata={"format": "pt"})
"""
_OURS = (
    "import sys, pathlib; from modelcache.convert.pickle_to_safetensors import convert;"
    " convert(*map(pathlib.Path, sys.argv[1:]))"
)


def verify(bed: Bed) -> Scenario:
    """Hash every byte on disk."""
    megabytes = 100 if bed.quick else 1112
    models = [bed.large("embedding", "embedding", megabytes), bed.large("reranker", "reranker", megabytes)]
    root = bed.root("cache-models", models)
    bed.fill(root)
    peers = [
        Peer("cache-models verify", [sys.executable, TOOL, "verify"], root),
        Peer("sha256, all cores", [sys.executable, "-c", _HASH_ALL], root),
    ]
    runs = in_turn(peers, bed.rounds)
    mine, floor = runs["cache-models verify"], runs["sha256, all cores"]
    return Scenario(
        f"verify, every byte of {sum(model.size for model in models) / 1e9:.1f} GB",
        told(runs, mine),
        [Figure("speed of sha256 on all cores", 100 * floor.over(mine), 90, ">=", "%")],
    )


def convert(bed: Bed) -> Scenario:
    """Convert a pickle to safetensors, compared with torch and with a plain copy."""
    megabytes = 100 if bed.quick else 1100
    folder = bed.folder / "convert"
    folder.mkdir()
    source, target = tiny.write_pickle(folder / "pytorch_model.bin", megabytes * 1_000_000), folder / "out"
    words, env = [str(source), str(target)], {"PYTHONPATH": str(PROJECT)}

    def before() -> None:
        target.unlink(missing_ok=True)

    peers = [
        Peer("cache-models", [sys.executable, "-c", _OURS, *words], folder, env, before, watch=True),
        Peer("cp", ["cp", *words], folder, env, before, watch=True),
        Peer("torch", [sys.executable, "-c", _TORCH, *words], folder, env, before, watch=True),
        Peer("python -c pass", [sys.executable, "-c", "pass"], folder, env, before),
    ]
    runs = in_turn(peers, bed.rounds)
    mine = runs["cache-models"]
    return Scenario(
        f".bin to safetensors, {megabytes / 1000:.1f} GB",
        told(runs, mine),
        [
            Figure("peak memory over the interpreter's", mine.peak - runs["python -c pass"].peak, 64, "<=", "MiB"),
            Figure("speed of cp", 100 * runs["cp"].over(mine), 50, ">=", "%"),
        ],
    )
