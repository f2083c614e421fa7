"""Ways to wrong bytes, or to a wrong pin, that were found by attacking: equal files, several runs, several locks."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelcache.core.errors import StorageError
from modelcache.sources.directory import DirectoryRepository
from tests.conftest import EMBEDDING, RERANKER, Tool, files_below
from tests.support import tiny
from tests.support.hub import Slow, StandInHub
from tests.support.hub.content import Content
from tests.support.hub.wire import Delivery

RECEIPT = ".cache-models.json"
WEIGHTS = "model.safetensors"


def assert_right(tool: Tool, source: dict[str, bytes]) -> None:
    """Check each published byte that a repository has under the same name."""
    published = files_below(tool.home(EMBEDDING))
    assert [path for path, data in published.items() if path in source and data != source[path]] == []


class Wait:
    """An answer that begins late, with other bytes if asked for."""

    def __init__(self, seconds: float, *, other: bool) -> None:
        self.seconds = seconds
        self.other = other

    def bend(self, delivery: Delivery) -> Delivery:
        """Wait, and change each byte."""
        time.sleep(self.seconds)
        content = delivery.answer.content
        data = content.source if isinstance(content.source, bytes) else content.source.read_bytes()
        changed = Content(bytes(byte ^ 1 for byte in data)) if self.other else content
        return replace(delivery, answer=replace(delivery.answer, content=changed))


@pytest.mark.parametrize("server", ["an honest server", "one wrong answer"])
def test_a_file_that_is_shipped_and_also_made_into_another_one(
    hub: StandInHub, tool: Tool, tmp_path: Path, server: str
) -> None:
    """The original of a rewritten configuration has the bytes of a plain file: both come, each to its own inode."""
    source = files_below(tiny.tiny_embedding(tmp_path / "embedding"))
    named = {**json.loads(source["config.json"]), "auto_map": {"AutoModel": "other/impl--modeling_x.X"}}
    source["config.json"] = source["config.old.json"] = json.dumps(named).encode()
    hub.add("other/impl", {"modeling_x.py": b"import torch\n\n\nclass X:\n    pass\n"})
    hub.add(EMBEDDING, source)
    tool.want(EMBEDDING, extra="trust_remote_code = true\n")
    assert tool("lock").exit_code == 0
    if server == "one wrong answer":
        hub.fail(Wait(0.6, other=True), on=r"resolve/[0-9a-f]+/config\.json")
        hub.fail(Wait(0.2, other=False), on=r"resolve/[0-9a-f]+/config\.old\.json")
    ran = tool("sync", "--locked")
    assert ran.exit_code == 0, ran.err
    assert tool("verify").exit_code == 0
    del source["config.json"]  # which is rewritten
    assert_right(tool, source)


def test_damage_that_status_found_is_mended(pair: Tool, tmp_path: Path) -> None:
    """A file is replaced, size and time as before: `status` sees it by the stamp, and the next `sync` still does."""
    assert pair("sync").exit_code == 0
    weights = pair.home(EMBEDDING) / WEIGHTS
    other = tmp_path / "other"
    other.write_bytes(bytes([*weights.read_bytes()[:-1], 77]))
    shutil.copystat(weights, other)
    os.replace(other, weights)
    folder = weights.parent
    os.utime(folder, ns=(0, 315532800 * 10**9))
    assert "damaged" in pair("status").out
    assert pair("sync").exit_code == 0
    assert pair("verify").exit_code == 0


def test_files_of_another_version_are_not_believed_under_a_new_receipt(
    hub: StandInHub, pair: Tool, tmp_path: Path
) -> None:
    """A copy by size and time (rsync) brings receipt and small files, and leaves weights of the same size behind."""
    assert pair("sync").exit_code == 0
    source = tmp_path / "embedding"
    weights = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (source / "README.md").write_bytes(b"# the second version\n")
    hub.add(EMBEDDING, files_below(source), licence="mit")
    assert pair("lock", "--upgrade").exit_code == 0
    assert pair("sync", "--root", str(tmp_path / "second")).exit_code == 0
    newer = tmp_path / "second" / "cached_embedding_models" / pair.home(EMBEDDING).name
    for name in ("README.md", RECEIPT):
        (pair.home(EMBEDDING) / name).unlink()
        shutil.copy2(newer / name, pair.home(EMBEDDING) / name)
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    assert pair("verify").exit_code == 0


def until(there: Callable[[], bool]) -> None:
    """Wait for something that has to come."""
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_a_model_that_another_lock_replaced_meanwhile_is_told(hub: StandInHub, pair: Tool, tmp_path: Path) -> None:
    """It was in place at the beginning; when the others have come it holds other bytes: exit 1, not "ready"."""
    assert pair("lock").exit_code == 0
    assert pair("sync", EMBEDDING).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    source = tmp_path / "embedding"
    (source / "README.md").write_bytes(b"# the second version\n")
    hub.add(EMBEDDING, files_below(source), licence="mit")
    (other / "models.toml").write_text(f'[[embedding]]\nid = "{EMBEDDING}"\n')
    assert pair("lock", "--manifest", str(other / "models.toml")).exit_code == 0
    hub.fail(Slow(40_000), on=f"GET cdn {RERANKER}/", times=-1)
    hub.forget()
    with pair.process("sync", "--locked") as run:
        until(lambda: any(request.host == "cdn" for request in hub.requests))
        words = ("--manifest", str(other / "models.toml"), "--root", str(pair.folder))
        assert pair("sync", *words).exit_code == 0
        _, told = run.communicate(timeout=60)
    assert run.returncode == 1, told
    assert EMBEDDING in told
    assert "hint: Runs with different locks may share this root: give each lock a root of its own." in told


def test_a_lock_that_came_meanwhile_is_left_alone(hub: StandInHub, pair: Tool) -> None:
    """A run that began without one pins what it fetched, but not over a lock that somebody else has brought."""
    assert pair("lock").exit_code == 0
    lock = pair.folder / "models.lock"
    brought = lock.read_bytes().replace(b'revision = "main"', b'revision = "other"')
    lock.unlink()
    hub.fail(Slow(60_000), on="GET cdn", times=-1)
    hub.forget()
    with pair.process("sync") as run:
        until(lambda: any(request.host == "cdn" and request.file == WEIGHTS for request in hub.requests))
        lock.write_bytes(brought)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 0, told
    assert "has changed meanwhile" in told
    assert lock.read_bytes() == brought


def test_a_receipt_pins_nothing_into_a_lock_that_is_there(hub: StandInHub, pair: Tool, tmp_path: Path) -> None:
    """A model that the lock does not name is kept where it lies; its receipt may have been put there by anybody."""
    pair.want(rerankers=(RERANKER,))
    assert pair("lock").exit_code == 0
    before = (pair.folder / "models.lock").read_bytes()
    planted = tmp_path / "planted"
    pair.want(EMBEDDING)
    assert pair("sync", "--root", str(planted), "--lockfile", str(tmp_path / "its.lock")).exit_code == 0
    shutil.move(planted / "cached_embedding_models", pair.folder / "cached_embedding_models")
    pair.want(EMBEDDING, rerankers=(RERANKER,))
    ran = pair("sync")
    assert ran.exit_code == 0, ran.err
    assert re.search(f"^  unpinned {EMBEDDING} ", ran.err, re.MULTILINE)
    assert (pair.folder / "models.lock").read_bytes() == before


def test_a_directory_that_changes_while_it_is_pinned(tmp_path: Path) -> None:
    """Bytes that were judged are the bytes that are pinned."""
    folder = tiny.tiny_embedding(tmp_path / "model")
    repository = DirectoryRepository("house/model", folder)
    config = repository.files["config.json"]
    content = repository.read(config)
    (folder / "config.json").write_bytes(content.replace(b"{", b"[", 1))
    with pytest.raises(StorageError, match=re.escape(str(folder / "config.json"))):
        repository.pin(config)
    (folder / "vocab.txt").write_bytes(b"longer than listed" * 1000)
    with pytest.raises(StorageError, match=re.escape(str(folder / "vocab.txt"))):
        repository.pin(repository.files["vocab.txt"])
