"""One commit on the Hub as a repository.

The Hub's listing has the SHA-256 of LFS files only. A small file is fetched, checked against its git blob id in the
listing, hashed, and kept for `sync`, unless the root has it already.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.errors import HubError, IntegrityError, PolicyError
from modelcache.core.names import problem_with_path
from modelcache.core.text import escape, size_in_words
from modelcache.core.types import LARGEST_TEXT, ListedFile, Original, Revision
from modelcache.system.files import is_plain_file

if TYPE_CHECKING:
    from modelcache.sources.hub_api import Hub

_READ_LIMIT = 32 << 20
"""Bytes; no configuration and no tokenizer is larger."""
_one_large = threading.Lock()  # eight files of that size would not fit into a small container


class HubRepository:
    """One commit of a repository on the Hub.

    `found` is the revision as the Hub describes it. `in_root` returns the paths where `sync` will find a small file,
    `in_cache` those in the Hugging Face cache.
    """

    def __init__(
        self,
        name: str,
        found: Revision,
        hub: Hub,
        in_root: Callable[[ListedFile], Iterable[Path]],
        in_cache: Callable[[ListedFile], Iterable[Path]],
        keep: Callable[[str, bytes], None],
    ) -> None:
        self.commit, self.licence, self.gated = found.commit, found.licence, found.gated
        listing = hub.listing(name, self.commit)
        self.files: Mapping[str, ListedFile] = {file.path: file for file in listing}
        if len(self.files) < len(listing):
            raise HubError(f"{name} lists a file twice", hint="Check HF_ENDPOINT, and the mirror or proxy behind it.")
        self._name = name
        self._hub = hub
        self._in_root = in_root
        self._in_cache = in_cache
        self._keep = keep
        self._contents: dict[str, bytes] = {}
        self._to_keep: set[str] = set()
        self._pins: dict[str, Original] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all pauses between tries: other work has failed."""
        self._stopped.set()

    def read(self, file: ListedFile) -> bytes:
        """Return a small file, asked for once."""
        if file.path not in self._contents:
            refuse_unreadable(self._name, file)
            content = _read_local(file, self._in_root(file))
            if content is None:
                self._to_keep.add(file.path)
                content = _read_local(file, self._in_cache(file))
            if content is None:
                content = self._fetch(file)
            self._contents[file.path] = content
        return self._contents[file.path]

    def part(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return some bytes of a file; of a large one only these are fetched, a small one is read whole."""
        if file.sha256 is None or file.path in self._contents or (start, end) == (0, file.size):
            return self.read(file)[start:end]
        return _try_twice(partial(self._hub.read, self._name, self.commit, file, (start, end), self._stopped))

    def pin(self, file: ListedFile) -> Original:
        """Return size and SHA-256 of a file: by the listing, or by reading it and keeping it for `sync`."""
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

    def _fetch(self, file: ListedFile) -> bytes:
        if file.size > _READ_LIMIT:
            raise PolicyError(
                f"{self._name}: {file.path} has {size_in_words(file.size)}, which is no configuration file",
                hint="Tell the owner that the repository is broken, or use another revision.",
            )
        expected = file.sha256 or file.blob_id

        def fetch() -> bytes:
            content = self._hub.read(self._name, self.commit, file, stopped=self._stopped)
            if (found := _listed_digest(file, content)) != expected:
                raise IntegrityError(
                    f"{self._name}: {file.path} came with other bytes than it is listed with, twice:\n"
                    f"  expected {expected}\n  found    {found}",
                    hint="A proxy or mirror may change files; compare with the repository's page on the Hub.",
                )
            return content

        return _try_twice(fetch)


def _try_twice(fetch: Callable[[], bytes]) -> bytes:
    """Return the fetched bytes; wrong ones are fetched once more, before the Hub itself counts as wrong."""
    try:
        return fetch()
    except IntegrityError:
        return fetch()


def refuse_unreadable(repo: str, file: ListedFile) -> None:
    """Check that a file may be read from this disk: it is a plain file, and its path stays inside a directory.

    Raises:
        PolicyError: it is something else.

    """
    problem = problem_with_path(file.path) or ("" if file.plain else f"is a {file.entry}; only plain files are shipped")
    if problem:
        hint = "Use a revision without it, or ask the owner to put a file with a plain name in its place."
        raise PolicyError(f"{repo}: {escape(file.path)} {problem}", hint=hint)


def _read_local(file: ListedFile, paths: Iterable[Path]) -> bytes | None:
    """Return the content of the first of these paths that has the listed bytes."""
    for path in paths:
        with suppress(OSError):
            digest = file.sha256 or file.blob_id
            if is_plain_file(path, file.size) and _listed_digest(file, content := path.read_bytes()) == digest:
                return content
    return None


def _listed_digest(file: ListedFile, content: bytes) -> str:
    """Return the hash that the listing has: SHA-256 for LFS files, the id of a git blob for others."""
    if file.sha256 is not None:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
