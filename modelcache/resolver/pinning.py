"""Pinning the files that are shipped as they are: their SHA-256, unless one of them is not what its name says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from modelcache.core import git_lfs
from modelcache.core.errors import PolicyError
from modelcache.core.interfaces import ForEach, Repository
from modelcache.core.safetensors_header import DamagedHeaderError, header_size, tensors_of
from modelcache.core.text import first_lines
from modelcache.core.types import LARGEST_TEXT, ListedFile, Original, WantedModel
from modelcache.resolver.weights import SAFE_WEIGHTS

# Bytes of a weight file that are read first: enough for the header of some 270 tensors.
_FIRST_BYTES = 1 << 15
_one_header = threading.Lock()  # each takes ten times its size while it is parsed


def pin_files(
    wanted: WantedModel, repository: Repository, files: Sequence[ListedFile], for_each: ForEach
) -> dict[str, Original]:
    """Pin files, by their paths.

    Raises:
        PolicyError: with every file that is a git-lfs pointer, or whose header does not fit its size.

    """
    pin = partial(_pin, repository, directory=wanted.path is not None)
    results = for_each(pin, files, repository.stop)
    if problems := [result for result in results if isinstance(result, str)]:
        raise PolicyError(f"{wanted.id} is not shipped:\n  " + "\n  ".join(first_lines(problems)))
    return {result.path: result for result in results if isinstance(result, Original)}


def _pin(repository: Repository, file: ListedFile, *, directory: bool) -> Original | str:
    """Pin a file, or say why it is not shipped."""
    if file.size <= git_lfs.LARGEST and git_lfs.is_pointer(repository.read(file)):
        return f"{git_lfs.problem(file.path)}: {git_lfs.way_out(directory=directory)}"
    if file.path.endswith(SAFE_WEIGHTS) and (damage := _header_damage(repository, file)):
        hint = "copy it anew" if directory else "tell the owner that the file is broken, or use another revision"
        return f"{file.path} is not a sound safetensors file: {damage}: {hint}"
    return repository.pin(file)


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
