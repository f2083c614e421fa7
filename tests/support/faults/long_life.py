"""One process that syncs many times: what it holds on to is counted now and then.

python -m tests.support.faults.long_life FOLDER LOCKS COUNT     one JSON object for every hundred syncs
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

from cache_models import main
from tests.support.policy_defaults import shorten_pauses


def held() -> dict[str, int]:
    """Count what this process holds: descriptors, threads, and its memory in kB."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory": int(status["VmRSS"].split()[0]),
    }


def live(folder: Path, locks: Path, count: int) -> None:
    """Sync to one lock after the other, twice to each: the second time there is nothing to do."""
    shorten_pauses()
    os.chdir(folder)
    names = sorted(path.name for path in locks.iterdir())
    for number in range(1, count + 1):
        name = names[number // 2 % len(names)]
        for ending in ("toml", "lock"):
            (folder / f"models.{ending}").write_bytes((locks / name / f"models.{ending}").read_bytes())
        codes = [main(["sync", "--retries=0"])]
        if number % 10 == 0:
            codes += [main(["prune"]), main(["verify", "--quick"])]
        if codes != [0] * len(codes):
            print(json.dumps({"failed": codes, "number": number}), flush=True)
            return
        if number % 100 == 0:
            print(json.dumps({"number": number, **held()}), flush=True)


if __name__ == "__main__":
    live(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
