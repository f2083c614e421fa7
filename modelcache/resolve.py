"""From what is wanted to what is pinned: which commit, which files, which bytes.

The Hub's listing has the SHA-256 of LFS files only; a small file is fetched, checked against the git blob id
it is listed with, and hashed. What was fetched is kept for `sync`.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelcache.choose import Choice, choose
from modelcache.digests import git_blob_id, sha256_of
from modelcache.disk import make_collection, walk
from modelcache.errors import IntegrityError, PolicyError, StorageError
from modelcache.layout import STATE_NAME, refuse_unsafe_paths
from modelcache.records import ListedFile, LockedFile, LockedModel, WantedModel

# Small files are read whole; a configuration or a tokenizer of this size is none.
_READ_LIMIT = 32 << 20


@dataclass(frozen=True, slots=True)
class Resolved:
    """A pinned model, and how large the repository is that it was chosen from, in bytes."""

    model: LockedModel
    repository_size: int


class HubApi(Protocol):
    """What is asked of the Hub."""

    def commit_of(self, repo: str, revision: str) -> tuple[str, str]:
        """Return commit and licence."""

    def listing(self, repo: str, commit: str) -> tuple[ListedFile, ...]:
        """Return every file of a commit."""

    def read(self, repo: str, commit: str, file: ListedFile) -> bytes:
        """Return a small file whole."""


class Kept:
    """Small files that were fetched to be hashed, kept for `sync` as a staging directory of this process."""

    def __init__(self, home: Path) -> None:
        self._folder = home.parent / STATE_NAME / f"{home.name}~{secrets.token_hex(6)}"

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a file; where that is not possible, `sync` fetches it again."""
        with suppress(OSError):
            make_collection(self._folder.parent.parent)
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / sha256).write_bytes(content)


def resolve(
    wanted: WantedModel,
    hub: HubApi,
    *,
    near: Callable[[ListedFile], Iterable[Path]],
    keep: Callable[[str, bytes], None],
    jobs: int,
) -> Resolved:
    """Pin a model of the Hub; `near` says where on this machine a small file may already be.

    Raises:
        HubError: it is not there, not allowed, or the Hub does not answer.
        PolicyError: it is not shipped, with every reason.
        IntegrityError: a file is not what the listing says, also when fetched once more.

    """
    commit, licence = hub.commit_of(wanted.id, wanted.revision)
    listing = hub.listing(wanted.id, commit)
    contents: dict[str, bytes] = {}

    def read(file: ListedFile) -> bytes:
        if file.path not in contents:
            contents[file.path] = _read_near(file, near(file)) or _read_checked(wanted.id, commit, file, hub)
        return contents[file.path]

    def pin(file: ListedFile) -> LockedFile:
        if file.sha256 is not None and file.path not in contents:
            return LockedFile(file.path, file.size, file.sha256)
        content = read(file)
        sha256 = hashlib.sha256(content).hexdigest()
        keep(sha256, content)
        contents.pop(file.path, None)
        return LockedFile(file.path, file.size, sha256)

    choice = choose(wanted, listing, read)
    with ThreadPoolExecutor(jobs, thread_name_prefix="resolve") as pool:
        files = tuple(sorted(pool.map(pin, choice.files)))
    return Resolved(_locked(wanted, files, choice, commit, licence), sum(file.size for file in listing))


def resolve_directory(wanted: WantedModel, source: Path) -> Resolved:
    """Pin a model that lies in a directory.

    Raises:
        StorageError: there is no such directory.
        PolicyError: it holds links, or is not shipped for one of `choose`'s reasons.

    """
    if not source.is_dir():
        raise StorageError(
            f"{wanted.id}: there is no directory {source}", hint="Check `path`; it is relative to models.toml."
        )
    listing, links = [], []
    for path, found in walk(source):
        if path.partition("/")[0].startswith("."):  # .git, .cache and our own receipt are not the model's
            continue
        if stat.S_ISREG(found.st_mode):
            listing.append(ListedFile(path, found.st_size))
        elif not stat.S_ISDIR(found.st_mode):
            links.append(path)
    if links:
        raise PolicyError(
            f"{wanted.id}: not plain files in {source}: {', '.join(sorted(links)[:5])}",
            hint="Copy the directory with `cp -rL`, so that it holds files instead of links.",
        )
    choice = choose(wanted, listing, lambda file: (source / file.path).read_bytes())
    files = tuple(LockedFile(file.path, file.size, sha256_of(source / file.path)) for file in choice.files)
    return Resolved(_locked(wanted, files, choice, "", ""), sum(file.size for file in listing))


def _locked(
    wanted: WantedModel, files: tuple[LockedFile, ...], choice: Choice, commit: str, licence: str
) -> LockedModel:
    refuse_unsafe_paths(wanted.id, (file.path for file in files))
    revision = wanted.revision if commit else "main"
    return LockedModel(wanted.kind, wanted.id, revision, commit, files, licence, choice.remote_code)


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


def _read_checked(repo: str, commit: str, file: ListedFile, hub: HubApi) -> bytes:
    """Fetch a small file; wrong bytes are fetched once more before they count as the Hub's own."""
    if file.size > _READ_LIMIT:
        raise PolicyError(f"{repo}: {file.path} has {file.size} bytes, which is no configuration file")
    expected, found = file.sha256 or file.blob_id, ""
    for _ in range(2):
        try:
            content = hub.read(repo, commit, file)
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
