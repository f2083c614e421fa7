"""Pointers of git-lfs: the few lines that git keeps in the place of a large file.

A directory holds pointers if it was checked out where git-lfs is not installed; a repository, if its owner committed
such a directory. A pointer has the name of the file and none of its bytes.
"""

from __future__ import annotations

LARGEST = 1024
"""Bytes; a longer file is no pointer (git-lfs docs/spec.md)."""

# The current form, and two older ones that git-lfs still reads.
_BEGINNINGS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"version http://git-media.io/v/",
)


def is_pointer(content: bytes) -> bool:
    """Whether this content is a pointer."""
    return len(content) <= LARGEST and content.lstrip().startswith(_BEGINNINGS)


def problem(path: str) -> str:
    """Return the message about a file that is a pointer."""
    return f"{path} is a git-lfs pointer, and the file itself is not there"


def way_out(*, directory: bool) -> str:
    """Return the hint, for a model in a directory or on the Hub."""
    if directory:
        return "run `git lfs pull` in the repository that the directory is from"
    return "tell the owner to upload the file itself, or use another revision"
