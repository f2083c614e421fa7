"""Where the libraries of this process lie: what a process must be able to read that is to load models with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

_OURSELVES = Path(__file__).resolve().parent
# Python's own folders. Not the whole of a prefix: a virtual environment's pip.conf may hold a password.
_OF_A_PREFIX = ("bin", "lib", "lib32", "lib64", "share", "pyvenv.cfg")
_OF_THE_SYSTEM = """
    /bin /lib /lib32 /lib64 /usr/bin /usr/lib /usr/lib32 /usr/lib64 /usr/share /usr/local/lib /usr/local/share
    /nix/store /gnu/store
    /etc/alternatives /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/localtime /etc/timezone /etc/mime.types
    /etc/os-release /etc/debian_version /etc/nsswitch.conf /etc/passwd /etc/group /etc/magic
    /etc/ssl/certs /etc/ssl/openssl.cnf /etc/pki/tls/certs /etc/pki/tls/openssl.cnf /etc/pki/ca-trust/extracted
    /sys/devices/system
"""
_INSTALLED = ("site-packages", "dist-packages")
_MODULES = (".py", ".so", ".pyc")
_METADATA = (".dist-info", ".egg-info")


def library_paths() -> list[Path]:
    """Return the files and directories that Python and the libraries of this process are made of.

    That is what Python's own prefixes and the system have for it, what lies on `sys.path`, and what was imported from
    elsewhere, as an editable installation is.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    linked = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [
        *(Path(path) for path in _OF_THE_SYSTEM.split()),
        *(Path(prefix) / name for prefix in sorted(prefixes) for name in _OF_A_PREFIX),
        *(one for path in linked if os.path.isabs(path) for one in _shared_objects(Path(path))),
        *(one for path in sys.path if path for one in _importable(Path(path).absolute())),
        *_imported(list(sys.modules.values())),
        _OURSELVES,
    ]


def _importable(place: Path) -> Iterator[Path]:
    """Yield a place of `sys.path`; of a folder that installs nothing, as a project's own, only what can be imported."""
    if place.name in _INSTALLED or not place.is_dir():
        yield place
        return
    try:
        with os.scandir(place) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        name, end = os.path.splitext(entry.name)
        package = name.isidentifier() and not end and entry.is_dir() and _is_package(place / entry.name)
        if package or end in _METADATA or (end in _MODULES and entry.is_file()):
            yield place / entry.name


def _shared_objects(folder: Path) -> Iterator[Path]:
    """Yield the libraries of a place of LD_LIBRARY_PATH, which may be any directory."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    yield from (folder / name for name in names if name.endswith(".so") or ".so." in name)


def _is_package(folder: Path) -> bool:
    try:
        return any(name.endswith(_MODULES) for name in os.listdir(folder))
    except OSError:
        return False


def _imported(modules: Iterable[ModuleType]) -> Iterator[Path]:
    """Yield the directories of the packages that were imported, and the files of single modules."""
    for module in modules:
        name = getattr(module, "__name__", "")
        if "." in name or name == "__main__":
            continue
        folders = [path for path in getattr(module, "__path__", ()) if isinstance(path, str)]
        file = getattr(module, "__file__", None)
        places = folders or ([file] if isinstance(file, str) else [])
        yield from (Path(place) for place in places if os.path.isabs(place))
