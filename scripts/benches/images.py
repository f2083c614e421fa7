"""The images: what they weigh, and what a build and a push move when one model of five has changed."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from scripts.benches.bed import Bed
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import PROJECT


def sizes(bed: Bed) -> Scenario:
    """Build the images that hold no models, and add up their layers as a registry stores them."""
    name = "images without models, compressed"
    if reason := no_engine():
        return Scenario(name, skipped=reason)
    layers = {target: layers_of(target, bed.folder / f"{target}.tar") for target in ("init", "serve")}
    return Scenario(
        name,
        [(target, f"{found[0]:7.1f} MB the base, {sum(found[1:]):7.1f} MB on top") for target, found in layers.items()],
        [
            Figure("init", sum(layers["init"]), 75, "<=", "MB"),
            Figure("serve", sum(layers["serve"]), 380, "<=", "MB"),
        ],
    )


def no_engine() -> str:
    """Say why there is no Docker engine; empty when there is one."""
    try:
        subprocess.run(["docker", "info"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "no Docker engine answers"
    return ""


def layers_of(target: str, archive: Path) -> list[float]:
    """Return the compressed size of each layer of an image, in MB, from the base up."""
    words = ["docker", "build", "--quiet", "--target", target, "--provenance=false"]
    words += ["--output", f"type=oci,dest={archive}"]
    if wheels := os.environ.get("WHEELS_DIR"):
        words += ["--build-context", f"wheels={wheels}", "--build-arg", "TORCH_INDEX_URL="]
    subprocess.run([*words, str(PROJECT)], check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(archive) as opened:

        def read(path: str) -> dict[str, Any]:
            content = opened.extractfile(path)
            found: dict[str, Any] = json.load(content) if content else {}
            return found

        digest = read("index.json")["manifests"][0]["digest"]
        manifest = read(f"blobs/{digest.replace(':', '/')}")
    return [layer["size"] / 1e6 for layer in manifest["layers"]]
