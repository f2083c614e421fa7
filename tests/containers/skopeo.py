"""skopeo, which copies images between places."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.containers.engine import unavailable
from tests.support.real_proxies import environment_of


def skopeo(*words: str) -> str:
    """Run one command; return what it prints."""
    found = shutil.which("skopeo") or unavailable("there is no skopeo here")
    program = Path(found)
    ran = subprocess.run(
        [program, "--insecure-policy", *words],
        env=environment_of(program),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"skopeo {words}: {ran.stderr}"
    return ran.stdout


def copy(source: str, target: str) -> None:
    """Copy an image, every platform of it, without changing a byte."""
    skopeo("copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", source, target)


def inspect(image: str, *words: str) -> dict[str, Any]:
    """Return what it knows of an image: the digest of all platforms, and the rest of one."""
    found: dict[str, Any] = json.loads(skopeo(*words, "inspect", "--tls-verify=false", image))
    return found
