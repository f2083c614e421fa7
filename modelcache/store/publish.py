"""Publish and remove a model atomically: its directory gets its name, and loses it, in one rename.

At every instant the name is one whole version or nothing. A free name is taken by a rename. A taken one is exchanged
(`RENAME_EXCHANGE`); where that is refused, for whatever reason, the old version is moved aside first. It is moved
back when the new one is refused, too; `recover_publish` does that when the process was killed in between. Nothing is
renamed onto a version that is there: POSIX refuses that with two errnos, other file systems with a dozen, and some
mix the two directories. Files are never written in place: a running server has them mapped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from modelcache.core.errors import StorageError
from modelcache.core.names import PUBLISHED_MTIME, RECEIPT_NAME, STATE_NAME
from modelcache.core.types import LockedModel
from modelcache.formats.receipt import format_receipt
from modelcache.system.directories import finalize_tree, make_state_directory
from modelcache.system.durable import sync_directory
from modelcache.system.files import discard, exchange, storage_errors, write_file

_TRIES = 20


def finalize_model(tree: Path, model: LockedModel) -> None:
    """Make a verified tree ready to be published, see `finalize_tree`: write the receipt, set modes and mtimes, flush.

    All of it has to belong to the owner of the receipt: a file system may show another uid than that of the process.
    """
    receipt = write_file(tree / RECEIPT_NAME, format_receipt(model))
    finalize_tree(tree, owner=receipt.st_uid, mtime=PUBLISHED_MTIME)


def publish(tree: Path, home: Path) -> None:
    """Let `home` name the finalized tree; the version that was there is removed afterwards.

    It fails if the tree is gone, because another process took the lease over.
    """
    for left in reversed(range(_TRIES)):
        there = os.path.lexists(home)
        if there and exchange(tree, home):
            break
        tree.lstat()  # when the tree has gone, the old version stays
        try:
            if there:  # else one that another process publishes now would be gone for an instant
                _move_aside(home)
            os.rename(tree, home)
            break
        except BaseException as error:
            taken = os.path.lexists(home)  # it was not moved; or, where no lock holds, another process was faster
            if not taken:
                with suppress(OSError):
                    restore_old_version(home)
            if not (taken and left and isinstance(error, OSError)):
                raise
    sync_directory(home.parent)
    for old in (tree, _old_version(home)):
        discard(old)


def recover_publish(home: Path) -> None:
    """Finish, under the model's lease, a `publish` that was killed on a file system without exchange."""
    restore_old_version(home)
    discard(_old_version(home))


def restore_old_version(home: Path) -> None:
    """Move a version back that was moved aside, where none has its name; also without the lease."""
    old = _old_version(home)
    if old.is_dir() and not old.is_symlink() and not home.exists():
        with suppress(FileNotFoundError):  # another process has moved it back
            os.rename(old, home)


def refuse_linked_state(collections: Iterable[Path]) -> None:
    """Refuse a state directory that is a link: the files behind it, which would be removed, are not ours."""
    for state in (collection / STATE_NAME for collection in collections):
        with storage_errors(f"look at {state}"):
            if state.is_symlink():
                raise StorageError(f"{state} is a link", hint="Remove it, then run this again.")


def remove(home: Path) -> None:
    """Remove a model: first its name, then its files."""
    refuse_linked_state([home.parent])
    state = home.parent / STATE_NAME
    doomed = state / f"{home.name}~{secrets.token_hex(6)}"
    while not _moved_away(home, doomed):
        make_state_directory(state)
    sync_directory(home.parent)
    discard(doomed)
    with suppress(OSError):
        state.rmdir()


def set_collection_mtimes(collections: Iterable[Path]) -> None:
    """Give the collections the mtime of published files, too: equal roots make equal image layers."""
    for collection in collections:
        with suppress(OSError):  # it is not there, or belongs to another user
            set_published_mtime(collection)


def set_published_mtime(directory: Path) -> None:
    """Give a directory the mtime of published files; OSError where that is not permitted."""
    if directory.stat().st_mtime_ns != PUBLISHED_MTIME * 10**9:
        os.utime(directory, (PUBLISHED_MTIME, PUBLISHED_MTIME))


def _move_aside(home: Path) -> None:
    """Move the version that is there to where `recover_publish` looks for it; where none is, do nothing."""
    old = _old_version(home)
    if os.path.lexists(old) and os.path.lexists(home):
        discard(old)
    with suppress(FileNotFoundError):
        os.rename(home, old)


def _moved_away(home: Path, doomed: Path) -> bool:
    """Rename a model, unless another process has removed it; False where the state directory is not there."""
    try:
        os.rename(home, doomed)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            home.lstat()
            return False
    return True


def _old_version(home: Path) -> Path:
    return home.parent / STATE_NAME / f"{home.name}.old"
