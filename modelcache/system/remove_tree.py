"""Directory trees: temporary ones, and the removal of any, whatever its depth, even where other users may write.

`shutil.rmtree` needs a descriptor for each level and, before Python 3.13, a recursive call: it fails at about a
thousand levels.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_temporary: set[Path] = set()


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Create an empty directory outside every root; remove it with its content at the end."""
    import tempfile  # few commands need it

    folder = Path(tempfile.mkdtemp(prefix="cache-models-"))
    _temporary.add(folder)
    try:
        yield folder
    finally:
        remove_tree(folder)
        _temporary.discard(folder)


def remove_temporary_directories() -> None:
    """Remove those that exist, before os._exit()."""
    for folder in tuple(_temporary):
        remove_tree(folder)


def remove_tree(path: Path) -> None:
    """Remove a directory and its content, as far as the system permits; follow no link."""
    with suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        with suppress(OSError):
            _remove_deep_tree(path)


def _remove_deep_tree(path: Path) -> None:
    """Remove a directory: move each directory below it to its top, then empty that.

    So no path gets too long, nothing recurses, two descriptors are enough, and other users with write access cannot
    redirect it.
    """
    top = _open_to_empty(os.fspath(path))
    try:
        folders = _empty(top, top)
        for name in folders:  # it grows meanwhile
            with suppress(OSError):
                folder = _open_to_empty(name, top)
                try:
                    folders += _empty(folder, top)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(folder: int, top: int) -> list[str]:
    """Remove the files of a directory and move its directories to the top; return their names there."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    names = []
    for name, is_folder in found:
        with suppress(OSError):
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                continue
            moved = name if folder == top else secrets.token_hex(8)
            if folder != top:
                os.close(_open_to_empty(name, folder))  # a directory without write permission cannot be moved
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
            names.append(moved)
    return names


def _open_to_empty(name: str, above: int | None = None) -> int:
    """Open a directory, and give its owner every permission."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        handle = os.open(name, os.O_PATH | _FOLDER, dir_fd=above)
        try:
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
        finally:
            os.close(handle)
        folder = os.open(name, _FOLDER, dir_fd=above)
    with suppress(OSError):
        os.fchmod(folder, stat.S_IRWXU)
    return folder
