"""Lines of SECURITY.md that no other test tries to break."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from modelcache.cli.parser import COMMANDS
from modelcache.system.remove_tree import temporary_directory
from tests.conftest import PROJECT, Tool
from tests.support.hub import StandInHub
from tests.support.hub.wire import Delivery, Ending

PIECE = bytes(1 << 20)
SECRET = re.compile("token|password|passwd|secret|login|credential|auth|key", re.IGNORECASE)


@dataclass(frozen=True)
class Endless:
    """The true body, with or without its length, and then a megabyte after the other."""

    told: bool

    def bend(self, delivery: Delivery) -> Delivery:
        """Go on until the client goes away."""
        dropped = frozenset() if self.told else frozenset({"content-length"})
        return replace(delivery, dropped=dropped, again=PIECE, ending=Ending.HOLD)


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "without a length"])
def test_a_body_without_end_fills_no_disk(hub: StandInHub, pair: Tool, told: bool) -> None:
    """Of a file no more is written than its pin has, and these bytes are right."""
    assert pair("lock").exit_code == 0
    hub.fail(Endless(told), on="GET cdn", times=-1)
    limits = ["prlimit", f"--fsize={8 << 20}"]  # a larger file would be "File too large", exit 4
    ran = subprocess.run(
        [*limits, sys.executable, PROJECT / "cache_models.py", "sync", "--timeout=1", "--retries=1"],
        cwd=pair.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert any(request.host == "cdn" and request.file == "model.safetensors" for request in hub.requests)
    assert pair("verify").exit_code == 0
    largest = max(path.stat().st_size for path in pair.folder.rglob("*") if path.is_file())
    assert largest < len(PIECE), "it has written what no pin names"


def test_no_option_takes_a_secret() -> None:
    """Every user of a machine sees the arguments of every process."""
    ran = subprocess.run(
        [sys.executable, PROJECT / "cache_models.py", "help"], capture_output=True, text=True, check=True
    )
    shown = ran.stdout
    for command in COMMANDS:
        words = [sys.executable, str(PROJECT / "cache_models.py"), "help", command]
        shown += subprocess.run(words, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", shown))
    assert {"--root", "--insecure", "--upgrade", "--base"} <= options
    assert [option for option in sorted(options) if SECRET.search(option)] == []


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_temporary_directories_are_of_their_user_alone(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a TMPDIR that all share nobody else reads or changes what a command converts there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = os.umask(umask)
    try:
        with temporary_directory() as folder:
            assert folder.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o700
            assert folder.stat().st_uid == os.getuid()
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []
