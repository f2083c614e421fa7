"""A later commit changes one small file of a large model: no other file may be transferred or written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benches.bed import Bed, Model
from scripts.benches.goals import Figure, Scenario
from scripts.benches.rounds import TOOL, FailedError, run

_ALLOWED = 64 << 10


def later(bed: Bed) -> Scenario:
    """Update on the file system of the bench."""
    return _update(bed, bed.folder / "root", "here")


def later_on(kind: str, bed: Bed) -> Scenario:
    """Update on a file system of the given type, mounted from a file."""
    try:
        with _mounted(kind, bed.folder) as volume:
            return _update(bed, volume / "root", f"on {kind}")
    except (OSError, subprocess.CalledProcessError) as error:
        return Scenario(f"a later commit, one small file changed, on {kind}", skipped=str(error).partition("\n")[0])


def _update(bed: Bed, root: Path, where: str) -> Scenario:
    megabytes = 100 if bed.quick else 1112
    model = bed.large("changing", "embedding", megabytes)
    root.mkdir()
    (root / "models.toml").write_text(f'[[embedding]]\nid = "{model.id}"\n')
    env, small = bed.env("later"), model.source / "config_sentence_transformers.json"
    runs = []
    for number in range(bed.rounds):
        if not number:
            run([sys.executable, TOOL], root, env)
        small.write_text(small.read_text() + "\n")
        commit = bed.hub.add(model.id, model.source)
        bed.hub.forget()
        free = _free(root)
        ran = run(["sh", "-ec", f"{sys.executable} {TOOL} lock --upgrade\n{sys.executable} {TOOL} sync"], root, env)
        received = sum(request.sent for request in bed.hub.requests)
        if not _holds(root, model, small, commit):
            raise FailedError("the new commit is not there")
        runs.append((ran.seconds, ran.written, received, free - _free(root)))
    seconds, written, received, _ = (max(column) for column in zip(*runs, strict=True))
    return Scenario(
        f"a later commit, one small file of a {megabytes / 1000:.1f} GB model changed, {where}",
        [("lock --upgrade, then sync", f"{seconds:6.2f} s, {received:,} bytes received, {written:,} written")],
        [
            Figure("received beyond that file", (received - small.stat().st_size) / 1024, _ALLOWED / 1024, "<=", "KiB"),
            Figure("written", written / 1e6, 1, "<=", "MB"),
        ],
    )


def _holds(root: Path, model: Model, small: Path, commit: str) -> bool:
    home = root / "cached_embedding_models" / model.id.replace("/", "__")
    return commit in (root / "models.lock").read_text() and (home / small.name).read_bytes() == small.read_bytes()


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bfree * found.f_bsize


@contextmanager
def _mounted(kind: str, folder: Path) -> Iterator[Path]:
    disk, volume = folder / "disk", folder / "volume"
    with disk.open("wb") as file:
        file.truncate(6 << 30)
    volume.mkdir()
    subprocess.run([f"mkfs.{kind}", "-q", disk], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", disk, volume], check=True, capture_output=True)
    try:
        yield volume
    finally:
        subprocess.run(["umount", volume], check=True)
        disk.unlink()
