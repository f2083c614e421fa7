"""The values that all packages share: wanted and locked models, their files, and differences on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from modelcache.core.file_types import is_code
from modelcache.core.kinds import Kind
from modelcache.core.text import escape

LARGEST_FILE = 1 << 50
JOBS = 8
"""Default number of concurrent requests."""

LARGEST_TEXT = 4 << 20
"""Bytes; the limit for a file that is parsed, because Python may make thirty bytes of each in memory."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RemoteCode(StrEnum):
    """The fate of the Python code that a repository names in `auto_map` or `modules.json`."""

    NONE = "none"  # it names none
    OMITTED = "omitted"  # trust_remote_code = false: shipped without
    VENDORED = "vendored"  # trust_remote_code = true: shipped with it, all of it in the model's own directory


class Pooling(StrEnum):
    """How token vectors become the vector of a text (sentence_transformer/modules/pooling.py, POOLING_MODES)."""

    CLS = "cls"
    MAX = "max"
    MEAN = "mean"
    MEAN_SQRT = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"
    LAST = "lasttoken"


class Made(StrEnum):
    """How a derived file, which no repository has byte for byte, was made."""

    REWRITTEN = "rewritten"  # a configuration whose references to code, or an index whose shards, have other names here
    CONVERTED = "converted"  # the tensors of a pickle, as safetensors
    WRITTEN = "written"  # the modules of sentence-transformers for `pooling` and `normalize`


@dataclass(frozen=True, slots=True)
class WantedModel:
    """One table of models.toml."""

    kind: Kind
    id: str
    revision: str = "main"
    path: str | None = None
    """A directory to take the model from instead of the Hub, relative to the manifest."""
    trust_remote_code: bool | None = None
    allow_pickle: bool = False
    pooling: Pooling | None = None
    """For a repository without modules.json: how its vectors are pooled; `normalize` belongs to it."""
    normalize: bool = False
    include: tuple[str, ...] = ()
    """Patterns of files beside those that the loader opens (`core.file_patterns`)."""
    exclude: tuple[str, ...] = ()
    """Patterns of files to leave out, where a model is never loaded."""
    line: int = 0


@dataclass(frozen=True, slots=True)
class _Content:
    """A file and its content; `path` is POSIX, `size` is in bytes.

    Hashes name files on disk, so a value that is no hash is refused: it could be a path.

    Raises:
        ValueError: with the problem in one line.

    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """Check hash and size."""
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.path}: sha256 {self.sha256[:100]!r} is not 64 hex digits")
        if type(self.size) is not int or not 0 <= self.size <= LARGEST_FILE:
            raise ValueError(f"{self.path}: the size is not a number of bytes")

    def matches(self, content: bytes) -> bool:
        """Whether these are its bytes."""
        return len(content) == self.size and hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True, slots=True)
class Original(_Content):
    """The file of a repository that a published file is a copy of, or is made from.

    Without `repository` and `commit` it is in the model's own.
    """

    repository: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Where the bytes of a file begin in a file on this machine: at 0 in a file of its own, later in an archive."""

    path: Path
    start: int = 0


@dataclass(frozen=True, slots=True)
class LockedFile(_Content):
    """One file of a pinned model; `path` is relative to the model."""

    made: Made | None = None
    """How it was derived; None for the bytes of a repository."""
    original: Original | None = None
    """The file that it is made from, or its origin in another repository."""


def set_digest(files: Iterable[LockedFile]) -> str:
    r"""Return one digest for a whole model: SHA-256 of its sorted `sha256sum` lines, so that a shell can check it.

    `find . -type f ! -name .cache-models.json -printf '%P\0' | xargs -0 sha256sum | LC_ALL=C sort | sha256sum`
    """
    lines = sorted(f"{file.sha256}  {file.path}\n".encode() for file in files)
    return hashlib.sha256(b"".join(lines)).hexdigest()


@dataclass(frozen=True, slots=True)
class Misfit:
    """A key that has another value in a pin, or on disk, than is wanted; `unset` stands for no value."""

    key: str
    found: str
    wanted: str

    def __str__(self) -> str:
        """Return it for a message."""
        return f"{self.key} {escape(self.found, 100)} instead of {escape(self.wanted, 100)}"


def misfits(pairs: Iterable[tuple[str, object, object]]) -> tuple[Misfit, ...]:
    """Return those of the keys whose two values differ."""
    return tuple(Misfit(key, _word(found), _word(wanted)) for key, found, wanted in pairs if found != wanted)


def _word(value: object) -> str:
    """Return a value as models.toml has it."""
    if isinstance(value, tuple):
        return " ".join(value) or "unset"
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class LockedModel:
    """A pinned model: its commit, and each file with its SHA-256."""

    kind: Kind
    id: str
    revision: str
    commit: str
    """40 hex digits; empty for a model from a directory."""
    files: tuple[LockedFile, ...]
    licence: str = ""
    """As the model card names it (`apache-2.0`); empty where it names none."""
    remote_code: RemoteCode = RemoteCode.NONE
    packages: tuple[str, ...] = ()
    """Packages that its code imports beyond those that sentence-transformers needs; sorted."""
    pooling: Pooling | None = None
    normalize: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pickles: tuple[str, ...] = ()
    """The files that are shipped as they are, and are pickles of tensors alone; sorted."""
    gated: bool = False
    """Whether the Hub asked for consent to terms before the files could be fetched, when it was pinned."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def size_to_fetch(self) -> int:
        """Bytes to fetch for them: a pickle counts instead of the file that is made from it."""
        return sum((file.original or file).size for file in self.files if file.made is not Made.WRITTEN)

    @property
    def has_pickles(self) -> bool:
        """Whether a file is a pickle, or is made from one."""
        return bool(self.pickles) or any(file.made is Made.CONVERTED for file in self.files)

    @property
    def trust_remote_code(self) -> bool | None:
        """The value of that key with which it is pinned so; None where any value does."""
        if self.remote_code is RemoteCode.NONE:
            return True if any(is_code(file.path) for file in self.files) else None
        return self.remote_code is RemoteCode.VENDORED

    @property
    def from_directory(self) -> bool:
        """Whether it came from a `path` instead of the Hub."""
        return not self.commit

    def fits(self, wanted: WantedModel) -> bool:
        """Whether this pin still fits the manifest; decided without the Hub."""
        return not self.misfits(wanted)

    def misfits(self, wanted: WantedModel) -> tuple[Misfit, ...]:
        """Return the keys of the manifest that this pin does not fit; decided without the Hub."""
        pairs: list[tuple[str, object, object]] = [
            ("kind", self.kind, wanted.kind),
            ("id", self.id, wanted.id),
            ("pooling", self.pooling, wanted.pooling),
            ("normalize", self.normalize, wanted.normalize),
            ("include", self.include, wanted.include),
            ("exclude", self.exclude, wanted.exclude),
        ]
        if self.from_directory is not (wanted.path is not None):
            pairs.append(("path", "set" if self.from_directory else None, wanted.path))
        elif not self.from_directory:
            pairs.append(("revision", self.revision, wanted.revision))
        if self.trust_remote_code is not None:
            pairs.append(("trust_remote_code", self.trust_remote_code, wanted.trust_remote_code))
        if self.has_pickles and not wanted.allow_pickle:
            pairs.append(("allow_pickle", True, False))
        return misfits(pairs)

    def differs_from(self, other: LockedModel) -> tuple[Misfit, ...]:
        """Return how this version differs from another one that is wanted, but for its files."""
        return misfits(
            [
                ("commit", self.commit[:12] or None, other.commit[:12] or None),
                ("revision", self.revision, other.revision),
                ("remote_code", self.remote_code, other.remote_code),
                ("pooling", self.pooling, other.pooling),
                ("normalize", self.normalize, other.normalize),
                ("include", self.include, other.include),
                ("exclude", self.exclude, other.exclude),
                ("licence", self.licence or None, other.licence or None),
                ("gated", self.gated, other.gated),
                ("packages", " ".join(self.packages) or None, " ".join(other.packages) or None),
            ]
        )

    def other_files(self, other: LockedModel) -> tuple[str, ...]:
        """Return the paths of the files that only one of two versions has, or that differ; sorted."""
        return tuple(sorted({file.path for file in set(self.files) ^ set(other.files)}))

    def original_of(self, file: LockedFile) -> Original:
        """Return the original of one of its files, with repository and commit."""
        original = file.original or Original(file.path, file.size, file.sha256)
        return original if original.repository else replace(original, repository=self.id, commit=self.commit)


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision of a repository, as the Hub describes it."""

    commit: str
    """40 hex digits; empty where the answer names none."""
    licence: str = ""
    """As the model's card or its tags name it."""
    gated: bool = False
    """Whether its files are for users alone who have agreed to terms."""
    name: str = ""
    """The id of the repository now: it may have been renamed."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file as the Hub lists it: `blob_id` is git's SHA-1, `sha256` is known for LFS files only."""

    path: str
    size: int
    blob_id: str = ""
    sha256: str | None = None
    entry: str = "file"
    """Its type: `file`, or a symlink, a submodule, a link to a directory. Only plain files are read."""

    @property
    def plain(self) -> bool:
        """Whether it is a plain file."""
        return self.entry == "file"


@dataclass(frozen=True, slots=True)
class Verification:
    """How a model directory differs from its pin; each entry is a path, `changed` with what was found."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.changed)


@dataclass(frozen=True, slots=True)
class Changed:
    """A file with other content than pinned: two sizes in bytes if these differ, else two hashes.

    Of the receipt both are words, because its bytes say nothing to a reader.
    """

    path: str
    expected: int | str
    found: int | str
