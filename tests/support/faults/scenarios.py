"""What is broken at every point: a command, the folder it is run in, and what that folder is before and after.

The models are as small as models can be, since each is fetched some hundred times; their weights come in more than
one piece, two of their files are equal, and the versions differ in every way that files can.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelcache.core.hub_view import HUB_NAME, hub_view, leads_to_model
from modelcache.store.layout import read_receipt
from tests.support import tiny
from tests.support.faults.forked_runs import WELL, Fault, ForkedRuns
from tests.support.hub import StandInHub
from tests.support.hub.wire import Delivery
from tests.support.oci_images import Layout, archive

EMBEDDING, RERANKER, PICKLED = "tinyorg/embedding", "tinyorg/reranker", "tinyorg/pickled"
COLLECTIONS = ("cached_embedding_models", "cached_reranker_models")
STATE = ".cache-models"
# Try every single point instead of some.
ALL = os.environ.get("FAULTS") == "all"

# Of everything in a model: by path its mode, its mtime in nanoseconds, and its bytes (None: a directory).
Version = dict[str, tuple[int, int, bytes | None]]


@dataclass(frozen=True)
class Seen:
    """What a reader finds in a folder: each model by `collection/name`, the Hub views, and the names of all else."""

    models: dict[str, Version]
    views: dict[str, dict[str, str]]
    """By repository: what each ref says, and where each link leads."""
    rest: frozenset[str]


@dataclass(frozen=True)
class Scenario:
    """A command that is to be broken; `folder` is never run in, only copies of it."""

    folder: Path
    words: Sequence[str]
    before: Seen
    after: Seen
    settled: Seen
    """What is there after the command and a sync."""
    lock: bytes
    calls: int
    fault: Fault = WELL
    """What is wrong in every run of it, as well when it is not broken."""

    @property
    def sync(self) -> Sequence[str]:
        """The command that recovers."""
        return self.words if self.words[0] == "sync" else ("sync",)

    def struck(self, at: int, do: str, *, onwards: bool = False) -> Fault:
        """Return what breaks the command at a call."""
        return replace(self.fault, at=at, do=do, onwards=onwards)

    def copy(self, target: Path) -> Path:
        """Return a folder like that of the scenario, to run the command in."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target, symlinks=True)
        return target


def look(folder: Path) -> Seen:
    """Look at everything in a folder, as a reader of its models does."""
    models: dict[str, Version] = {}
    views: dict[str, dict[str, str]] = {}
    rest = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        first, _, below = name.partition("/")
        home, _, inside = below.partition("/")
        if first == HUB_NAME and not path.is_dir() and not inside.startswith((STATE, ".gone~")):
            views.setdefault(home, {})[inside] = os.readlink(path) if path.is_symlink() else path.read_text()
        if first not in COLLECTIONS or not home or home == STATE:
            rest.add(name)
            continue
        assert not path.is_symlink(), f"{name} is a link"
        found = path.stat()
        content = None if path.is_dir() else path.read_bytes()
        models.setdefault(f"{first}/{home}", {})[inside] = (found.st_mode, found.st_mtime_ns, content)
    return Seen(models, views, frozenset(rest))


def misleading_views(folder: Path) -> list[str]:
    """Return the snapshots whose links lead to another version than their commit names."""
    found = set()
    for link in folder.glob(f"{HUB_NAME}/models--*/snapshots/*/**/*"):
        if link.is_symlink() and leads_to_model(os.readlink(link)):
            collection, home = os.readlink(link).replace("../", "").split("/")[:2]
            published = read_receipt(folder / collection / home)
            snapshot = Path(*link.parts[: len(folder.parts) + 4])
            if published is not None and (view := hub_view(published)) and view.commit != snapshot.name:
                found.add(f"{snapshot} leads to {view.commit}")
    return sorted(found)


@dataclass
class Line:
    """A line to the Hub whose speed can be changed, in bytes a second for each stream; None: as fast as it goes."""

    rate: int | None = None

    def bend(self, delivery: Delivery) -> Delivery:
        """Set the pace."""
        return replace(delivery, rate=self.rate)


class Workspace:
    """The place where scenarios are made: a Hub, a process to fork from, a folder."""

    def __init__(self, hub: StandInHub, runs: ForkedRuns, folder: Path) -> None:
        self.hub = hub
        self.runs = runs
        self.folder = folder

    def scenario(self, name: str) -> Scenario:
        """Make a scenario by its name."""
        folder = self.folder / "before"
        folder.mkdir()
        fault, words = SCENARIOS[name](self, folder)
        scenario = Scenario(folder, words, look(folder), look(folder), look(folder), b"", 0, fault)
        copy = scenario.copy(self.folder / "unbroken")
        ended = self.runs.run(copy, *words, fault=fault)
        assert ended.code == 0, ended.err
        after = look(copy)
        settled = self.runs.run(copy, *scenario.sync, fault=fault)
        assert settled.code == 0, settled.err
        return replace(
            scenario, after=after, settled=look(copy), lock=(copy / "models.lock").read_bytes(), calls=ended.calls
        )

    def want(self, folder: Path, *embeddings: str, rerankers: Sequence[str] = (), extra: str = "") -> None:
        """Write models.toml."""
        tables = [f'[[embedding]]\nid = "{model}"\n{extra}' for model in embeddings]
        tables += [f'[[reranker]]\nid = "{model}"\n' for model in rerankers]
        (folder / "models.toml").write_text("\n".join(tables))

    def well(self, folder: Path, *words: str) -> None:
        """Run a command that has to succeed."""
        ended = self.runs.run(folder, *words)
        assert ended.code == 0, ended.err


def points(calls: int, stride: int) -> list[int]:
    """Every n-th call, and the last; with FAULTS=all each."""
    return list(range(calls, 0, -1 if ALL else -stride))[::-1]


def first_version() -> dict[str, bytes]:
    """The files of a model."""
    words = "".join(f"{word}\n" for word in tiny.WORDS[:20]).encode()
    return {
        "README.md": b"---\nlicense: mit\n---\n",
        "config.json": json.dumps({"model_type": "bert", "architectures": ["BertModel"]}).encode(),
        "modules.json": json.dumps(
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        ).encode(),
        "1_Pooling/config.json": b'{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}',
        "vocab.txt": words,
        "old-vocab.txt": words,
        "added_tokens.json": b"{}",
        "model.safetensors": weights(1),
    }


def second_version() -> dict[str, bytes]:
    """The files of its next commit: some changed, one gone, one new, one under another name."""
    files = first_version()
    del files["added_tokens.json"]
    files["older-vocab.txt"] = files.pop("old-vocab.txt")
    files |= {"README.md": b"---\nlicense: mit\n---\nNow better.\n", "model.safetensors": weights(2), "NOTICE": b"New."}
    return files


def weights(seed: int) -> bytes:
    """Weights of 600 kB, which the Hub sends in three pieces."""
    return tiny.safetensors_of(bytes([seed]) * 99 + b"".join(map(bytes, tiny.cheap_blocks(600_000, 1 << 20))))


def reranker() -> dict[str, bytes]:
    """The files of another model."""
    config = json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}).encode()
    return {"config.json": config, "model.safetensors": tiny.safetensors_of(b"\3" * 760)}


def _pinned_pair(workspace: Workspace, folder: Path) -> None:
    workspace.hub.add(EMBEDDING, first_version())
    workspace.hub.add(RERANKER, reranker())
    workspace.want(folder, EMBEDDING, rerankers=[RERANKER])
    workspace.well(folder, "lock")


def _use(folder: Path) -> None:
    """Make the folder a root in use: there `lock` keeps for `sync` what it fetched."""
    for name in COLLECTIONS:
        (folder / name).mkdir()


def _first(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _pinned_pair(workspace, folder)
    return WELL, ["sync"]


def _kept(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _use(folder)
    _pinned_pair(workspace, folder)
    return WELL, ["sync"]


def _unpinned(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _first(workspace, folder)
    (folder / "models.lock").unlink()
    return WELL, ["sync"]


def _without_a_lock(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    """The receipts are the pin, and what they pin is not the newest any more."""
    _pinned_pair(workspace, folder)
    workspace.well(folder, "sync")
    (folder / "models.lock").unlink()
    workspace.hub.add(EMBEDDING, second_version())
    return WELL, ["sync"]


def _upgrade(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _pinned_pair(workspace, folder)
    workspace.well(folder, "sync")
    workspace.hub.add(EMBEDDING, second_version())
    workspace.well(folder, "lock", "--upgrade")
    shutil.rmtree(folder / COLLECTIONS[0] / STATE)
    return WELL, ["sync"]


def _two_renames(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _, words = _upgrade(workspace, folder)
    return Fault(no_exchange=True), words


def _pickle(workspace: Workspace, folder: Path) -> None:
    pickle = tiny.write_pickle(workspace.folder / "pytorch_model.bin", 600_000)
    files = {**first_version(), "pytorch_model.bin": pickle.read_bytes()}
    del files["model.safetensors"]
    workspace.hub.add(PICKLED, files)
    workspace.want(folder, PICKLED, extra="allow_pickle = true\n")


def _lock_of_a_pickle(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _use(folder)
    _pickle(workspace, folder)
    return WELL, ["lock"]


def _unpinned_pickle(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _pickle(workspace, folder)
    return WELL, ["sync"]


def _converted(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _pickle(workspace, folder)
    workspace.well(folder, "lock")
    return WELL, ["sync"]


def _prune(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    _pinned_pair(workspace, folder)
    workspace.well(folder, "sync")
    workspace.want(folder, rerankers=[RERANKER])
    workspace.well(folder, "lock")
    workspace.well(folder, "sync")
    return WELL, ["prune"]


def _from(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    return WELL, ["sync", "--from", str(_baked(workspace, folder, "baked"))]


def _from_image(workspace: Workspace, folder: Path) -> tuple[Fault, Sequence[str]]:
    baked = _baked(workspace, folder, "baked for an image")
    layout = Layout.of_root(baked, workspace.folder / "image")
    return WELL, ["sync", "--from", f"oci-archive:{archive(layout.write(), workspace.folder / 'image.tar')}"]


def _baked(workspace: Workspace, folder: Path, name: str) -> Path:
    baked = workspace.folder / name
    baked.mkdir()
    _pinned_pair(workspace, baked)
    workspace.well(baked, "sync")
    shutil.copy(baked / "models.toml", folder)
    shutil.copy(baked / "models.lock", folder)
    return baked


SCENARIOS: dict[str, Callable[[Workspace, Path], tuple[Fault, Sequence[str]]]] = {
    "first fetch": _first,
    "first fetch with what lock kept": _kept,
    "first fetch without a lock": _unpinned,
    "start without a lock": _without_a_lock,
    "upgrade": _upgrade,
    "upgrade without exchange": _two_renames,
    "conversion": _converted,
    "conversion without a lock": _unpinned_pickle,
    "lock with a conversion": _lock_of_a_pickle,
    "prune": _prune,
    "sync --from": _from,
    "sync --from an image": _from_image,
}
