"""The demo: a stand-in Hub on loopback, and the commands of a user with their output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support import models, tiny
from tests.support.hub import StandInHub

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / ".demo"
RERANKER = "demo/tiny-reranker"


def main() -> int:
    """Lock, sync, sync again, verify, and list the files."""
    root = FOLDER / "root"
    for old in (root, FOLDER / "repositories"):
        shutil.rmtree(old, ignore_errors=True)
    root.mkdir(parents=True)
    with StandInHub() as hub:
        embedding = fill(hub, FOLDER / "repositories")
        (root / "models.toml").write_text(
            f'[[embedding]]\nid = "{embedding}"\n\n[[reranker]]\nid = "{RERANKER}"\n', encoding="utf-8"
        )
        say(f"A stand-in Hub runs on this machine. It serves {embedding} and {RERANKER}.")
        say("models.toml lists both. Pin their current commits:")
        run(hub, root, "lock")
        say("Fetch, verify and publish:")
        run(hub, root)
        say("Start again; nothing is left to do:")
        run(hub, root)
        say("Compare every byte with the lock, without a request to the Hub:")
        run(hub, root, "verify")
        say(f"The files in {root.relative_to(PROJECT)}:")
        show(root)
    say(
        "For your own models, `pip install .`, run in an empty directory\n"
        "    cache-models add ID\n"
        "    cache-models\n"
        "and load them with\n"
        "    cache_models.load_embedding_model(ID)"
    )
    return 0


def fill(hub: StandInHub, folder: Path) -> str:
    """Publish a real embedding model, or a small one if its package is not installed; return its id."""
    hub.add(RERANKER, tiny.tiny_reranker(folder / "reranker"), licence="mit")
    if models.minilm_source() is None:
        hub.add("demo/tiny-embedding", tiny.tiny_embedding(folder / "embedding"), licence="mit")
        return "demo/tiny-embedding"
    # The duplicate weights of the real repository are sparse files of the same sizes.
    source = models.with_heavy_duplicates(models.minilm(folder / "embedding"), real_size=True)
    hub.add("sentence-transformers/all-MiniLM-L6-v2", source, licence="apache-2.0")
    return "sentence-transformers/all-MiniLM-L6-v2"


def run(hub: StandInHub, root: Path, *words: str) -> None:
    """Run the tool like a user, and count the requests to the Hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CACHE_MODELS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(FOLDER / "hf"), "NO_PROXY": "127.0.0.1"}
    hub.forget()
    print(f"\n    $ cache-models {' '.join(words)}".rstrip(), flush=True)
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, PROJECT / "cache_models.py", *words],
        cwd=root,
        env=environment,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    print("".join(f"    {line}\n" for line in ran.stdout.splitlines()), end="")
    print(f"    ({len(hub.requests)} requests, {seconds * 1000:.0f} ms)", flush=True)
    if ran.returncode:
        sys.exit(ran.returncode)


def show(root: Path) -> None:
    """Print the files below the root with their sizes; the links of `hub` lead to these, and are left out."""
    print()
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            print(f"    {path.stat().st_size:>12,}  {path.relative_to(root)}")


def say(text: str) -> None:
    """Print a sentence between the commands."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
