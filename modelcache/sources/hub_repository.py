"""A repository as a model is chosen from it: one commit on the Hub, or a directory.

The Hub's listing has the SHA-256 of LFS files only; a small file is fetched, checked against the git blob id it is
listed with, hashed, and kept for `sync`; unless the root has it already.
"""

from __future__ import annotations

import hashlib
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from modelcache.core.digests import git_blob_id
from modelcache.core.errors import HubError, IntegrityError, PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.text import escape
from modelcache.core.types import LARGEST_TEXT, ListedFile, Original

# Small files are read whole; a configuration or a tokenizer of this size is none.
_READ_LIMIT = 32 << 20
_one_large = threading.Lock()  # eight files of that size would not fit into a small container


class HubApi(Protocol):
    """What is asked of the Hub."""

    def commit_of(self, repo: str, revision: str) -> tuple[str, str]:
        """Return commit and licence."""

    def listing(self, repo: str, commit: str) -> tuple[ListedFile, ...]:
        """Return every file of a commit."""

    def read(self, repo: str, commit: str, file: ListedFile, stopped: threading.Event) -> bytes:
        """Return a small file whole; `stopped` ends the pauses between its tries."""

    def read_part(
        self, repo: str, commit: str, file: ListedFile, start: int, end: int, stopped: threading.Event
    ) -> bytes:
        """Return the bytes of a file from `start` up to, not including, `end`."""


class HubRepository:
    """One commit of a repository on the Hub.

    `ours` says where `sync` will find a small file, should it be there; `near` where else on this machine it may be.
    """

    def __init__(
        self,
        name: str,
        revision: str,
        hub: HubApi,
        ours: Callable[[ListedFile], Iterable[Path]],
        near: Callable[[ListedFile], Iterable[Path]],
        keep: Callable[[str, bytes], None],
    ) -> None:
        self.commit, self.licence = hub.commit_of(name, revision)
        listing = hub.listing(name, self.commit)
        self.files: Mapping[str, ListedFile] = {file.path: file for file in listing}
        if len(self.files) < len(listing):
            raise HubError(f"{name} lists a file twice", hint="Check HF_ENDPOINT, and the mirror or proxy behind it.")
        self._name = name
        self._hub = hub
        self._ours = ours
        self._near = near
        self._keep = keep
        self._contents: dict[str, bytes] = {}
        self._to_keep: set[str] = set()
        self._pins: dict[str, Original] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Wait for no server any more: what is being read is of no use."""
        self._stopped.set()

    def read(self, file: ListedFile) -> bytes:
        """Return a small file, asked for once."""
        if file.path not in self._contents:
            _refuse_unreadable(self._name, file)
            content = _read_near(file, self._ours(file))
            if content is None:
                self._to_keep.add(file.path)
                content = _read_near(file, self._near(file))
            if content is None:
                content = _read_checked(self._name, self.commit, file, self._hub, self._stopped)
            self._contents[file.path] = content
        return self._contents[file.path]

    def part(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return some bytes of a file; of a large one they are all that is fetched, a small one is read whole."""
        if file.sha256 is None or file.path in self._contents or (start, end) == (0, file.size):
            return self.read(file)[start:end]
        read = partial(self._hub.read_part, self._name, self.commit, file, start, end, self._stopped)
        try:
            return read()
        except IntegrityError:  # once more, as with a whole file, before it counts as the Hub's own
            return read()

    def pin(self, file: ListedFile) -> Original:
        """Say which bytes a file has: by the listing, or by reading it; it is kept then, and not for reading again."""
        if file.path not in self._pins:
            with _one_large if file.size > LARGEST_TEXT else nullcontext():
                self._pins[file.path] = self._pin(file)
        return self._pins[file.path]

    def _pin(self, file: ListedFile) -> Original:
        if file.sha256 is not None and file.path not in self._contents:
            return Original(file.path, file.size, file.sha256)
        content = self.read(file)
        original = Original(file.path, file.size, hashlib.sha256(content).hexdigest())
        if file.path in self._to_keep:
            self._keep(original.sha256, content)
        self._contents.pop(file.path, None)
        return original


def _refuse_unreadable(repo: str, file: ListedFile) -> None:
    """Check that a file may be looked for on this disk: it is a file, and its name stays inside a directory.

    Raises:
        PolicyError: saying what it is.

    """
    problem = problem_with_path(file.path) or ("" if file.plain else f"is a {file.entry}; only plain files are shipped")
    if problem:
        hint = "Use a revision without it, or ask the owner to put a file with a plain name in its place."
        raise PolicyError(f"{repo}: {escape(file.path)} {problem}", hint=hint)


def _entry(path: Path, mode: int) -> str:
    """Say what an entry of a directory is that is neither a file nor a directory."""
    if not stat.S_ISLNK(mode):
        return "device, pipe or socket"
    return "link to a directory" if path.is_dir() else "symlink"


def _read_near(file: ListedFile, places: Iterable[Path]) -> bytes | None:
    """Return a file that this machine has, if it is the listed one to the last byte."""
    for path in places:
        with suppress(OSError):
            found = path.stat()
            if (
                stat.S_ISREG(found.st_mode)
                and found.st_size == file.size
                and _digest(file, content := path.read_bytes()) == (file.sha256 or file.blob_id)
            ):
                return content
    return None


def _digest(file: ListedFile, content: bytes) -> str:
    """Hash as the listing does: SHA-256 for LFS files, git's blob id for the others."""
    return git_blob_id(content) if file.sha256 is None else hashlib.sha256(content).hexdigest()


def _read_checked(repo: str, commit: str, file: ListedFile, hub: HubApi, stopped: threading.Event) -> bytes:
    """Fetch a small file; wrong bytes are fetched once more before they count as the Hub's own."""
    if file.size > _READ_LIMIT:
        raise PolicyError(
            f"{repo}: {file.path} has {file.size} bytes, which is no configuration file",
            hint="Tell the owner that the repository is broken, or use another revision.",
        )
    expected, found = file.sha256 or file.blob_id, ""
    for _ in range(2):
        try:
            content = hub.read(repo, commit, file, stopped)
        except IntegrityError as error:
            if found:
                raise
            found = error.message
            continue
        found = _digest(file, content)
        if found == expected:
            return content
    raise IntegrityError(
        f"{repo}: {file.path} came with other bytes than it is listed with, twice:\n"
        f"  expected {expected}\n  found    {found}",
        hint="A proxy or mirror may change files; compare with the repository's page on the Hub.",
    )
