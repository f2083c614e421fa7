"""Benchmarks: whole processes, in turn, medians and ratios."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import tiny
from tests.standin import StandInHub

TOOL = Path(__file__).resolve().parent.parent / "cache_models.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    quiet = commands.add_parser("quiet", help="the second start, everything in place, against `python -c pass`")
    quiet.add_argument("--runs", type=int, default=31)
    big = commands.add_parser("memory", help="peak memory of a sync of one large model")
    big.add_argument("--megabytes", type=int, default=1100)
    pickle = commands.add_parser("convert", help=".bin to safetensors, against torch's own way and `cp`")
    pickle.add_argument("--megabytes", type=int, default=1100)
    pickle.add_argument("--runs", type=int, default=5)
    commands.add_parser("images", help="compressed sizes of the init and the serve image; needs a Docker engine")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cache-models-bench-") as folder, StandInHub() as hub:
        if options.command == "convert":
            bench_convert(Path(folder), options.megabytes, options.runs)
        elif options.command == "images":
            bench_images(Path(folder))
        elif options.command == "quiet":
            bench_quiet(hub, Path(folder), options.runs)
        else:
            bench_memory(hub, Path(folder), options.megabytes)
    return 0


def bench_quiet(hub: StandInHub, folder: Path, runs: int) -> None:
    """Start the tool over five models that are in place, in turn with a bare interpreter."""
    ids = [f"bench/model-{number}" for number in range(5)]
    source = tiny.tiny_embedding(folder / "source")
    for model_id in ids:
        hub.add(model_id, source)
    root = prepare(folder, ids)
    sync(hub, root)
    hub.forget()
    ours, bare = [], []
    for _ in range(runs):
        bare.append(seconds_of([sys.executable, "-c", "pass"], root))
        ours.append(seconds_of([sys.executable, str(TOOL)], root))
    files = sum(path.is_file() for path in root.glob("cached_*/**/*"))
    requests = len(hub.requests)
    print(f"quiet start, {len(ids)} models, {files} files, {runs} runs in turn, medians of whole processes")
    print(f"  python -c pass          {statistics.median(bare) * 1000:7.1f} ms")
    print(f"  python cache_models.py  {statistics.median(ours) * 1000:7.1f} ms   {requests} requests")
    print(f"  ratio                   {statistics.median(a / b for a, b in zip(ours, bare, strict=True)):7.2f}")


def bench_memory(hub: StandInHub, folder: Path, megabytes: int) -> None:
    """Fetch one large model and read the peak memory of the process from the kernel."""
    hub.add("bench/big", tiny.big_embedding(folder / "source", megabytes))
    root = prepare(folder, ["bench/big"])
    began = time.perf_counter()
    peak = peak_memory_of_sync(root, environment(hub))
    print(f"sync of one model of {megabytes} MB: {peak:.0f} MiB peak memory, {time.perf_counter() - began:.1f} s")


def bench_convert(folder: Path, megabytes: int, runs: int) -> None:
    """Convert one large pickle, in turn with what torch does and with a plain copy; peak memory is a process's own."""
    source, target = tiny.write_pickle(folder / "pytorch_model.bin", megabytes * 1_000_000), folder / "out"
    ways = {
        "python -c pass": "pass",
        "cp": f"import subprocess; subprocess.run(['cp', {str(source)!r}, {str(target)!r}], check=True)",
        "cache-models": (
            f"from pathlib import Path; from modelcache.unpickle import convert; "
            f"convert(Path({str(source)!r}), Path({str(target)!r}))"
        ),
        "torch": (
            "import torch; from safetensors.torch import save_file; "
            f"tensors = torch.load({str(source)!r}, weights_only=True, mmap=True); "
            "tensors = {name: tensor.clone() for name, tensor in tensors.items()}; "
            f"save_file(tensors, {str(target)!r}, metadata={{'format': 'pt'}})"
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, code in ways.items():
            target.unlink(missing_ok=True)
            began = time.perf_counter()
            peaks[name].append(peak_memory_of(code))
            seconds[name].append(time.perf_counter() - began)
    ours, bare = statistics.median(seconds["cache-models"]), statistics.median(peaks["python -c pass"])
    print(f"{megabytes} MB of .bin to safetensors, {runs} runs in turn, medians of whole processes")
    for name in ways:
        median, peak = statistics.median(seconds[name]), statistics.median(peaks[name])
        over = "" if name in ("cp", "python -c pass") else f"   {peak - bare:7.0f} MiB over the interpreter's own"
        print(f"  {name:<16} {median:7.2f} s   {median / ours:6.2f} x ours{over}")


def bench_images(folder: Path) -> None:
    """Build the images that hold no models, and add up their layers as a registry stores them."""
    print("images, compressed, in MB: the base, what comes on top, the whole")
    for target in ("init", "serve"):
        layers = layers_of(target, folder / f"{target}.tar")
        print(f"  {target:<6} {layers[0]:7.1f} {sum(layers[1:]):7.1f} {sum(layers):7.1f}")


def layers_of(target: str, archive: Path) -> list[float]:
    """Return the compressed size of each layer of an image, in MB, from the base up."""
    words = [
        "docker",
        "build",
        "--quiet",
        "--target",
        target,
        "--provenance=false",
        "--output",
        f"type=oci,dest={archive}",
    ]
    if wheels := os.environ.get("WHEELS_DIR"):
        words += ["--build-context", f"wheels={wheels}", "--build-arg", "TORCH_INDEX_URL="]
    subprocess.run([*words, str(TOOL.parent)], check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(archive) as opened:

        def read(path: str) -> dict[str, Any]:
            content = opened.extractfile(path)
            found: dict[str, Any] = json.load(content) if content else {}
            return found

        digest = read("index.json")["manifests"][0]["digest"]
        manifest = read(f"blobs/{digest.replace(':', '/')}")
    return [layer["size"] / 1e6 for layer in manifest["layers"]]


def peak_memory_of(code: str) -> float:
    """Run code in a process of its own; return its peak memory in MiB, as the process itself reads it."""
    told = f"{code}\nimport re; print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parent)}
    ran = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    return int(ran.stdout) / 1024


def peak_memory_of_sync(root: Path, env: Mapping[str, str]) -> float:
    """Return the peak memory, in MiB, of a process that does nothing but a sync.

    It is read by the process itself: what `wait4` tells of a child includes its parent, up to the exec.
    """
    code = (
        "import re, sys, cache_models\n"
        "ended = cache_models.main(['--quiet'])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "sys.exit(ended)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**env, "PYTHONPATH": str(TOOL.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout) / 1024


def prepare(folder: Path, ids: Sequence[str]) -> Path:
    """Make a root that wants these models."""
    root = folder / "root"
    root.mkdir()
    (root / "models.toml").write_text("".join(f'[[embedding]]\nid = "{model_id}"\n' for model_id in ids))
    return root


def sync(hub: StandInHub, root: Path) -> None:
    """Fill a root."""
    subprocess.run([sys.executable, TOOL, "--quiet"], cwd=root, env=environment(hub), check=True)


def environment(hub: StandInHub) -> dict[str, str]:
    """Point the tool to the stand-in Hub."""
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": "/nonexistent", "NO_PROXY": "127.0.0.1"}


def seconds_of(command: Sequence[str], folder: Path) -> float:
    """Run a command to its end and time it as a whole."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
