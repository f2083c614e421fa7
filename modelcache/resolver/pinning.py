"""Pinning the files that are shipped as they are: their SHA-256, unless one of them is not what its name says.

A pointer of git-lfs is the few lines that git keeps in the place of a large file. A directory holds pointers if it was
checked out where git-lfs is not installed; a repository, if its owner committed such a directory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from modelcache.core.errors import PolicyError
from modelcache.core.file_types import SAFE_WEIGHTS
from modelcache.core.interfaces import ForEach, Repository
from modelcache.core.pickle_signs import HEAD, begins_as_pickle
from modelcache.core.safetensors_header import DamagedHeaderError, header_size, tensors_of
from modelcache.core.text import first_lines
from modelcache.core.types import LARGEST_TEXT, ListedFile, Original

# Bytes of a weight file that are read first: enough for the header of some 270 tensors.
_FIRST_BYTES = 1 << 15
_LARGEST_POINTER = 1024  # bytes; a longer file is no pointer (git-lfs docs/spec.md)
# The current form, and two older ones that git-lfs still reads.
_POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"version http://git-media.io/v/",
)
_one_header = threading.Lock()  # each takes ten times its size while it is parsed


@dataclass(frozen=True, slots=True)
class Pinned:
    """The pins of files, by their paths."""

    originals: Mapping[str, Original]
    pickles: frozenset[str]
    """The paths of those that begin as a pickle does."""


PinFiles = Callable[[str, Repository, Collection[ListedFile], Collection[str], ForEach], Pinned]
"""A way to pin files: `pin_files`, or `pin_by_listing`."""


def pin_files(
    model_id: str, repository: Repository, files: Collection[ListedFile], named: Collection[str], for_each: ForEach
) -> Pinned:
    """Pin files; of those that are `named` by a table, and of those in git, the first bytes are looked at.

    Raises:
        PolicyError: with every file that is a git-lfs pointer, or whose header does not fit its size.

    """
    results = for_each(partial(_pin, repository, named), list(files), repository.stop)
    if problems := [result for result in results if isinstance(result, str)]:
        raise PolicyError(f"{model_id} is not shipped:\n  " + "\n  ".join(first_lines(problems)))
    pairs = [result for result in results if not isinstance(result, str)]
    pickles = frozenset(original.path for original, is_pickle in pairs if is_pickle)
    return Pinned({original.path: original for original, _ in pairs}, pickles)


def pin_by_listing(
    model_id: str, repository: Repository, files: Collection[ListedFile], named: Collection[str], for_each: ForEach
) -> Pinned:
    """Pin files by the listing alone; the content of weights and pickles, which `pin_files` judges, is not read."""
    del model_id, named
    pins = for_each(repository.pin, list(files), repository.stop)
    return Pinned({pin.path: pin for pin in pins}, frozenset())


def problem_with_pointer(path: str, content: bytes, *, directory: bool) -> tuple[str, str] | None:
    """Say that a file, of a directory or of the Hub, is a pointer of git-lfs, with a hint; or None."""
    if len(content) > _LARGEST_POINTER or not content.lstrip().startswith(_POINTERS):
        return None
    hint = "tell the owner to upload the file itself, or use another revision"
    if directory:
        hint = "run `git lfs pull` in the repository that the directory is from"
    return f"{path} is a git-lfs pointer, and the file itself is not there", hint


def _pin(repository: Repository, named: Collection[str], file: ListedFile) -> tuple[Original, bool] | str:
    """Pin a file, and say whether it begins as a pickle; or say why it is not shipped."""
    directory = not repository.commit
    if file.size <= _LARGEST_POINTER and (
        problem := problem_with_pointer(file.path, repository.read(file), directory=directory)
    ):
        return ": ".join(problem)
    if file.path.endswith(SAFE_WEIGHTS) and (damage := _header_damage(repository, file)):
        hint = "copy it anew" if directory else "tell the owner that the file is broken, or use another revision"
        return f"{file.path} is not a sound safetensors file: {damage}: {hint}"
    looked_at = not file.path.endswith(SAFE_WEIGHTS) and (file.path in named or file.sha256 is None)
    head = repository.part(file, 0, min(HEAD, file.size)) if looked_at and file.size else b""
    return repository.pin(file), begins_as_pickle(file.path, head)


def _header_damage(repository: Repository, file: ListedFile) -> DamagedHeaderError | None:
    """Say how the header of a weight file does not fit its size; only the first bytes of the file are read.

    No hash of these bytes is known, so a header that looks damaged is read once more.
    """
    damage = None
    for _ in range(2):
        try:
            head = repository.part(file, 0, min(_FIRST_BYTES, file.size))
            size = header_size(head, file.size, most=LARGEST_TEXT)
            if size > len(head):
                head += repository.part(file, len(head), size)
            with _one_header:
                tensors_of(head[:size], file.size)
        except DamagedHeaderError as error:
            damage = error
        else:
            return None
    return damage
