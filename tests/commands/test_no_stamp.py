"""`sync --no-stamp`, for image builds: two roots of equal models differ in no name, no byte and no time."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cache_models
from modelcache.core.names import PUBLISHED_MTIME
from modelcache.stamp import STAMP_NAME
from modelcache.store.layout import DIGESTS_NAME
from tests.commands.test_damage import as_user
from tests.conftest import EMBEDDING, Tool
from tests.support.published_model import pinned, published


def times(root: Path) -> dict[Path, float]:
    """The mtime of a root and of everything below it, links included."""
    return {path.relative_to(root): path.lstat().st_mtime for path in (root, *root.rglob("*"))}


def test_roots_of_equal_models_are_equal(pair: Tool) -> None:
    """Filled before, filled by that run, or copied from another root; notes from before go, and may come back."""
    root, copy = pair.folder.parent / "root", pair.folder.parent / "copy"
    pair("sync", "--root", str(root))
    assert (root / STAMP_NAME).exists()
    assert pair("sync", "--root", str(root), "--no-stamp", "--dry-run").exit_code == 0
    assert (root / STAMP_NAME).exists()
    for words in ([], [EMBEDDING]):
        (root / f"{STAMP_NAME}.new").touch()
        (root / DIGESTS_NAME).touch()  # as a push leaves it
        assert pair("sync", "--root", str(root), "--no-stamp", *words).exit_code == 0
        assert not [*root.glob(f"{STAMP_NAME}*"), *root.glob(f"{DIGESTS_NAME}*")]
        assert set(times(root).values()) == {PUBLISHED_MTIME}
    assert pair("sync", "--root", str(copy), "--no-stamp", "--from", str(root)).exit_code == 0
    assert times(copy) == times(root)
    pair("sync", "--root", str(root))
    assert (root / STAMP_NAME).exists()


def test_a_lock_that_is_written_into_the_root_moves_no_time(pair: Tool) -> None:
    """The root is the current directory: the lock is written there, and then the time is set."""
    assert pair("sync", "--no-stamp").exit_code == 0
    assert (pair.folder / "models.lock").exists()
    assert pair.folder.stat().st_mtime == PUBLISHED_MTIME


def test_nothing_wanted_makes_nothing(tool: Tool) -> None:
    """A manifest without a model, and a root that is not there."""
    tool.want()
    assert tool("sync", "--no-stamp", "--root", "absent").exit_code == 0
    assert not (tool.folder / "absent").exists()


def test_a_root_of_another_user_keeps_its_time_and_that_is_said() -> None:
    """The models are in place; the layer of that root would differ in every build."""
    with TemporaryDirectory() as folder:  # any user can reach it, unlike those of pytest
        root = Path(folder)
        published(root).parent.chmod(0o777)
        root.chmod(0o777)
        manifest, said = root / "models.toml", root / "said"
        manifest.write_text(f'[[embedding]]\nid = "{pinned().id}"\n')
        before = root.stat().st_mtime

        def sync() -> bool:
            with said.open("w") as sys.stderr:
                return cache_models.main(["sync", "--no-stamp", "--manifest", str(manifest), "--root", folder]) == 0

        assert as_user(10002, sync)
        assert f"warning  the mtime of {root} cannot be set (Operation not permitted)" in said.read_text()
        assert root.stat().st_mtime >= before > PUBLISHED_MTIME
