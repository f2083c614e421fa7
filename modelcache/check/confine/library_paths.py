"""The paths of the libraries of this process: a sandboxed process must be able to read them to load models."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parents[2]
# Python's own folders. Not a whole prefix: pip.conf of a virtual environment may hold a password.
_PREFIX_FOLDERS = ("include", "lib", "lib32", "lib64", "share", "pyvenv.cfg")
# With programs and headers: torch.compile calls the compiler, and ctypes asks /sbin/ldconfig where a library lies.
_SYSTEM_PATHS = """
    /bin /sbin /lib /lib32 /lib64 /usr/bin /usr/sbin /usr/lib /usr/lib32 /usr/lib64 /usr/libexec /usr/include /usr/share
    /usr/local/bin /usr/local/lib /usr/local/lib64 /usr/local/include /usr/local/share
    /nix/store /gnu/store
    /etc/alternatives /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/localtime /etc/timezone /etc/mime.types
    /etc/os-release /etc/debian_version /etc/nsswitch.conf /etc/passwd /etc/group /etc/services /etc/protocols
    /etc/magic /etc/locale.alias
    /etc/ssl/certs /etc/ssl/openssl.cnf /etc/pki/tls/certs /etc/pki/tls/openssl.cnf /etc/pki/ca-trust/extracted
    /sys/devices/system
"""
_SITE_FOLDERS = ("site-packages", "dist-packages")
_MODULE_SUFFIXES = (".py", ".so", ".pyc")
_METADATA_SUFFIXES = (".dist-info", ".egg-info", ".libs")
"""Folders beside packages: their metadata, and the shared objects of their wheels."""
_MAX_DEPTH, _MAX_ENTRIES = 3, 10_000
"""Levels of a namespace package (google.cloud.storage), and entries of a folder, that are scanned."""


def library_paths() -> list[Path]:
    """Return the files and directories of Python and of the libraries of this process.

    These are in Python's prefixes, in the system's folders and on `sys.path`; editable installations are elsewhere.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    linked = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    found = [
        *(Path(path) for path in _SYSTEM_PATHS.split()),
        *(one for prefix in sorted(prefixes) for one in _parts_of_prefix(Path(prefix))),
        *(one for path in linked if os.path.isabs(path) for one in _shared_objects(Path(path))),
        *([Path(sys.executable)] if sys.executable else []),  # may be a link from elsewhere
        *(one for path in sys.path if path for one in _importable(Path(path).absolute())),
        *_imported(list(sys.modules.values())),
        _PACKAGE,
    ]
    return _outermost(map(str, found))


def _parts_of_prefix(prefix: Path) -> Iterator[Path]:
    """Yield Python's own folders, without the scripts that activate a virtual environment: they may set a token."""
    yield from (prefix / name for name in _PREFIX_FOLDERS)
    if not (prefix / "pyvenv.cfg").exists():
        yield prefix / "bin"
        return
    yield from (
        prefix / "bin" / entry.name for entry in _entries(prefix / "bin") if "activate" not in entry.name.lower()
    )


def _outermost(paths: Iterable[str]) -> list[Path]:
    """Return the paths that exist, without those inside another one: each costs a mount and a rule, for every model.

    The target of a symbolic link inside another path stays.
    """
    kept: dict[str, str] = {}
    for path in sorted(set(paths), key=len):
        if os.path.exists(path):
            real = os.path.realpath(path)
            above = (path[:end] for end, letter in enumerate(path) if letter == "/" and end)
            if not any(f"{kept[one]}{path[len(one) :]}" == real for one in above if one in kept):
                kept[path] = real
    return [Path(path) for path in kept]


def _importable(place: Path) -> Iterator[Path]:
    """Yield an entry of `sys.path`; of a folder that is no site-packages, as a project's own, only importable files."""
    if place.is_dir() and place.name not in _SITE_FOLDERS and place.suffix != ".egg":
        yield from _modules_in(place)
        return
    yield place
    for entry in _entries(place):
        path = place / entry.name
        if entry.is_symlink():
            yield path
        elif path.suffix == ".dist-info" and (path / "METADATA").is_symlink():  # into a cache, as `uv` may have them
            yield from _modules_in(Path(os.path.realpath(path / "METADATA")).parent.parent)


def _modules_in(place: Path) -> Iterator[Path]:
    """Yield the modules and packages of a folder, and their metadata."""
    for entry in _entries(place):
        path, end = place / entry.name, os.path.splitext(entry.name)[1]
        if end in _METADATA_SUFFIXES or (end in _MODULE_SUFFIXES and entry.is_file()):
            yield path
        elif entry.name.isidentifier() and entry.is_dir():
            yield from _packages(path)


def _shared_objects(folder: Path) -> Iterator[Path]:
    """Yield the shared objects of an entry of LD_LIBRARY_PATH, which may be any directory."""
    yield from (folder / one.name for one in _entries(folder) if one.name.endswith(".so") or ".so." in one.name)


def _packages(folder: Path, depth: int = 1) -> Iterator[Path]:
    """Yield a folder that is a package, or the packages in it: a namespace package has several (PEP 420)."""
    entries = _entries(folder)
    if any(entry.name.endswith(_MODULE_SUFFIXES) if depth == 1 else entry.name == "__init__.py" for entry in entries):
        yield folder
    elif depth < _MAX_DEPTH:
        for entry in entries:
            if entry.name.isidentifier() and entry.is_dir(follow_symlinks=False):
                yield from _packages(folder / entry.name, depth + 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, _MAX_ENTRIES))
    except OSError:
        return []


def _imported(modules: Iterable[ModuleType]) -> Iterator[Path]:
    """Yield the directories of imported packages, and the files of single modules.

    Of an editable installation also what is not imported yet: setuptools has a module with its paths.
    """
    for module in modules:
        name = getattr(module, "__name__", "")
        if name.startswith("__editable__"):
            for path in getattr(module, "MAPPING", {}).values():
                yield from (Path(path), Path(f"{path}.py"))
        if "." in name or name == "__main__":
            continue
        folders = [path for path in getattr(module, "__path__", ()) if isinstance(path, str)]
        file = getattr(module, "__file__", None)
        places = folders or ([file] if isinstance(file, str) else [])
        yield from (Path(place) for place in places if os.path.isabs(place))
