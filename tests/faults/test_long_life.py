"""A process that lives long: a service that syncs again and again over changing locks holds on to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.faults.conftest import Tally
from tests.support import tiny
from tests.support.faults.scenarios import ALL, COLLECTIONS, EMBEDDING, RERANKER, STATE, Workspace, look

pytestmark = pytest.mark.slow

SYNCS = 1000 if ALL else 600
MODULES = json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]).encode()


def small(version: int, architecture: str) -> dict[str, bytes]:
    """A model that is a few hundred bytes; every version shares some files with the others."""
    config = json.dumps({"model_type": "bert", "architectures": [architecture], "version": version % 3}).encode()
    weights = tiny.safetensors_of(b"weights %d" % version)
    return {"config.json": config, "vocab.txt": b"a\nb\n", "model.safetensors": weights}


def test_many_syncs_leave_nothing(workspace: Workspace, tally: Tally) -> None:
    """Five locks in turn: no staging, lease, descriptor or thread stays, and memory grows by less than 5 kB a sync."""
    folder, locks = workspace.folder / "run", workspace.folder / "locks"
    folder.mkdir()
    for version in range(5):
        workspace.hub.add(EMBEDDING, {**small(version, "BertModel"), "modules.json": MODULES})
        workspace.hub.add(RERANKER, small(version // 2, "BertForSequenceClassification"))
        pinned = locks / str(version)
        pinned.mkdir(parents=True)
        workspace.want(pinned, EMBEDDING, rerankers=[RERANKER] if version != 3 else [])
        workspace.well(pinned, "lock")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.faults.long_life", str(folder), str(locks), str(SYNCS)],
        cwd=PROJECT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    counts = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.returncode, len(counts)) == (0, SYNCS // 100), ran.stdout + ran.stderr[-3000:]
    early, late = counts[1], counts[-1]
    assert late["descriptors"] <= early["descriptors"]
    assert late["threads"] == early["threads"] == 1
    assert late["memory"] - early["memory"] < 5 * (late["number"] - early["number"]), counts
    assert not list(folder.glob(f"*/{STATE}"))
    beside = {name for name in look(folder).rest if not name.startswith("hub/")}
    assert beside == {"models.toml", "models.lock", ".cache-models.stamp", "hub", *COLLECTIONS}
    tally("syncs in one process", SYNCS)
