"""The paths that a sandboxed process may read: all that Python imports, and nothing of a project beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

from modelcache.check.confine import library_paths
from tests.support.sandboxed import WITH_AND_WITHOUT_NAMESPACES, said_by


def test_of_a_project_on_the_path_only_modules_are_shown(tmp_path: Path) -> None:
    """`PYTHONPATH=.` in a repository with a .env, a .git and models beside the code."""
    for folder in ("package", ".git", "cached_embedding_models/one", "data", "tool-1.0.dist-info"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "module.py",
        "package/__init__.py",
        ".env",
        "secrets.json",
        ".git/config.py",
        "data/x.json",
        "native.so",
    ):
        (tmp_path / file).touch()
    shown = {path.name for path in library_paths._importable(tmp_path)}
    assert shown == {"module.py", "package", "native.so", "tool-1.0.dist-info"}


def test_of_a_namespace_package_only_packages_are_shown(tmp_path: Path) -> None:
    """It has no file of its own and may be spread over several places (PEP 420), with other things around."""
    for file in ("spread/over/many/__init__.py", "spread/.env", "spread/models/one/modeling.py", "a.b/c/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert list(library_paths._importable(tmp_path)) == [tmp_path / "spread/over/many"]


def test_installed_packages_may_be_links(tmp_path: Path) -> None:
    """`flit install --symlink` links a package, `uv --link-mode=symlink` each file of one."""
    site, cache = tmp_path / "site-packages", tmp_path / "cache/one"
    for folder in (site / "one-1.dist-info", cache / "one-1.dist-info", cache / "one", tmp_path / "project/two"):
        folder.mkdir(parents=True)
    for file in (cache / "one-1.dist-info/METADATA", cache / "one/__init__.py", cache / "secret"):
        file.touch()
    (site / "two").symlink_to(tmp_path / "project/two")
    (site / "one-1.dist-info/METADATA").symlink_to(cache / "one-1.dist-info/METADATA")
    assert sorted(library_paths._importable(site)) == sorted(
        [site, site / "two", cache / "one", cache / "one-1.dist-info"]
    )


def test_of_libraries_within_libraries_only_the_outermost_are_shown(tmp_path: Path) -> None:
    """Each costs a mount for every model; another one is behind each symbolic link, and must stay."""
    for folder in ("lib/one/two", "elsewhere/three"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lib/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "library").touch()
    names = ("lib/one/two", "lib/one", "lib", "lib/link", "lib/link/three", "library", "absent")
    shown = library_paths._outermost(str(tmp_path / name) for name in names)
    assert sorted(shown) == [tmp_path / "lib", tmp_path / "lib/link", tmp_path / "library"]


def test_an_editable_installation_is_shown_before_it_is_imported() -> None:
    """Its folder is on no path: a finder of setuptools knows where it is."""
    finder = ModuleType("__editable___one_1_finder")
    finder.__dict__["MAPPING"] = {"one": "/project/one", "single": "/project/single"}
    shown = set(library_paths._imported([finder]))
    assert {Path("/project/one"), Path("/project/single.py")} <= shown


@WITH_AND_WITHOUT_NAMESPACES
def test_what_was_not_imported_yet_can_be(tmp_path: Path, namespaces: bool) -> None:
    """Python lists the places on its path; of a project's own only parts are shown."""
    for file in ("place/package/__init__.py", "place/spread/one/__init__.py", "place/one-1.dist-info/METADATA"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("Version: 1" if file.endswith("METADATA") else "")
    said = said_by(
        "import importlib\n"
        "from importlib import metadata\n"
        "names = ['package', 'spread.one']\n"
        "said['imported'] = asked(lambda: [importlib.import_module(name).__name__ for name in names])\n"
        "said['version'] = asked(lambda: metadata.version('one'))\n",
        tmp_path,
        namespaces=namespaces,
        env={"PYTHONPATH": str(tmp_path / "place")},
    )
    assert said == {"imported": ["package", "spread.one"], "version": "1"}


def test_a_virtual_environment_shows_no_settings_of_pip() -> None:
    """pip.conf beside its libraries may hold the password of an index."""
    shown = library_paths.library_paths()
    assert not any(Path(sys.prefix, "pip.conf").is_relative_to(path) for path in shown)
    assert not any(Path(sys.prefix, "bin/activate").is_relative_to(path) for path in shown)
    assert any(Path(os.__file__).is_relative_to(path) for path in shown)
