"""Images of `cache-models export`: three models of three kinds, the tool as a process, and what a layout holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT, Ran, files_below
from tests.containers.engine import Docker, make_context
from tests.support import models, tiny
from tests.support.hub import StandInHub

ONE, TWO, THREE, FOUR = "export/one", "export/two", "export/three", "export/four.and-more_4"
TABLES = {
    ONE: f'[[embedding]]\nid = "{ONE}"\ninclude = ["onnx/"]\n',
    TWO: f'[[multi_vector]]\nid = "{TWO}"\n',
    THREE: f'[[other]]\nid = "{THREE}"\nexclude = ["notes/*"]\n',
    FOUR: f'[[other]]\nid = "{FOUR}"\n',
}
MODELS = (ONE, TWO, THREE)
LOADED = "cache-models-models:latest"
"""The name that an engine gives an exported image."""
IMAGE = "cache-models-test-exported"
GRAPH = {"onnx/model.onnx": b"\x08\x08graph", "onnx/model.onnx_data": bytes(range(256))}
_MEGABYTES = 18  # so that the weights of ONE have a layer of their own


def offer(hub: StandInHub, folder: Path) -> None:
    """Put the three models on the Hub."""
    readme = {model: f"---\nlicense: mit\n---\nNumber {number}\n".encode() for number, model in enumerate(MODELS)}
    one = files_below(tiny.big_embedding(folder / "one", _MEGABYTES))
    hub.add(ONE, {**one, **GRAPH, "README.md": readme[ONE]})
    hub.add(TWO, {**files_below(models.saved_multi_vector(folder / "two")), "README.md": readme[TWO]})
    hub.add(THREE, {**GRAPH, "notes/train.log": b"begin\n", "README.md": readme[THREE]})


@dataclass(frozen=True)
class Layout:
    """An OCI layout with one image."""

    folder: Path

    def blobs(self) -> list[Path]:
        """Return every blob."""
        return list((self.folder / "blobs" / "sha256").iterdir())

    def blob(self, digest: str) -> dict[str, Any]:
        """Return a document."""
        found: dict[str, Any] = json.loads((self.folder / "blobs" / digest.replace(":", "/")).read_bytes())
        return found

    @property
    def digest(self) -> str:
        """The digest of its image, which is an index of platforms."""
        (image,) = json.loads((self.folder / "index.json").read_bytes())["manifests"]
        return str(image["digest"])

    @property
    def layers(self) -> list[str]:
        """The digests of its layers, the lowest first, equal for all platforms."""
        found = [[layer["digest"] for layer in self.blob(each["digest"])["layers"]] for each in self._manifests()]
        assert len(found) == 2
        assert found[0] == found[1]
        return found[0]

    @property
    def layers_of_files(self) -> dict[str, str]:
        """The layers of one file: digest and path."""
        layers = self.blob(self._manifests()[0]["digest"])["layers"]
        paths = {layer["digest"]: layer["annotations"].get("io.github.cache-models.path") for layer in layers}
        return {digest: path for digest, path in paths.items() if path}

    def _manifests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.blob(self.digest)["manifests"]
        return found


@dataclass(frozen=True)
class Clone:
    """A clone of the project with a manifest; the models are in the clone, too."""

    docker: Docker
    folder: Path

    @classmethod
    def make(cls, docker: Docker, folder: Path, *ids: str) -> Clone:
        """Copy the project, and want these models."""
        return cls(docker, make_context(folder, [TABLES[model] for model in ids]))

    @property
    def layout(self) -> Layout:
        """Where `export` writes."""
        return Layout(self.folder / "models.oci")

    def __call__(self, *words: str, check: bool = True, env: Mapping[str, str] | None = None) -> Ran:
        """Run the tool as a process of its own."""
        ran = subprocess.run(
            [sys.executable, str(PROJECT / "cache_models.py"), *words],
            cwd=self.folder,
            env={**os.environ, "HF_ENDPOINT": self.docker.hub, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not (check and ran.returncode), ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def export(self) -> Ran:
        """Make the root hold what the manifest wants, and write the layout."""
        self("sync")
        return self("export", "models.oci/")

    def build(self, target: str, *words: str, layout: Layout | None = None, check: bool = True) -> str:
        """Build a target with the models of a layout, and a label; return the image, or why there is none."""
        image = f"{IMAGE}:{target}"
        context = f"models=oci-layout://{(layout or self.layout).folder}"
        label = f"LOCK_DIGEST={sha256((self.folder / 'models.lock').read_bytes()).hexdigest()}"
        words = ("--target", target, "--build-context", context, "--build-arg", label, "--tag", image, *words)
        ran = self.docker.build(self.folder, *words, check=check)
        return ran.stderr if ran.returncode else image
