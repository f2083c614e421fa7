"""The library that breaks the n-th file-system call of a process (preload.c), compiled once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("preload.c")


def compiled() -> Path | None:
    """Return the library; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    name = f"cache-models-preload-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    library = Path(tempfile.gettempdir()) / name
    if not library.exists():
        beside = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(beside), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        beside.rename(library)
    return library


def breaking(library: Path, at: int = 0, do: str = "", **rest: str) -> dict[str, str]:
    """Return the environment in which a process is broken at its n-th call that changes the file system."""
    said = {"FAULT_AT": str(at), "FAULT_DO": do, **{f"FAULT_{name.upper()}": value for name, value in rest.items()}}
    return {"LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1", **said}
