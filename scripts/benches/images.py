"""The images: their sizes, and the bytes that a build and a push move when one model of five has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import urllib3

from scripts.benches.bed import Bed, Model
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import PROJECT, TOOL, Peer, Ran, Runs, run
from tests.support.hub import StandInHub

_CONTEXT = "Dockerfile cache_models.py modelcache scripts requirements.lock requirements-serve.lock"


def sizes(bed: Bed) -> Scenario:
    """Build the images without models, and add up the compressed sizes of their layers."""
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


def moved(bed: Bed) -> Scenario:
    """Change one model of five; build the image of the models again, and push it."""
    megabytes = 20 if bed.quick else 200
    title = f"image of five models of {megabytes} MB, one of them changed"
    registry = os.environ.get("TEST_REGISTRY", "")
    if reason := no_engine() or ("" if registry else "TEST_REGISTRY names no registry to push to"):
        return Scenario(title, skipped=reason)
    with StandInHub(host=_bridge()) as hub:
        pushes = _Pushes(Bed(bed.folder, hub, bed.quick), f"{registry}/cache-models-bench", megabytes)
        for peer in pushes.peers:
            run(peer.command, peer.folder, peer.env)
        ran: dict[str, list[Ran]] = {peer.name: [] for peer in pushes.peers}
        sent: dict[str, list[int]] = {peer.name: [] for peer in pushes.peers}
        for number in range(min(3, bed.rounds)):
            for peer in pushes.peers if number % 2 else reversed(pushes.peers):
                size = pushes.change()  # before each run, because a second one would find it done
                before = pushes.layers(peer.name)
                ran[peer.name].append(run(peer.command, peer.folder, peer.env))
                after = pushes.layers(peer.name)
                sent[peer.name].append(sum(after[digest] for digest in after.keys() - before.keys()))
        pushes.clear()
    ours, plain = (Runs(name, tuple(runs)) for name, runs in ran.items())
    return Scenario(
        title,
        [(one.name, f"{one.seconds:8.2f} s  {max(sent[one.name]) / 1e6:8.1f} MB pushed") for one in (ours, plain)],
        [
            Figure("pushed / the changed model", max(sent[ours.name]) / size, 1.01, "<="),
            Figure("plain COPY of all models / ours", plain.over(ours), 1, ">="),
        ],
    )


class _Pushes:
    """Two ways to an image of the models in a registry: `export`, and the Dockerfile's own COPY of all models."""

    def __init__(self, bed: Bed, repository: str, megabytes: int) -> None:
        kinds = ("embedding", "embedding", "embedding", "reranker", "reranker")
        self._bed = bed
        self._repository = repository
        self._models = [bed.large(f"model-{number}", kind, megabytes) for number, kind in enumerate(kinds)]
        self._context = bed.root("context", self._models)
        for name in _CONTEXT.split():
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            copy(PROJECT / name, self._context / name)
        for model in self._models:
            self._renew(model)
        self._lock()
        plain = f"docker build --provenance=false --target models --build-arg HF_ENDPOINT={bed.hub.url}"
        tool = f"{sys.executable} {TOOL}"
        image = f"{repository}/export-models"
        build = "docker build --provenance=false --build-context models=oci-layout://models.oci"
        exported = f"echo FROM models | {build} --tag {image} - && docker push {image}"
        commands = {
            "export": f"{tool} sync --locked && {tool} export models.oci/ && {exported}",
            "plain": f"{plain} --tag {repository}/plain-models . && docker push {repository}/plain-models",
        }
        env = {"HF_ENDPOINT": bed.hub.url}
        self.peers = [Peer(name, ["sh", "-ec", line], self._context, env) for name, line in commands.items()]

    def change(self) -> int:
        """Give one model new weights and pin it again; return its size."""
        changed = self._models[1]
        self._renew(changed)
        self._lock()
        return changed.size

    def _lock(self) -> None:
        run([sys.executable, TOOL, "lock", "--upgrade"], self._context, self._bed.env("lock"))

    def layers(self, name: str) -> dict[str, int]:
        """Return the layers of a pushed image by digest, with their compressed size in bytes."""
        host, _, path = self._repository.partition("/")
        kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        url = f"http://{host}/v2/{path}/{name}-models/manifests/latest"
        manifest = urllib3.request("GET", url, headers={"Accept": kinds}, timeout=60).json()
        return {layer["digest"]: layer["size"] for layer in manifest["layers"]}

    def clear(self) -> None:
        """Remove the images; the engine frees its build cache when it needs space."""
        for peer in self.peers:
            subprocess.run(["docker", "rmi", f"{self._repository}/{peer.name}-models"], check=True, capture_output=True)

    def _renew(self, model: Model) -> None:
        with (model.source / "model.safetensors").open("r+b") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            left = file.seek(0, os.SEEK_END) - file.seek(start)
            while left:  # random bytes, because gzip compresses trained weights hardly better
                left -= file.write(os.urandom(min(left, 1 << 20)))
        self._bed.hub.add(model.id, model.source)


def _bridge() -> str:
    """Return the address at which builds reach this machine."""
    found = subprocess.run(["docker", "network", "inspect", "bridge"], check=True, capture_output=True).stdout
    return str(json.loads(found)[0]["IPAM"]["Config"][0]["Gateway"])
