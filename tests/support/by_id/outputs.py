"""Ask an interpreter what its libraries load by id from the Hub view of a root, and what from its directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelcache.core.types import set_digest
from modelcache.store.layout import Places, read_receipt
from tests.conftest import PROJECT
from tests.support import preloaded
from tests.support.by_id.applications import Load
from tests.support.by_id.child import ERROR
from tests.support.models.outputs import PAIRS, TEXTS

_FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "SENTENCE_TRANSFORMERS_", "LLAMA_INDEX_", "XDG_", "TORCH_")


@dataclass(frozen=True)
class Answers:
    """What a process said of its loads: for each, type, shape and digest of the numbers, or a text, or an error."""

    versions: Mapping[str, str]
    by_id: Mapping[str, str]
    by_path: Mapping[str, str]
    tried: Sequence[str]  # hosts that were looked up or connected to
    err: str

    def differences(self, loads: Sequence[Load]) -> dict[str, tuple[str, str]]:
        """Return the loads that give something else by id than by path, or fail, with both answers."""
        both = {load.name: (self.by_id[load.name], self.by_path[load.name]) for load in loads}
        return {name: (one, two) for name, (one, two) in both.items() if one != two or one.startswith(ERROR)}

    def failed(self, loads: Sequence[Load]) -> list[str]:
        """Return the names of the loads that fail by id."""
        return [load.name for load in loads if self.by_id[load.name].startswith(ERROR)]


def application(
    root: Path,
    loads: Sequence[Load],
    python: Path = Path(sys.executable),
    settings: Mapping[str, str] | None = None,
) -> Answers:
    """Load models in a process with an empty home, no network and a read-only root.

    It is told where the view is and that it is offline, unless there are other ``settings``.
    """
    with tempfile.TemporaryDirectory() as home:
        order = {"root": str(root), "loads": [_order(root, load) for load in loads], "TEXTS": TEXTS, "PAIRS": PAIRS}
        start = preloaded.run if str(python) == sys.executable else subprocess.run
        ran = start(
            [str(python), "-m", "tests.support.by_id.child"],
            input=json.dumps(order),
            env={**environment(Path(home)), **(settings or variables(root))},
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr
        return Answers(**json.loads(ran.stdout), err=ran.stderr)


def variables(root: Path) -> dict[str, str]:
    """Return the two variables that an application needs."""
    return {"HF_HUB_CACHE": str(root / "hub"), "HF_HUB_OFFLINE": "1"}


def environment(home: Path) -> dict[str, str]:
    """Return an environment with an empty home, and without what could lend a process a cache, a Hub or a token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, "HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(home), "PYTHONPATH": str(PROJECT)}


def home_of(root: Path, model_id: str) -> Path:
    """Return the directory of a model that an application names."""
    full = model_id if "/" in model_id else f"sentence-transformers/{model_id}"
    places = Places.below(root)
    (home,) = [place for kind in places.collections if (place := places.home(kind, full)).is_dir()]
    return home


def commit_of(root: Path, model_id: str) -> str:
    """Return the commit that the view has of a model."""
    receipt = read_receipt(home_of(root, model_id))
    assert receipt is not None
    return receipt.commit or set_digest(receipt.files)[:40]


def _order(root: Path, load: Load) -> dict[str, str]:
    return {
        "name": load.name,
        "model": load.model,
        "commit": commit_of(root, load.model),
        "path": str(home_of(root, load.equals or load.model)),
        "by_id": load.by_id,
        "by_path": load.by_path or load.by_id,
    }
