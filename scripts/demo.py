"""The demo: a stand-in Hub on loopback, and five promises kept before the eyes of the reader, on one screen."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import models, tiny
from tests.support.hub import StandInHub
from tests.support.hub.faults import Slow

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / ".demo"
ROOT = FOLDER / "root"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
RATE = 30_000_000
"""Bytes a second on each connection, so that there is a bar to look at and something to kill."""
EMBED = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{model_id}")
print("{model_id}:", model.encode("the cat sleeps")[:3])
"""


def main() -> int:
    """Pin; kill and resume; damage and repair; start again; load by id without network."""
    for old in (ROOT, FOLDER / "repositories", FOLDER / "hf", FOLDER / "hf-download"):
        shutil.rmtree(old, ignore_errors=True)
    ROOT.mkdir(parents=True)
    with StandInHub() as hub:
        model_id, published = fill(hub, FOLDER / "repositories")
        name = model_id.rpartition("/")[2]
        print(f"A local stand-in for the Hugging Face Hub serves the real {name}.", flush=True)
        heading("Pinned: the lock has the commit, and a SHA-256 for each file that is needed.")
        run(hub, "add", model_id)
        shell("grep commit models.lock")
        heading("Resumed: kill -9 in the middle, and the next run fetches the rest.")
        kill_in_the_middle(hub)
        before = received(hub)
        shell(f"ls {published.parent.name}   # nothing of the model is visible yet")
        run(hub)
        print(f"(The Hub sent {before} MB before the kill, and {received(hub)} MB after it.)")
        heading("Verified: one byte on disk is flipped, found, and repaired.")
        flip_a_byte(published / "model.safetensors")
        run(hub, "verify", code=1)
        run(hub)
        heading("Quiet: a start with all in place, beside `hf download` with all in place.")
        ours = figures(hub, run(hub))
        print(f"({ours}; `hf download`: {figures(hub, hf_download_again(hub, model_id))})")
    heading("Offline: the Hub is stopped; a program loads the model by its id, as always.")
    load_by_id(model_id)
    activate = Path(sys.prefix, "bin/activate")
    print(
        "# Look around. `cache-models add ID` takes a model of yours, from the real Hub.\n"
        f"source {shlex.quote(str(relative(activate)))} && cd {relative(ROOT)}\n"
        "cache-models verify",
        flush=True,
    )
    return 0


def heading(text: str) -> None:
    """Begin a part, as a comment between commands."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    print(f"{bold}# {text}{plain}", flush=True)


def fill(hub: StandInHub, folder: Path) -> tuple[str, Path]:
    """Publish a real model, or a small one if its package is not installed; return its id and its directory."""
    model_id = MINILM
    if models.minilm_source() is None:
        model_id = "demo/tiny-embedding"
        hub.add(model_id, tiny.tiny_embedding(folder / "embedding"), licence="mit")
    else:
        # The duplicate weights of the real repository are sparse files of the same sizes.
        source = models.with_heavy_duplicates(models.minilm(folder / "embedding"), real_size=True)
        hub.add(model_id, source, licence="apache-2.0")
    return model_id, ROOT / "cached_embedding_models" / model_id.replace("/", "__")


def tool(*words: str) -> list[str]:
    """The command of the tool."""
    return [sys.executable, str(PROJECT / "cache_models.py"), *words]


def environment(hub: StandInHub) -> dict[str, str]:
    """Ours, with the Hub of the demo and nothing of a user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CACHE_MODELS_"))}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(FOLDER / "hf"), "NO_PROXY": "127.0.0.1"}


def run(hub: StandInHub, *words: str, code: int = 0) -> float:
    """Run the tool as a user does, on this terminal; return the seconds."""
    hub.forget()
    print(f"$ cache-models {' '.join(words)}".rstrip(), flush=True)
    began = time.perf_counter()
    ran = subprocess.run(tool(*words), cwd=ROOT, env=environment(hub), stderr=subprocess.STDOUT, check=False)
    seconds = time.perf_counter() - began
    if ran.returncode != code:
        sys.exit(f"cache-models ended with {ran.returncode}")
    return seconds


def kill_in_the_middle(hub: StandInHub) -> None:
    """Start a fetch, and kill it when half of the model has been sent."""
    hub.forget()
    hub.fail(Slow(RATE), on="GET cdn ", times=1000)
    print("$ cache-models & sleep 1; kill -9 $!", flush=True)
    process = subprocess.Popen(tool(), cwd=ROOT, env=environment(hub), stderr=subprocess.STDOUT)
    while process.poll() is None and sum(request.sent for request in hub.requests) < 45_000_000:
        time.sleep(0.02)
    process.kill()
    process.wait()
    if sys.stdout.isatty():  # what was drawn stays; the cursor is in its first line
        print("\n", flush=True)


def shell(command: str) -> None:
    """Run a line in the root."""
    print(f"$ {command}", flush=True)
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True)


def received(hub: StandInHub) -> str:
    """Return the megabytes that the Hub has sent since the last command began."""
    return f"{sum(request.sent for request in hub.requests) / 1e6:.1f}"


def figures(hub: StandInHub, seconds: float) -> str:
    """Return the requests and the time of the last command."""
    count = len(hub.requests)
    return f"{count} request{'s' * (count != 1)}, {seconds * 1000:.0f} ms"


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of a published file, as a bad disk does."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def hf_download_again(hub: StandInHub, model_id: str) -> float:
    """Run `hf download` twice; return the seconds of the second time, when all files are there."""
    command = [str(Path(sys.executable).with_name("hf")), "download", model_id, "--include", "*.json", "*.txt"]
    command += ["model.safetensors", "--local-dir", str(FOLDER / "hf-download")]
    for _ in range(2):
        hub.forget()
        began = time.perf_counter()
        subprocess.run(command, env=environment(hub), capture_output=True, check=True)
        seconds = time.perf_counter() - began
    return seconds


def load_by_id(model_id: str) -> None:
    """Load the model with sentence-transformers, if some environment here has it; no network is there."""
    python = next(filter(has_torch, (sys.executable, str(PROJECT / ".venv/bin/python"), shutil.which("python3"))), None)
    if python is None:
        print("(Not shown: `scripts/test` installs sentence-transformers; then run this again.)")
        return
    (ROOT / "embed.py").write_text(EMBED.format(model_id=model_id), encoding="utf-8")
    print("$ HF_HUB_CACHE=hub HF_HUB_OFFLINE=1 python embed.py", flush=True)
    offline = {**os.environ, "HF_HUB_CACHE": str(ROOT / "hub"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(FOLDER / "hf")}
    command = [*without_network(), python, "embed.py"]
    ran = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    print(ran.stdout, end="")


def has_torch(python: str | None) -> bool:
    """Whether an interpreter has the libraries that load a model."""
    wanted = "import importlib.util as u; exit(not all(map(u.find_spec, ('torch', 'sentence_transformers'))))"
    found = python and shutil.which(python)
    return bool(found) and subprocess.run([str(found), "-c", wanted], capture_output=True, check=False).returncode == 0


def without_network() -> Sequence[str]:
    """Return the command that runs another one in a network namespace of its own, where the kernel lets us."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    with_it = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if with_it and with_it.returncode == 0 else []


def relative(path: Path) -> Path:
    """Return a path below the project as a user in it writes it."""
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


if __name__ == "__main__":
    sys.exit(main())
