"""Real engines for the tests of images: how they are asked, and what is said where there are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conftest import PROJECT

# What a build is made of, copied to a directory of its own, so that each test has its own models.toml.
_FILES = """
    Dockerfile .dockerignore docker-compose.yml docker-compose.image.yml
    cache_models.py modelcache scripts requirements.lock requirements-serve.lock
"""
_CONTEXT = tuple(_FILES.split())

Ran = subprocess.CompletedProcess[str]


def unavailable(reason: str) -> NoReturn:
    """Skip with the reason; in CI, where everything has to be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Docker:
    """The Docker engine, buildx and compose."""

    hub: str
    """The stand-in Hub's address, as containers reach it."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, *words: str, check: bool = True, cwd: Path = PROJECT, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one docker command; a failure that is not expected shows what was said."""
        ran = subprocess.run(
            ["docker", *words],
            cwd=cwd,
            env={**os.environ, **self.environment, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and ran.returncode:
            raise AssertionError(
                f"docker {' '.join(words)} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-6000:]}"
            )
        return ran

    def build(self, context: Path, *words: str, check: bool = True) -> Ran:
        """Build with the stand-in Hub, and with torch from the directory of wheels where there is one."""
        return self("build", "--progress=plain", *self.arguments(), *words, str(context), check=check)

    def arguments(self) -> list[str]:
        """Return the build's arguments that this machine takes, where a user's takes none."""
        words = ["--build-arg", f"HF_ENDPOINT={self.hub}"]
        if wheels := os.environ.get("WHEELS_DIR"):
            words += ["--build-context", f"wheels={wheels}", "--build-arg", "TORCH_INDEX_URL="]
        return words

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the engine knows of an image."""
        found: list[dict[str, Any]] = json.loads(self("image", "inspect", image).stdout)
        return found[0]

    def layers(self, image: str) -> list[str]:
        """Return the diff ids of an image's layers, from the base up."""
        return list(self.inspect(image)["RootFS"]["Layers"])


def make_context(folder: Path, tables: Sequence[str]) -> Path:
    """Copy what an image is built from, with a manifest of these tables."""
    folder.mkdir()
    for name in _CONTEXT:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (PROJECT / name).exists():
            shutil.copy(PROJECT / name, folder / name)
    (folder / "models.toml").write_text("\n".join(tables))
    return folder
