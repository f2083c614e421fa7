"""From the start of a container to its first embedding, in a process with the settings of the image."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from scripts.benches.bed import Bed, Model, clear
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import PROJECT, TOOL, Peer, in_turn

_PROGRAM = str(Path(__file__).with_name("first_answer.py"))


def start(bed: Bed) -> Scenario:
    """Encode a text with a baked model, and with a model that has to be fetched first."""
    megabytes = 100 if bed.quick else 1112
    model = bed.large("start", "embedding", megabytes)
    root = bed.root("baked", [model])
    bed.fill(root)
    runs = in_turn([_baked(root, model), _fetched(bed, model), _downloads(bed, model)], min(3, bed.rounds), bed.asked)
    mine = runs["baked"]
    return Scenario(
        f"process start to first embedding, {megabytes / 1000:.1f} GB model",
        [*told(runs, mine), *(_parts(root, name, f"{name}, by part") for name in ("baked", "library downloads"))],
        [Figure("download at start / baked", runs["library downloads"].over(mine), 1, ">=")],
    )


def _baked(root: Path, model: Model) -> Peer:
    env = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT), "HF_HOME": str(root / "hf")}
    return Peer("baked", [sys.executable, _PROGRAM, "baked", model.id, str(root / "baked.jsonl")], root, env)


def _fetched(bed: Bed, model: Model) -> Peer:
    root, name = bed.root("sync", [model]), "cache-models at start"
    then = f"{sys.executable} {TOOL} && HF_HUB_OFFLINE=1 {sys.executable} {_PROGRAM} baked {model.id} sync.jsonl"
    env = {**bed.env("sync"), "PYTHONPATH": str(PROJECT)}
    return Peer(name, ["sh", "-ec", then], root, env, lambda: clear(root, keep="models.toml"), watch=True)


def _downloads(bed: Bed, model: Model) -> Peer:
    root, name = bed.root("downloads", [model]), "library downloads"
    report = str(bed.folder / "baked" / f"{name}.jsonl")
    env = {**bed.env("downloads"), "PYTHONPATH": str(PROJECT), "HF_HOME": str(root / "hf")}
    command = [sys.executable, _PROGRAM, "download", model.id, report]
    return Peer(name, command, root, env, lambda: clear(root), watch=True)


def _parts(root: Path, name: str, title: str) -> tuple[str, str]:
    reports = [json.loads(line) for line in (root / f"{name}.jsonl").read_text().splitlines()]
    medians = {part: statistics.median(report[part] for report in reports) for part in reports[0]}
    return title, ", ".join(f"{part} {seconds:.2f} s" for part, seconds in medians.items())
