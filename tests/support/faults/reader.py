"""A reader that never rests: it opens each model, hashes all of it, and compares that with the receipt inside.

python -m tests.support.faults.reader ROOT        looks until its stdin is closed, then prints what it saw as JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

PROJECT = Path(__file__).parents[3]
T = TypeVar("T")


@dataclass
class ReaderReport:
    """What a reader saw: how often a model was whole, how often it had gone again, and what was wrong."""

    whole: int = 0
    versions: dict[str, list[str]] = field(default_factory=dict)
    gone: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def reading(root: Path) -> Iterator[ReaderReport]:
    """Let a reader look at a root all the while; what it saw is known at the end."""
    command = [sys.executable, "-m", "tests.support.faults.reader", str(root)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True)
    with running(process, ReaderReport()) as report:
        yield report


@contextmanager
def running(process: subprocess.Popen[str], report: T) -> Iterator[T]:
    """Let a reader run until the block ends; it says when it begins, and at its end fills the report."""
    with process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield report
        finally:
            said, _ = process.communicate()
            vars(report).update(json.loads(said))


def look(root: Path, report: ReaderReport) -> None:
    """Look at every model once."""
    for home in root.glob("cached_*_models/[!.]*"):
        name = home.name
        try:
            folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            report.gone += name in report.versions
            continue
        try:
            commit, wrong = compare(folder)
            # A version that was replaced while it was read may lose files: it is no model any more.
            with suppress(FileNotFoundError):
                if wrong and os.path.samestat(os.stat(home), os.fstat(folder)):
                    report.wrong.append(f"{name}: {wrong}")
            if not wrong:
                report.whole += 1
                seen = report.versions.setdefault(name, [])
                if commit not in seen[-1:]:
                    seen.append(commit)
        finally:
            os.close(folder)
    for name in report.versions:
        report.gone += not any(
            (root / kind / name).exists() for kind in ("cached_embedding_models", "cached_reranker_models")
        )


def compare(folder: int) -> tuple[str, str]:
    """Return which commit an open directory says that it is, and what is wrong with it."""
    try:
        receipt = json.loads(content(".cache-models.json", folder))
        expected = {file["path"]: file["sha256"] for file in receipt["files"]}
        found = {path for path in files(folder) if path != ".cache-models.json"}
        if found != expected.keys():
            return "", f"it holds {sorted(found ^ expected.keys())} too much or too little"
        for path, sha256 in expected.items():
            if hashlib.sha256(content(path, folder)).hexdigest() != sha256:
                return "", f"{path} has other bytes than the receipt says"
        return receipt["commit"], ""
    except (OSError, ValueError, KeyError) as error:
        return "", repr(error)


def content(path: str, folder: int) -> bytes:
    """Read a file of a directory that is open, whatever that is called by now."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
        return file.read()


def files(folder: int) -> Iterator[str]:
    """Yield the files of a directory that is open."""
    for top, _, names, _ in os.fwalk(".", dir_fd=folder):
        yield from (os.path.join(top, name).removeprefix("./") for name in names)


if __name__ == "__main__":
    found = ReaderReport()
    print(flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        look(Path(sys.argv[1]), found)
    look(Path(sys.argv[1]), found)
    print(json.dumps(vars(found)))
