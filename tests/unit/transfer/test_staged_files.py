"""What `lock` keeps for `sync`: whole before it has its name, found by its hash, never believed unread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelcache.transfer.staged_files import StagedFiles, has_staged, is_staged, staged_path

CONTENT = b"content"
SHA = hashlib.sha256(CONTENT).hexdigest()


def test_a_small_file_is_kept_under_its_hash(tmp_path: Path) -> None:
    """In a staging directory of this model, readable like all of them; nothing else is left beside it."""
    home = tmp_path / "root" / "cached_embedding_models" / "a__b"
    kept = StagedFiles(home)
    assert kept.files() == []
    kept.keep(SHA, CONTENT)
    kept.keep(SHA, CONTENT)
    (file,) = kept.files()
    assert (file.name, file.read_bytes()) == (f"{SHA}.kept", CONTENT)
    staging = file.parent
    assert staging.parent == home.parent / ".cache-models"
    assert staging.name.startswith("a__b~")
    assert len(staging.name) == len("a__b~") + 12
    assert staged_path(staging, SHA) == file
    assert [path.name for path in staging.iterdir()] == [file.name]
    assert home.parent.stat().st_mode & 0o777 == 0o755


def test_each_run_keeps_in_a_directory_of_its_own_and_sees_all(tmp_path: Path) -> None:
    """Two processes never write into one; whoever looks finds what both have, of this model and no other."""
    home = tmp_path / "cached_embedding_models" / "a__b"
    one, two, other = StagedFiles(home), StagedFiles(home), StagedFiles(home.with_name("a__c"))
    one.keep(SHA, CONTENT)
    two.keep("0" * 64, b"")
    other.keep("1" * 64, b"")
    assert one.files() == two.files() == sorted(one.files())
    assert {file.name for file in one.files()} == {f"{SHA}.kept", f"{'0' * 64}.kept"}
    assert len({file.parent for file in one.files()}) == 2


def test_several_files_are_kept_side_by_side(tmp_path: Path) -> None:
    """In the one directory of this run, whatever their bytes."""
    kept = StagedFiles(tmp_path / "cached_embedding_models" / "a__b")
    kept.keep(SHA, CONTENT)
    kept.keep("0" * 64, b"other")
    one, other = kept.files()
    assert one.parent == other.parent
    assert {one.read_bytes(), other.read_bytes()} == {CONTENT, b"other"}


def test_what_cannot_be_kept_is_fetched_again(tmp_path: Path) -> None:
    """A volume that refuses is no reason to fail: a file stands where the directory belongs."""
    (tmp_path / "cached_embedding_models").write_text("")
    kept = StagedFiles(tmp_path / "cached_embedding_models" / "a__b")
    kept.keep(SHA, CONTENT)
    assert kept.files() == []


def test_a_directory_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    """Parts of files do not count."""
    (tmp_path / "x.part").touch()
    assert not has_staged(tmp_path)
    staged_path(tmp_path, SHA).touch()
    assert has_staged(tmp_path)


def test_a_file_is_at_hand_when_its_bytes_are(tmp_path: Path) -> None:
    """Size and hash are of what lies there now; what is no plain file is not waited for."""
    good, bad, pipe = tmp_path / "good", tmp_path / "bad", tmp_path / "pipe"
    good.write_bytes(CONTENT)
    bad.write_bytes(b"CONTENT")
    os.mkfifo(pipe)
    assert is_staged(SHA, len(CONTENT), [tmp_path / "nothing", tmp_path, pipe, bad, good])
    assert not is_staged(SHA, len(CONTENT), [tmp_path / "nothing", tmp_path, pipe, bad])
    assert not is_staged(SHA, len(CONTENT) + 1, [good])
