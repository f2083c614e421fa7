"""An application that loads a model by its id again and again, offline, and says each time which numbers it got.

python -m tests.support.faults.reader_by_id ID REVISION     loads until its stdin is closed; then one JSON object

The environment says where the Hub cache is. An empty REVISION asks for none.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

from tests.support import preloaded
from tests.support.faults.reader import PROJECT, running

TEXTS = ["the cat sleeps in the sun", "a lawyer can read the contract"]


@dataclass
class ReportById:
    """How often each numbers were got, by their hash, and how often each error was."""

    numbers: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


@contextmanager
def reading_by_id(hub: Path, model_id: str, revision: str = "") -> Iterator[ReportById]:
    """Let a reader load a model by its id all the while; the report is complete at the end."""
    offline = {
        **os.environ,
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(hub.parent.parent / "nothing"),
    }
    command = [sys.executable, "-m", "tests.support.faults.reader_by_id", model_id, revision]
    process = preloaded.Popen(command, cwd=PROJECT, stdin=PIPE, stdout=PIPE, text=True, env=offline)
    with running(process, ReportById()) as report:
        yield report


def numbers_of(model: str, revision: str = "") -> str:
    """Return a hash of the vectors that a model gives, loaded by id or by path."""
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(model, revision=revision or None, device="cpu").encode(TEXTS)
    return hashlib.sha256(vectors.round(4).tobytes()).hexdigest()[:12]


def main() -> None:
    """Load until stdin is closed."""
    import logging

    logging.disable(logging.CRITICAL)
    import sentence_transformers  # noqa: F401  # the first load shall not take longer than the others

    numbers: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    print(flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            numbers[numbers_of(*sys.argv[1:])] += 1
        except Exception as error:  # noqa: BLE001  # whatever an application may get
            errors[f"{type(error).__name__}: {str(error)[:120]}"] += 1
    print(json.dumps({"numbers": numbers, "errors": errors}))


if __name__ == "__main__":
    main()
