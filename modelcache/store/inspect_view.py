"""Read the Hub view of a published model: what of it is there, which of that is this tool's, how it differs from a pin.

Clients write into a view, too: snapshots of other commits, blobs, locks, files that a snapshot lacks. Only links that
lead to a published model or, in a snapshot that is held, to a sentence, and refs that name such a snapshot, are this
tool's. `store.hub_view` writes them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelcache.core.hub_view import HubView, hub_view, leads_to_model
from modelcache.core.names import STATE_NAME, directories_of
from modelcache.core.types import LockedModel
from modelcache.stamp import Facts, facts_in
from modelcache.system.files import read_own_if_there, retry_if_replaced, walk

UNFINISHED = "a run that was killed has left something to remove"
HELD_NAME = "being-replaced"
"""The file with the sentence that the links of a held snapshot lead to, in the state directory of a view."""

_HELD_LINK = re.compile(rf"(\.\./){{2,}}{re.escape(STATE_NAME)}/{HELD_NAME}")
_LONGEST_REF = 4096


@dataclass(frozen=True, slots=True)
class ViewInspection:
    """The result of one look at a view."""

    difference: str | None
    """How it differs from the pin; None where it does not, or where the id can have no view."""
    there: bool
    """Whether anything of this tool is there."""
    facts: Facts
    """Of its refs and directories, by path within the root; none where it differs."""


NO_VIEW = ViewInspection(None, there=False, facts={})


def inspect_view(hub: Path, model: LockedModel) -> ViewInspection:
    """Compare the view of a model with its pin."""
    view = hub_view(model)
    return NO_VIEW if view is None else retry_if_replaced(partial(_inspect, hub, view))


def _inspect(hub: Path, view: HubView) -> ViewInspection:
    folder = hub / view.folder
    if occupied := not_directories(folder, view.commit):
        within = occupied.is_relative_to(folder / "snapshots") or occupied.parent == folder
        return ViewInspection(f"{occupied} is not a directory", there=within and bool(own_snapshots(folder)), facts={})
    facts: Facts = {}
    for path in ("", "snapshots"):  # a run that is killed leaves its work in one of these
        _note(facts, folder, path)
    wrong = [path for path in (f"refs/{ref}" for ref in view.refs) if not _is_ref(folder, path, view.commit, facts)]
    snapshots = names_in(folder / "snapshots")
    for name in snapshots:
        wrong += _wrong_links(folder, name, view.links if name == view.commit else {}, facts)
    if view.commit not in snapshots:
        wrong.append(f"snapshots/{view.commit}")
    there = bool(own_snapshots(folder))
    if not wrong and os.path.lexists(folder / STATE_NAME):
        return ViewInspection(UNFINISHED, there, {})
    if not wrong:
        noted = {f"{hub.name}/{view.folder}/{path}".rstrip("/"): fact for path, fact in facts.items()}
        return ViewInspection(None, there, noted)
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    state = "differs" if os.path.lexists(folder / wrong[0]) else "is missing"
    return ViewInspection(f"{wrong[0]} {state}{more}" if there else "it is not there", there, {})


def views_without_model(hub: Path) -> list[str]:
    """Return the ids of the views that lead to no model: it has been removed by hand, or was never fetched whole."""
    folders = [hub / name for name in names_in(hub) if name.startswith("models--")]
    alone = [folder for folder in folders if retry_if_replaced(partial(_is_without_model, folder))]
    return [folder.name.removeprefix("models--").replace("--", "/", 1) for folder in alone]


def _is_without_model(folder: Path) -> bool:
    if not_directories(folder):
        return False
    own = [folder / "snapshots" / commit for commit in own_snapshots(folder)]
    links = (snapshot / path for snapshot in own for path, target in own_entries(snapshot) if target)
    return bool(own) and not any(link.exists() for link in links)


def _is_ref(folder: Path, path: str, commit: str, facts: Facts) -> bool:
    """Whether a ref holds the commit; its facts are noted before it is read."""
    _note(facts, folder, path)
    return read_ref(folder / path) == commit


def _note(facts: Facts, folder: Path, path: str) -> None:
    """Note the facts of a ref or a directory, if it is there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        facts[path] = facts_in(os.lstat(folder / path))


def read_ref(path: Path) -> str | None:
    """Return the commit that a ref holds; None where there is none, or another thing."""
    content = read_own_if_there(path, limit=_LONGEST_REF)
    with suppress(UnicodeDecodeError):
        return None if content is None else content.decode()
    return None


def refs_of(folder: Path) -> list[Path]:
    """Return the refs of a repository, this tool's and others."""
    return [folder / "refs" / path for path, found in walk_plain(folder / "refs") if stat.S_ISREG(found.st_mode)]


def _wrong_links(folder: Path, name: str, links: Mapping[str, str], facts: Facts) -> list[str]:
    """Return the paths at which a snapshot lacks a link or has another one of this tool's; note its directories."""
    snapshot = folder / "snapshots" / name
    if not is_directory(snapshot):
        return [f"snapshots/{name}"] if links else []
    for directory in {above for path in links for above in directories_of(path)}:
        _note(facts, folder, f"snapshots/{name}/{directory}".rstrip("/"))
    own = dict(own_entries(snapshot))
    wrong = {path for path in own.keys() | links.keys() if own.get(path) != links.get(path)}
    return [f"snapshots/{name}/{path}" for path in sorted(wrong)]


def own_snapshots(folder: Path) -> list[str]:
    """Return the commits of the snapshots that have anything of this tool."""
    snapshots = folder / "snapshots"
    return [name for name in names_in(snapshots) if any(True for _ in own_entries(snapshots / name))]


def has_links(folder: Path) -> bool:
    """Whether a program can read anything of a model through its view."""
    snapshots = folder / "snapshots"
    return any(target for name in names_in(snapshots) for _, target in own_entries(snapshots / name))


def own_entries(snapshot: Path, skip: Sequence[type[OSError]] = ()) -> Iterator[tuple[str, str]]:
    """Yield the path and target of each link of this tool; the target is empty in a snapshot that is held."""
    for path, found in walk_plain(snapshot, skip):
        if stat.S_ISLNK(found.st_mode):
            target = _target(snapshot / path)
            if leads_to_model(target) or _HELD_LINK.fullmatch(target):
                yield path, target if leads_to_model(target) else ""


def walk_plain(directory: Path, skip: Sequence[type[OSError]] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Walk a directory that another process may change; yield nothing where it is a link or is not there."""
    if not is_directory(directory):
        return
    with suppress(FileNotFoundError):
        yield from walk(directory, skip=skip)


def _target(link: Path) -> str:
    """Return the target of a link; empty if it has gone or is none any more, as the snapshot has been exchanged."""
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return ""
        raise


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory, sorted; none where it is not there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(directory))
    return []


def is_directory(path: Path) -> bool:
    """Whether this is a directory, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def not_directories(folder: Path, commit: str = "") -> Path | None:
    """Return what stands where a directory of the view belongs, and is none; nothing is written behind a link."""
    inner = ("refs", "snapshots", f"snapshots/{commit}", STATE_NAME)
    places = (folder.parent, folder, *(folder / name for name in inner))
    return next((path for path in places if _is_other_thing(path)), None)


def _is_other_thing(path: Path) -> bool:
    """Whether something that is not a directory stands here; asked in one step, as another process may remove it."""
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
