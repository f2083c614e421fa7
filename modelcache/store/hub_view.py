"""Write, hold and remove the Hub view of a published model (`core.hub_view`).

A program that loads by id looks up one file after the other, and reads the ref anew each time. So a model is replaced
in three steps, and in between every lookup fails: old links never lead to new bytes.

1. `hold_view`: each snapshot is exchanged for one in which each JSON file is a link to a sentence, and nothing else is
   there. A program that begins to load reads that sentence and raises an error. If it found nothing instead, it would
   go on: sentence-transformers takes a missing modules.json for a model without one, pools the vectors by their mean,
   and says nothing.
2. The model is published.
3. After `wait_for_readers`, `write_view` exchanges the snapshot again, and writes the refs last. A program that has
   read files of the old version has looked up another one meanwhile, and has failed.

All of it is done under the model's lease. A process that is killed in between leaves a view that `inspect_view` finds
different, and the next run writes it again. Where locks do nothing, a process may remove what another one is making;
that one begins anew. Only what `hold_view` puts in the place of links is flushed to disk, so that after a power cut
no old link leads to new bytes. Apart from that a power cut may cost a view, and no model.

Clients write here, too, and all that they have written stays.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from modelcache.core.errors import NoLinksError, OccupiedError, StorageError
from modelcache.core.hub_view import HubView, hub_view, view_folder
from modelcache.core.names import PUBLISHED_MTIME, STATE_NAME
from modelcache.core.types import LockedModel
from modelcache.store.inspect_view import (
    HELD_NAME,
    has_links,
    is_directory,
    names_in,
    not_directories,
    own_entries,
    own_snapshots,
    read_ref,
    refs_of,
    walk_plain,
)
from modelcache.system.directories import make_below, make_state_directory
from modelcache.system.durable import sync_directory
from modelcache.system.files import discard, exchange, write_file

GRACE = 2.0
"""Seconds between the last lookup of an old version and the first of the new one."""
PAUSE = 0.2
"""Seconds before a view that was not there is written for a model in place; publishing one takes its own time."""

_HELD = b"this model is being replaced: load it again\n"
# A volume without links answers with one of these. After any other errno the next run tries again.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_MOST_MILLISECONDS = 20
_TRIES = 50


def hold_view(hub: Path, model: LockedModel) -> bool:
    """Let no program load a model by its id until `write_view`; return whether one could before.

    Files that clients have written into a snapshot are moved aside with it, until `write_view`.

    Raises:
        NoLinksError: the volume has no symbolic links; what a client has there is as it was.
        OccupiedError: something stands in the place of a directory of the view.

    """
    view = hub_view(model)
    if view is None:
        return False
    folder = hub / view.folder
    _refuse_occupied(folder, view.commit)
    readable = has_links(folder)
    _again_if_removed(partial(_hold, folder, view, durably=readable))
    return readable


def _hold(folder: Path, view: HubView, *, durably: bool) -> None:
    own = {name: [path for path, _ in own_entries(folder / "snapshots" / name)] for name in own_snapshots(folder)}
    for name in {view.commit, *own}:
        paths = {path for path in (*own.get(name, ()), *view.links) if path.endswith(".json")}
        tree = _make_tree(folder, name)
        _make_links(tree, {path: f"{'../' * (2 + path.count('/'))}{STATE_NAME}/{HELD_NAME}" for path in paths})
        with suppress(FileExistsError):
            write_file(folder / STATE_NAME / HELD_NAME, _HELD)
        _exchange(tree, folder / "snapshots" / name)
    for ref in view.refs:
        if read_ref(folder / "refs" / ref) not in own:
            with suppress(OccupiedError):  # `write_view` reports that
                _write_ref(folder, ref, view.commit)
    if durably:
        for name in ("refs", "snapshots"):
            sync_directory(folder / name)


def wait_for_readers(*, readable: bool) -> None:
    """Wait, after `hold_view`, until a program that has begun to load the model has looked up another file, and failed.

    `readable` says whether one could have read files of an old version, or only have missed some.
    """
    time.sleep(GRACE if readable else PAUSE)


def write_view(hub: Path, model: LockedModel) -> None:
    """Write the view of a published model, whatever is there; what clients have written stays.

    Raises:
        NoLinksError: the volume has no symbolic links.
        OccupiedError: something stands in the place of a directory of the view.

    """
    view = hub_view(model)
    if view is None:
        return
    try:
        _again_if_removed(partial(_write, hub / view.folder, view))
    except BaseException:
        with suppress(OSError, StorageError):
            remove_view(hub, model.id)
        raise


def _write(folder: Path, view: HubView) -> None:
    _refuse_occupied(folder, view.commit)
    tree = _make_tree(folder, view.commit)
    _make_links(tree, view.links)
    for path in view.links:
        _set_mtime(f"{tree}/{path}")
    _return_files_of_clients(folder, tree)
    _exchange(tree, folder / "snapshots" / view.commit)
    for ref in view.refs:
        _write_ref(folder, ref, view.commit)
    _drop_other_snapshots(folder, view)
    _return_files_of_clients(folder)
    _finish(folder)


def remove_view(hub: Path, model_id: str) -> None:
    """Remove the view of a model; what clients have written stays, and then its directories do, too.

    Raises:
        OccupiedError: something stands in the place of a directory of the view.

    """
    _again_if_removed(partial(_remove, hub / view_folder(model_id)))
    with suppress(OSError):  # there are views of other models
        hub.rmdir()
    _set_mtime(hub)


def _remove(folder: Path) -> None:
    _refuse_occupied(folder)
    _drop_other_snapshots(folder, None)
    _return_files_of_clients(folder)
    _finish(folder)
    _remove_if_empty(folder)


def _again_if_removed(work: Callable[[], None]) -> None:
    """Do work below a state directory; again, if another process removed that meanwhile, where locks do nothing."""
    for left in reversed(range(_TRIES)):
        try:
            work()
            break
        except FileNotFoundError:
            if not left:
                raise
            time.sleep(secrets.randbelow(_MOST_MILLISECONDS) / 1000)


def _make_tree(folder: Path, commit: str) -> Path:
    """Make the directory of a snapshot beside the others."""
    make_state_directory(folder / STATE_NAME)
    tree = folder / STATE_NAME / f"{commit}~{secrets.token_hex(6)}"
    make_below(None, tree)
    return tree


def _is_snapshot(name: str) -> bool:
    """Whether a name in the state directory is that of a snapshot; others are of refs, and of what is being removed."""
    return "~" in name and not name.startswith(".")


def _make_links(tree: Path, links: Mapping[str, str]) -> None:
    for directory in sorted({path.rpartition("/")[0] for path in links}):
        make_below(tree, tree / directory)
    try:
        for path, target in links.items():
            os.symlink(target, f"{tree}/{path}")
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoLinksError(f"no symbolic link can be made in {tree}: {error.strerror}") from error
        raise


def _exchange(tree: Path, snapshot: Path) -> None:
    """Let a snapshot be this tree; what had its name before has the tree's name afterwards."""
    make_below(None, snapshot.parent)
    for left in reversed(range(_TRIES)):
        if os.path.lexists(snapshot) and exchange(tree, snapshot):
            return
        with suppress(FileNotFoundError):
            os.rename(snapshot, tree.with_name(f"{snapshot.name}~{secrets.token_hex(6)}"))
        try:
            os.rename(tree, snapshot)
            return
        except OSError:  # where locks do nothing, another process may have been faster
            if not left:
                raise


def _drop_other_snapshots(folder: Path, view: HubView | None) -> None:
    """Remove the refs to this tool's snapshots of other commits, and move those snapshots aside."""
    own = set(own_snapshots(folder)) - {view.commit if view else ""}
    for ref in refs_of(folder):
        if read_ref(ref) in own:
            ref.unlink(missing_ok=True)
    for name in own:
        make_state_directory(folder / STATE_NAME)
        with suppress(FileNotFoundError):  # where locks do nothing, another process may have been faster
            os.rename(folder / "snapshots" / name, folder / STATE_NAME / f"{name}~{secrets.token_hex(6)}")


def _return_files_of_clients(folder: Path, tree: Path | None = None) -> None:
    """Remove what is this tool's from the snapshots that were moved aside; move what is left back.

    `tree` is the next snapshot: it gets what its own commit had. Each one is renamed first: where locks do nothing, it
    may be the tree in which another process makes links, and that one then fails and begins anew. A directory that
    this user may not read is empty: another user of the group was killed before it was shared.
    """
    for name in names_in(folder / STATE_NAME):
        commit = name.rpartition("~")[0]
        aside = folder / STATE_NAME / f"{commit}~{secrets.token_hex(6)}"
        if not _is_snapshot(name) or (tree is not None and name == tree.name):
            continue
        try:
            os.rename(aside.with_name(name), aside)
        except FileNotFoundError:  # another process has just taken it
            continue
        for path, _ in list(own_entries(aside, skip=[PermissionError])):
            (aside / path).unlink(missing_ok=True)
        for path, found in reversed(list(walk_plain(aside, skip=[PermissionError]))):
            if stat.S_ISDIR(found.st_mode):
                with suppress(OSError):  # not empty
                    (aside / path).rmdir()
        try:
            aside.rmdir()
        except FileNotFoundError:  # another process has just taken it
            continue
        except OSError:  # files of clients are in it
            if tree is not None and tree.name.rpartition("~")[0] == commit:
                _merge(aside, tree)
            else:
                make_below(None, folder / "snapshots" / commit)
                _merge(aside, folder / "snapshots" / commit)
            discard(aside)


def _merge(source: Path, target: Path) -> None:
    """Move the entries of a directory into another one; what that has already stays."""
    for name in names_in(source):
        one, other = source / name, target / name
        if not os.path.lexists(other):
            os.rename(one, other)
        elif is_directory(one) and is_directory(other):
            _merge(one, other)


def _finish(folder: Path) -> None:
    """Remove what is left of the work, and give the directories one mtime: equal views make equal image layers."""
    for name in names_in(folder / STATE_NAME):
        if not _is_snapshot(name):
            discard(folder / STATE_NAME / name)
    with suppress(OSError):  # where locks do nothing, another process may be at work here
        (folder / STATE_NAME).rmdir()
    ours = [folder / "snapshots" / name for name in own_snapshots(folder)]
    for top in (*ours, folder / "refs"):
        for path, found in walk_plain(top):
            if stat.S_ISDIR(found.st_mode):
                _set_mtime(top / path)
        _set_mtime(top)
    for directory in (folder / "snapshots", folder, folder.parent):
        _set_mtime(directory)


def _set_mtime(path: Path | str) -> None:
    with suppress(OSError, NotImplementedError):  # it is not there, or is of another user, or links have no times
        os.utime(path, (PUBLISHED_MTIME, PUBLISHED_MTIME), follow_symlinks=False)


def _write_ref(folder: Path, ref: str, commit: str) -> None:
    """Write a ref in one step."""
    path, temporary = folder / "refs" / ref, folder / STATE_NAME / f"ref-{secrets.token_hex(6)}"
    write_file(temporary, commit.encode())
    _set_mtime(temporary)
    for left in (True, False):
        make_below(None, path.parent)
        if any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(folder)):
            raise OccupiedError(f"{path.parent} is a link", hint="Remove it, then run this again.")
        try:
            os.replace(temporary, path)
            return
        except OSError:
            if not left:
                raise
            _remove_older_refs(folder, path, commit)


def _remove_older_refs(folder: Path, path: Path, commit: str) -> None:
    """Remove the refs whose names exclude that of another one, as `v1` excludes `v1/x`.

    Git has only one of them at a time, so the other one is older. One of a client stays: OccupiedError.
    """
    older = [ref for ref in refs_of(folder) if ref in path.parents or path in ref.parents]
    own = {commit, *own_snapshots(folder)}
    if others := [ref for ref in older if read_ref(ref) not in own]:
        raise OccupiedError(f"{others[0]} is in the way of {path}", hint="Remove it, then run this again.")
    for ref in older:
        ref.unlink(missing_ok=True)
    _remove_if_empty(path)


def _refuse_occupied(folder: Path, commit: str = "") -> None:
    if occupied := not_directories(folder, commit):
        raise OccupiedError(f"{occupied} is not a directory", hint="Move it away, then run this again.")


def _remove_if_empty(path: Path) -> None:
    """Remove a directory in which there is nothing but directories; else give it its mtime."""
    below = list(walk_plain(path))
    if path.is_dir() and all(stat.S_ISDIR(found.st_mode) for _, found in below):
        try:
            for inner, _ in reversed(below):
                (path / inner).rmdir()
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):  # a client has just written into it
                raise
    _set_mtime(path)
