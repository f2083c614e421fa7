"""Repositories: commits, branches, tags, and the lies told about them.

Knows what git and the Hub would know; nothing of HTTP.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .content import File, file_of, tree_ids

# What the .gitattributes of every new Hub repository sends to LFS, whatever the size.
_LFS_SUFFIXES = """
7z arrow bin bz2 ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet
pb pickle pkl pt pth rar safetensors tar tflite tgz wasm xz zip zst
"""
_FIRST_COMMIT = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Commit:
    """Freeze the whole tree at one point of a branch."""

    sha: str
    title: str
    date: str
    files: Mapping[str, File]
    directories: Mapping[str, str]  # path to git tree id, without the root
    parent: Commit | None = None

    def history(self) -> Iterator[Commit]:
        """Walk from this commit to the first one."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass(frozen=True, slots=True)
class Lie:
    """Hold what the listing says instead of the truth."""

    size: int | None = None
    sha256: str | None = None
    oid: str | None = None


@dataclass(slots=True)
class Repository:
    """Keep all commits of one model and where its branches and tags point."""

    id: str
    private: bool = False
    gated: bool = False
    licence: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    lies: dict[str, Lie] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | Path], *, branch: str, lfs_threshold: int) -> Commit:
        """Add a commit with exactly `files` and move `branch` to it; a new branch starts from main."""
        patterns = _lfs_patterns(files)
        described = {
            path: file_of(source, lfs=_size(source) >= lfs_threshold or _matches(path, patterns))
            for path, source in sorted(files.items())
        }
        trees = tree_ids({path: file.oid for path, file in described.items()})
        parent = self.branches.get(branch) or self.branches.get("main")
        text = f"{self.id}\n{trees.pop('')}\n{parent.sha if parent else ''}"
        commit = Commit(
            sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(),
            title="initial commit" if parent is None else "Update files",
            date=(_FIRST_COMMIT + timedelta(days=len(self.commits))).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            files=described,
            directories=trees,
            parent=parent,
        )
        self.commits[commit.sha] = self.branches[branch] = commit
        return commit

    def drop(self, sha: str) -> None:
        """Take one commit out of every history, as a forced push does; no branch or tag may point at it."""
        gone = self.commits.pop(sha)
        kept: dict[str, Commit] = {}
        for commit in self.commits.values():  # parents come first
            parent = gone.parent if commit.parent is gone else commit.parent
            kept[commit.sha] = replace(commit, parent=kept[parent.sha] if parent else None)
        self.commits = kept
        self.branches = {name: kept[commit.sha] for name, commit in self.branches.items()}
        self.tags = {name: kept[commit.sha] for name, commit in self.tags.items()}

    def resolve(self, revision: str) -> Commit | None:
        """Find a branch, tag, ref or commit; like the Hub, take a commit's first seven digits for it."""
        if named := self.branches.get(revision) or self.tags.get(revision) or self.commits.get(revision):
            return named
        for prefix, names in (("refs/heads/", self.branches), ("refs/tags/", self.tags)):
            if revision.startswith(prefix):
                return names.get(revision.removeprefix(prefix))
        if re.fullmatch(r"[0-9a-f]{7,39}", revision):
            return next((commit for sha, commit in self.commits.items() if sha.startswith(revision)), None)
        return None

    def listed(self, commit: Commit) -> dict[str, File]:
        """Return the files as the listing tells them, lies included."""
        return {path: self._told(path, file) for path, file in commit.files.items()}

    def _told(self, path: str, file: File) -> File:
        lie = self.lies.get(path)
        if lie is None:
            return file
        return replace(
            file,
            size=file.size if lie.size is None else lie.size,
            sha256=file.sha256 if lie.sha256 is None else lie.sha256,
            oid=file.oid if lie.oid is None else lie.oid,
        )


def _size(source: bytes | Path) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _lfs_patterns(files: Mapping[str, bytes | Path]) -> list[str]:
    source = files.get(".gitattributes")
    if source is None:
        return [f"*.{suffix}" for suffix in _LFS_SUFFIXES.split()]
    text = (source if isinstance(source, bytes) else source.read_bytes()).decode()
    return [line.split()[0] for line in text.splitlines() if "filter=lfs" in line]


def _matches(path: str, patterns: list[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)
