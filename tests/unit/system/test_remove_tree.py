"""Removing directories: of any depth, whatever their modes, and nothing beside them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelcache.system.remove_tree import remove_tree
from tests.conftest import PROJECT

DEPTH = 1500


def dig(folder: Path, depth: int, mode: int = 0o755) -> None:
    """Make directories, one in another, each with a file and a link to what must stay."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        os.symlink(folder.parent / "stays", "link", dir_fd=fd)
        os.mkdir("below", dir_fd=fd)
        below = os.open("below", os.O_RDONLY, dir_fd=fd)
        os.fchmod(fd, mode)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory beside another one that must stay."""
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "file").touch()
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.mark.parametrize("depth", [0, 1, 10, DEPTH])
def test_a_directory_of_any_depth_is_removed(tree: Path, depth: int) -> None:
    """Deeper than Python calls, longer than a path may be, more than there are descriptors; no link is followed."""
    dig(tree, depth)
    remove_tree(tree)
    assert sorted(tree.parent.rglob("*")) == [tree.parent / "stays", tree.parent / "stays" / "file"]


def test_few_descriptors_are_enough(tree: Path) -> None:
    """One for the top, one for the directory that is emptied, one to read it."""
    dig(tree, 100)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 4
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        remove_tree(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not tree.exists()


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o555])
def test_a_directory_that_its_owner_may_not_change_is_removed(mode: int) -> None:
    """What a model left in the scratch is removed, whatever modes it chose; root is asked for none."""
    program = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from modelcache.system.remove_tree import remove_tree
from tests.unit.system.test_remove_tree import dig
if os.getuid() == 0:
    os.setgid(61999)
    os.setuid(61999)
tree = Path(sys.argv[2]) / "tree"
tree.mkdir()
dig(tree, 5, int(sys.argv[3]))
remove_tree(tree)
assert not tree.exists()
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        words = [sys.executable, "-c", program, str(PROJECT), folder, str(mode)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_is_no_directory_is_left_alone(tree: Path) -> None:
    """A link to one is none; and nothing is nothing."""
    link = tree / "link"
    link.symlink_to(tree.parent / "stays")
    remove_tree(link)
    remove_tree(tree / "absent")
    assert (tree.parent / "stays" / "file").exists()
