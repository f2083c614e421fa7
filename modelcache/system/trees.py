"""Removing a directory of any depth, also where other users may write. Knows nothing of models.

`shutil.rmtree` needs a descriptor for each level and, before Python 3.13, a call: it gives up at about a thousand.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it, as far as the system permits; no link is followed."""
    with suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        with suppress(OSError):
            _remove_deep_tree(path)


def _remove_deep_tree(path: Path) -> None:
    """Remove a directory whose directories are moved to its top before they are emptied.

    So no path gets too long, nothing recurses, two descriptors are enough, and other users who may write there cannot
    redirect it.
    """
    top = _open_to_empty(os.fspath(path))
    try:
        folders = _emptied(top, top)
        for name in folders:  # which grows meanwhile
            with suppress(OSError):
                folder = _open_to_empty(name, top)
                try:
                    folders += _emptied(folder, top)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _emptied(folder: int, top: int) -> list[str]:
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
                os.close(_open_to_empty(name, folder))  # one that may not be written may not be moved
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
            names.append(moved)
    return names


def _open_to_empty(name: str, above: int | None = None) -> int:
    """Open a directory, also one that its owner has no leave to change."""
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
