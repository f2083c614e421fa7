"""Publishing: a finished tree gets the model's name in one step, and a model loses it in one step.

At every instant the name is one whole version or nothing. An empty place is filled by a rename. A taken one is
swapped (`RENAME_EXCHANGE`); where that is refused, for whatever reason, the old version steps aside first. It comes
back when the new one is refused, too, and `repair` puts it back when the process was killed in between. Nothing is
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
from modelcache.system.files import discard, exchange, storage_errors, sync_directory, write_file

_ROUNDS = 20


def seal(tree: Path, model: LockedModel) -> None:
    """Make a verified tree ready to be seen: the receipt inside, modes, one mtime, all of it on disk.

    Who owns the receipt is who we are on this volume: a file system may show another uid than that of the process.

    Raises:
        StorageError: somebody else has put something into the tree.
        OSError: the volume refuses.

    """
    receipt = write_file(tree / RECEIPT_NAME, format_receipt(model))
    finalize_tree(tree, owner=receipt.st_uid, mtime=PUBLISHED_MTIME)


def publish(tree: Path, home: Path) -> None:
    """Let `home` name the sealed tree; a version that was there is removed afterwards.

    Raises:
        OSError: the file system refuses, or the tree is gone because somebody took the lease over.

    """
    for left in reversed(range(_ROUNDS)):
        if os.path.lexists(home) and exchange(tree, home):
            break
        tree.lstat()  # for one that has gone nothing steps aside
        try:
            _step_aside(home)
            os.rename(tree, home)
            break
        except BaseException as error:
            taken = os.path.lexists(home)  # it did not step aside; or, where no lock holds, somebody else was faster
            if not taken:
                with suppress(OSError):
                    put_back(home)
            if not (taken and left and isinstance(error, OSError)):
                raise
    sync_directory(home.parent)
    for old in (tree, _aside(home)):
        discard(old)


def repair(home: Path) -> None:
    """Finish, under the model's lease, what a killed `publish` left half done on a file system without exchange."""
    put_back(home)
    discard(_aside(home))


def put_back(home: Path) -> None:
    """Give a version that stepped aside its name again, where no other one has it; also without the lease."""
    aside = _aside(home)
    if aside.is_dir() and not aside.is_symlink() and not home.exists():
        with suppress(FileNotFoundError):  # another process has put it back
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
        make_state_directory(state)
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


def _step_aside(home: Path) -> None:
    """Move the version that is there to where `repair` looks for it; where none is, nothing moves."""
    aside = _aside(home)
    if os.path.lexists(aside) and os.path.lexists(home):
        discard(aside)
    with suppress(FileNotFoundError):
        os.rename(home, aside)


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
