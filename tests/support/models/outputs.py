"""Ask a model directory for its numbers, in a process that knows nothing but that directory.

The process is fresh, offline and has an empty home and an empty Hugging Face cache, so a file that is missing from
the directory cannot be found anywhere else. Arrays come back bit for bit.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.support import preloaded

if TYPE_CHECKING:
    import numpy as np

# "routes" asks a Router for both its ways, queries first; so do the last two, which always have both.
Kind = Literal["embedding", "routes", "reranker", "sparse", "multi_vector"]
CHILD = Path(__file__).with_name("child.py")
TEXTS = [
    "The black cat sleeps in the warm sun.",
    "a lawyer can read the contract",
    "rain",
    "Where is the train to town?",
]
PAIRS = [
    ("where is the cat", "The black cat sleeps at home."),
    ("who can read the contract", "the judge and the lawyer"),
    ("rain", "A long road by the river, and no water in it."),
]
TIMEOUT = 300


def embed(directory: Path, texts: list[str], *, trust_remote_code: bool = False) -> np.ndarray:
    """Return what ``SentenceTransformer(directory).encode(texts)`` gives."""
    return _ask([("embedding", directory, texts)], trust_remote_code)[0]


def score(directory: Path, pairs: list[tuple[str, str]], *, trust_remote_code: bool = False) -> np.ndarray:
    """Return what ``CrossEncoder(directory).predict(pairs)`` gives."""
    return _ask([("reranker", directory, pairs)], trust_remote_code)[0]


def outputs(jobs: Iterable[tuple[Kind, Path]], *, trust_remote_code: bool = False) -> list[np.ndarray]:
    """Return the answers of several directories to fixed texts or pairs; all share one process and its imports."""
    asked = [(kind, directory, PAIRS if kind == "reranker" else TEXTS) for kind, directory in jobs]
    return _ask(asked, trust_remote_code)


def online(hub_url: str, jobs: Iterable[tuple[Kind, str]], *, trust_remote_code: bool = False) -> list[np.ndarray]:
    """Return the answers of models named by their ids, loaded from a Hub as people do today."""
    asked = [(kind, model_id, PAIRS if kind == "reranker" else TEXTS) for kind, model_id in jobs]
    # Without the last one, a thread of transformers would look for a converted pickle all over the Hub.
    hub = {"HF_ENDPOINT": hub_url, "HF_HUB_OFFLINE": "0", "DISABLE_SAFETENSORS_CONVERSION": "1"}
    return _ask(asked, trust_remote_code, hub)


def _ask(
    jobs: Sequence[tuple[Kind, Path | str, Sequence[object]]],
    trust_remote_code: bool,
    environment: Mapping[str, str] | None = None,
) -> list[np.ndarray]:
    import numpy as np

    with tempfile.TemporaryDirectory() as home:
        files = [Path(home) / f"{number}.npy" for number in range(len(jobs))]
        orders = [
            {
                "kind": kind,
                "model": str(model.resolve()) if isinstance(model, Path) else model,
                "inputs": inputs,
                "trust": trust_remote_code,
            }
            for kind, model, inputs in jobs
        ]
        done = preloaded.run(
            # -I: neither the current directory nor PYTHONPATH may lend it a module.
            [sys.executable, "-I", str(CHILD), *map(str, files)],
            input=json.dumps(orders),
            env={**_environment(home), **(environment or {})},
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        if done.returncode:
            raise RuntimeError(f"a model did not load or answer:\n{done.stderr[-4000:]}")
        return [np.load(file) for file in files]


def _environment(home: str) -> dict[str, str]:
    """Return the caller's environment without what could lend the child a token, a cache or the network."""
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "SENTENCE_TRANSFORMERS_", "XDG_", "TORCH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Port 9 of loopback refuses: a library that disregards the offline switch fails at once instead of reaching out.
    away = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **away, "HOME": home, "HF_HOME": f"{home}/hf", "TMPDIR": home}
