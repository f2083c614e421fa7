"""Promises 5 and 6 as counts: what a start reads, imports, asks and holds in memory. Counts do not flicker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benches.rounds import TOOL, run
from tests.conftest import EMBEDDING, PROJECT, Tool
from tests.support import tiny
from tests.support.hub import StandInHub

MOST = 5
FEW = {"cache_models", "modelcache", "modelcache.fastpath", "modelcache.stamp"}


def imported(tool: Tool, *words: str) -> set[str]:
    """The modules that a run imports, beyond those of a bare interpreter."""
    show = "import sys; before = set(sys.modules)\ntry:\n import cache_models; cache_models.main(sys.argv[1:])\n"
    show += "finally: print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run(
        [sys.executable, "-c", show, *words],
        cwd=tool.folder,
        env={"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.split())


def test_the_second_start_imports_little(pair: Tool) -> None:
    """Of ours two small modules; nothing that is not in the standard library; no argparse, no TOML, no pathlib."""
    pair("sync")
    seen = imported(pair)
    assert {name for name in seen if name.partition(".")[0] not in sys.stdlib_module_names} == FEW
    assert not seen & {"argparse", "tomllib", "pathlib", "dataclasses", "typing", "ssl", "socket", "logging"}


def test_the_second_start_is_counted(pair: Tool, hub: StandInHub) -> None:
    """The guard of `scripts/bench quiet`: no request, no byte given to the disk, a handful of modules."""
    pair("sync")
    again = [sys.executable, TOOL, "--quiet"]
    run(again, pair.folder, {"HF_ENDPOINT": hub.url})  # in a new checkout Python writes down what it compiled
    hub.forget()
    ran = run(again, pair.folder, {"HF_ENDPOINT": hub.url})
    assert (len(hub.requests), ran.written) == (0, 0)
    assert len(imported(pair)) <= MOST


def test_the_second_start_writes_nothing(pair: Tool) -> None:
    """No file below the root is new, changed or touched."""
    pair("sync")
    before = {path: path.lstat().st_ctime_ns for path in pair.folder.rglob("*")}
    assert pair("sync").exit_code == 0
    assert {path: path.lstat().st_ctime_ns for path in pair.folder.rglob("*")} == before


@pytest.mark.parametrize("words", [(), ("sync",), ("--locked",), ("--jobs=3",), ("--log-format", "text")])
def test_every_plain_form_is_quiet(pair: Tool, hub: StandInHub, words: tuple[str, ...]) -> None:
    """However it is asked for, a sync that has nothing to do makes no request and says one line."""
    pair("lock")
    assert pair(*words).exit_code == 0
    hub.close()
    ran = pair.run(*words)
    assert (ran.exit_code, ran.out) == (0, "")
    assert ran.err == f"2 models ready in {pair.folder}: unchanged.\n"


@pytest.mark.parametrize(
    "change",
    [
        "rm models.lock",
        "echo >> models.toml",
        "rm -r cached_reranker_models",
        "touch {home}/config.json",
        "rm {home}/LICENSE",
        "touch {home}/more",
        "mkdir {home}/1_Pooling/more",
        "echo >> {home}/config.json",
        "cp -a {home} x; mv {home} y; mv x {home}",
        "cp -a {home}/config.json x; mv x {home}/config.json; touch -d @315532800 {home}",
        "mv {home} x; cp -r x {home}",
        "echo '{{' > .cache-models.stamp",
        "echo '{{\"key\": 1}}' > .cache-models.stamp",
    ],
)
def test_any_change_is_looked_at(pair: Tool, change: str) -> None:
    """Whatever touches manifest, lock or model makes the next run look closer, and end with 0."""
    from modelcache.fastpath import is_quiet_start

    pair("sync")
    assert is_quiet_start([], {})
    subprocess.run(change.format(home=pair.home(EMBEDDING)), shell=True, cwd=pair.folder, check=True)
    assert not is_quiet_start([], {})
    ran = pair("sync")
    assert (ran.exit_code, pair("verify").exit_code) == (0, 0), ran.err


def flipped(path: Path) -> None:
    """Change one byte in place and put the times back: only a run that reads the file finds it."""
    before = path.stat()
    with path.open("r+b") as file:
        last = file.read()[-1]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written; reading it may change its atime."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def test_a_chown_of_everything_keeps_the_next_start_quiet(pair: Tool, hub: StandInHub) -> None:
    """A kubelet gives a volume to fsGroup at each start: no file is read for that, and no note is written."""
    pair("sync")
    hub.close()
    note = written(pair.folder / ".cache-models.stamp")
    for path in pair.folder.glob("cached_*_models/**/*"):
        os.chown(path, os.geteuid(), os.getegid())
        path.chmod(path.stat().st_mode | 0o060)
    flipped(pair.home(EMBEDDING) / "model.safetensors")
    assert pair("sync").err.endswith("unchanged.\n")
    assert pair("sync", EMBEDDING).err.endswith("unchanged.\n")  # the long way follows the same rule
    assert written(pair.folder / ".cache-models.stamp") == note
    assert pair("verify").exit_code == 1


def test_a_copy_is_read_once(pair: Tool, hub: StandInHub) -> None:
    """Inode and ctime both moved, so every file is read, and the next start is quiet again."""
    from modelcache.fastpath import is_quiet_start

    pair("sync")
    home = pair.home(EMBEDDING)
    subprocess.run(f"cp -a {home} x; mv {home} y; mv x {home}", shell=True, cwd=pair.folder, check=True)
    assert not is_quiet_start([], {})
    hub.forget()
    assert pair("sync").err.endswith("unchanged.\n")
    assert hub.requests == []
    assert is_quiet_start([], {})
    subprocess.run(f"cp -a {home} x; rm -r y; mv {home} y; mv x {home}", shell=True, cwd=pair.folder, check=True)
    flipped(home / "model.safetensors")
    assert "1 replaced" in pair("sync").err
    assert pair("verify").exit_code == 0


def test_memory_stays_flat(hub: StandInHub, tool: Tool, tmp_path: Path) -> None:
    """A model of 400 MB is fetched in less than 64 MiB; `scripts/bench cold` shows the same for 1.1 GB."""
    hub.add("org/big", tiny.big_embedding(tmp_path / "big", 400, sparse=True))
    tool.want("org/big")
    assert run([sys.executable, TOOL], tool.folder, os.environ).peak < 64 << 20
    assert (tool.home("org/big") / "model.safetensors").stat().st_size > 390_000_000


@pytest.mark.parametrize(
    "words", ["sync --jobs 2", "sync --locked --no-stamp", "status --json", "lock --check", "lock"]
)
def test_a_run_without_a_request_imports_nothing_to_ask_with(pair: Tool, words: str) -> None:
    """No HTTP client, no YAML of model cards, no library of reports."""
    pair("sync")
    seen = {name.partition(".")[0] for name in imported(pair, *words.split())}
    assert not seen & {"urllib3", "huggingface_hub", "ssl", "yaml", "cyclonedx", "packageurl", "tomlkit", "tqdm"}
    assert "modelcache" in seen
