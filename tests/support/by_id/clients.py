"""What an application that is online, and a person who cleans the cache, do to the view, and what they do not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT, Tool, files_below
from tests.support import tiny
from tests.support.by_id.applications import PLAIN, RERANKER
from tests.support.by_id.outputs import environment, variables
from tests.support.hub import StandInHub

_CLIENT = Path(__file__).with_name("client.py")
_SCAN = """
import json, huggingface_hub
found = huggingface_hub.scan_cache_dir()
print(json.dumps([sorted(repo.repo_id for repo in found.repos), [str(warning) for warning in found.warnings]]))
"""
_PATH = f"""
import huggingface_hub
print(huggingface_hub.snapshot_download("{PLAIN}"))
"""
_DELETE = """
import sys, huggingface_hub
huggingface_hub.scan_cache_dir().delete_revisions(sys.argv[1]).execute()
"""


def try_a_client_that_writes(python: Path, hub: StandInHub, tool: Tool, made: Path) -> None:
    """Download into the view while it is in use, and see that the model is as it was and the downloads stay."""
    files = files_below(tiny.tiny_embedding(made / "model")) | {"onnx/model.onnx": b"onnx"}
    hub.add(RERANKER, tiny.tiny_reranker(made / "reranker"))
    pinned = hub.add(PLAIN, files)
    other = hub.add(PLAIN, files | {"config.json": files["config.json"] + b"\n"}, branch="next")
    tool.want(PLAIN, rerankers=(RERANKER,))
    _sync(tool)
    view = tool.folder / "hub" / "models--org--plain"
    snapshot = view / "snapshots" / pinned
    before = _exactly(tool.home(PLAIN))

    said = _downloaded(python, hub, tool.folder, made)
    assert said == {
        "a file that the view has": str(snapshot / "config.json"),
        "the same anew": str(snapshot / "config.json"),
        "weights anew": str(snapshot / "model.safetensors"),
        "a file that the view has not": str(snapshot / "onnx" / "model.onnx"),
        "a file that the repository has not": said["a file that the repository has not"],
        "another branch": str(view / "snapshots" / other / "config.json"),
        "everything": str(snapshot),
        "everything anew": str(snapshot),
        "everything of another branch": str(view / "snapshots" / other),
    }
    assert said["a file that the repository has not"].endswith("EntryNotFoundError")
    newest = hub.add(PLAIN, files | {"1_Pooling/note.txt": b"of another commit"})
    assert _downloaded(python, hub, tool.folder, made)["everything"] == str(view / "snapshots" / newest)
    assert (view / "refs" / "main").read_text() == newest
    assert _exactly(tool.home(PLAIN)) == before
    written = _foreign(tool.folder / "hub", before, pinned)
    assert {path.parts[1] for path in written if path.parts[0] == view.name} >= {"blobs", "refs", "snapshots"}
    assert any(path.parts[0] == ".locks" for path in written)
    # `verify` says this of a model whose files are all as they are pinned.
    assert f"{PLAIN} has a Hub view that does not match its pin" in tool("verify").err

    _sync(tool)
    assert _exactly(tool.home(PLAIN)) == before
    assert (view / "refs" / "main").read_text() == pinned
    assert {(snapshot / name).resolve() for name in files if name in before} == {
        tool.home(PLAIN) / name for name in files if name in before
    }
    assert _foreign(tool.folder / "hub", before, pinned) == written
    assert tool("verify").exit_code == 0
    assert scanned(python, tool.folder) == [[RERANKER, PLAIN], []]

    tool.want(rerankers=(RERANKER,))
    assert tool("lock").exit_code == 0
    assert tool("prune").exit_code == 0
    assert not tool.home(PLAIN).exists()
    assert _foreign(tool.folder / "hub", before, pinned) == written
    assert scanned(python, tool.folder) == [[RERANKER, PLAIN], []]


def try_deleting(python: Path, hub: StandInHub, tool: Tool, made: Path) -> None:
    """Delete the pinned commit with Hugging Face's own command, alone and beside another commit."""
    files = files_below(tiny.tiny_embedding(made / "model"))
    pinned = hub.add(PLAIN, files)
    hub.add(PLAIN, files | {"config.json": files["config.json"] + b"\n"}, branch="next")
    tool.want(PLAIN)
    _sync(tool)
    before = _exactly(tool.home(PLAIN))
    run_in_view(python, tool.folder, made, "-c", _DELETE, pinned)
    assert not (tool.folder / "hub" / "models--org--plain").exists()
    assert _exactly(tool.home(PLAIN)) == before
    _sync(tool)
    assert scanned(python, tool.folder) == [[PLAIN], []]

    # Beside another one it deletes the file that a link points to, which it takes for a blob.
    _downloaded(python, hub, tool.folder, made)
    run_in_view(python, tool.folder, made, "-c", _DELETE, pinned)
    assert tool("verify").exit_code == 1
    _sync(tool)
    assert tool("verify").exit_code == 0
    assert files_below(tool.home(PLAIN)) == {name: entry[0] for name, entry in before.items()}


def scanned(python: Path, root: Path) -> Any:
    """Return the repositories that scan_cache_dir finds in the view, and its warnings."""
    return json.loads(run_in_view(python, root, root, "-c", _SCAN))


def found_by_hf_home(python: Path, root: Path, home: Path) -> Path:
    """Return where a model is found if HF_HOME says where the cache is, and HF_HUB_CACHE does not."""
    env = {**environment(home), "HF_HOME": str(root), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([python, "-c", _PATH], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return Path(ran.stdout.strip())


def _sync(tool: Tool) -> None:
    ran = tool("sync")
    assert ran.exit_code == 0, ran.err


def _downloaded(python: Path, hub: StandInHub, root: Path, home: Path) -> dict[str, str]:
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    said: dict[str, str] = json.loads(run_in_view(python, root, home, str(_CLIENT), PLAIN, "next", **online))
    return said


def run_in_view(python: Path, root: Path, home: Path, *words: str, **settings: str) -> str:
    """Run a program of an application to its end, and return what it prints."""
    env = {**environment(home), **variables(root), **settings}
    ran = subprocess.run([python, *words], env=env, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _exactly(directory: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Return each file with its bytes, inode, mode and time."""
    found = {}
    for name, content in files_below(directory).items():
        entry = os.lstat(directory / name)
        found[name] = (content, entry.st_ino, entry.st_mode, entry.st_mtime_ns)
    return found


def _foreign(cache: Path, ours: dict[str, Any], pinned: str) -> dict[Path, bytes | str]:
    """Return what the tool has not made in the view: files with their bytes, links with their targets.

    That is without the pinned commit's links to files that the model has: a client may replace those, and the next sync
    puts them back.
    """
    found: dict[Path, bytes | str] = {}
    for path in sorted(cache.rglob("*")):
        name = path.relative_to(cache)
        inside = "/".join(name.parts[3:]) if name.parts[1:3] == ("snapshots", pinned) else ""
        if inside in ours or name.parts[1:] == ("refs", "main"):
            continue
        if path.is_symlink():
            if "cached_" not in (target := os.readlink(path)):
                found[name] = target
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
