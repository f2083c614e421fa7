"""Publishing: a finished tree gets the model's name in one step, and a model loses it in one step.

At every instant the name is one whole version or nothing. An empty place is filled by a rename. A taken one is
swapped (`RENAME_EXCHANGE`); where the file system cannot, the old version steps aside first, and `repair` puts
it back should nobody live to finish. Files are never written in place: a running server has them mapped.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.disk import discard, exchange, make_state, settle, storage_errors, sync_directory
from modelcache.errors import StorageError
from modelcache.layout import PUBLISHED_MTIME, RECEIPT_NAME, STATE_NAME
from modelcache.receipt import format_receipt
from modelcache.records import LockedModel


def seal(tree: Path, model: LockedModel) -> None:
    """Make a verified tree ready to be seen: the receipt inside, modes, one mtime, all of it on disk."""
    (tree / RECEIPT_NAME).write_bytes(format_receipt(model))
    settle(tree, mtime=PUBLISHED_MTIME)


def publish(tree: Path, home: Path) -> None:
    """Let `home` name the sealed tree; a version that was there is removed afterwards.

    Raises:
        OSError: the file system refuses, or the tree is gone because somebody took the lease over.

    """
    while not (_moved(tree, home) or exchange(tree, home)):
        discard(_aside(home))
        with suppress(FileNotFoundError):  # where no lock holds, somebody else may be at the same point
            os.rename(home, _aside(home))
    sync_directory(home.parent)
    for old in (tree, _aside(home)):
        discard(old)


def repair(home: Path) -> None:
    """Finish what a killed `publish` left half done on a file system without exchange."""
    aside = _aside(home)
    if not os.path.lexists(aside):
        return
    if home.exists() or aside.is_symlink() or not aside.is_dir():
        discard(aside)
    else:
        with suppress(FileNotFoundError):  # another process has repaired it
            os.rename(aside, home)


def refuse_linked_state(collections: Iterable[Path]) -> None:
    """Refuse to work where a link leads elsewhere: what would be cleared away there is not ours.

    Raises:
        StorageError: naming the link, or the directory that may not be looked into.

    """
    for state in (collection / STATE_NAME for collection in collections):
        with storage_errors(f"look at {state}"):
            if state.is_symlink():
                raise StorageError(f"{state} is a link", hint="Remove it, then run this again.")


def remove(home: Path) -> None:
    """Take a model away as one: first its name, then its files."""
    refuse_linked_state([home.parent])
    state = home.parent / STATE_NAME
    grave = state / f"{home.name}~{secrets.token_hex(6)}"
    while not _moved_away(home, grave):
        make_state(state)
    sync_directory(home.parent)
    discard(grave)
    with suppress(OSError):
        state.rmdir()


def settle_collections(collections: Iterable[Path]) -> None:
    """Give the directories of models the one mtime, too: equal roots make equal image layers."""
    for collection in collections:
        with suppress(OSError):  # one that is not there, or not ours
            if collection.stat().st_mtime_ns != PUBLISHED_MTIME * 10**9:
                os.utime(collection, (PUBLISHED_MTIME, PUBLISHED_MTIME))


def _moved(tree: Path, home: Path) -> bool:
    """Give the tree its name; False while another version has it."""
    try:
        os.rename(tree, home)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _moved_away(home: Path, grave: Path) -> bool:
    """Give a model another name, unless another process has removed it; False while the new place is not there."""
    try:
        os.rename(home, grave)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            home.lstat()
            return False
    return True


def _aside(home: Path) -> Path:
    return home.parent / STATE_NAME / f"{home.name}.old"
