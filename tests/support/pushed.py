"""Roots whose models are pushed, the files of them that are read, and what a registry has in the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelcache.core.kinds import COLLECTIONS, Kind
from modelcache.core.types import LockedModel
from modelcache.formats.lockfile import format_lock
from modelcache.image.layers import LARGE_FILE
from tests.conftest import files_below
from tests.support.images import pin, published
from tests.support.registry import Request, StandInRegistry

WEIGHTS = random.Random(1).randbytes(LARGE_FILE + 700_000)
"""Have a layer of their own."""
LARGE = {"config.json": b"{}", "deep/er/two.json": b"[2]", "vocab.txt": b"word\n" * 9000, "model.safetensors": WEIGHTS}
SMALL = {"config.json": b"[1]", "model.safetensors": random.Random(2).randbytes(70_000)}
A, B = "acme/a", "acme/b"
CONTENTS = {A: LARGE, B: SMALL}
"""The root of `make_root`: an embedding model with large weights, and a small reranker; three layers in all."""
LAYERS = 3

_watch: list[list[str]] = []
"""The lists of `files_opened` that are being filled, behind an empty one that says that the hook is set."""


def kind_of(model_id: str) -> Kind:
    """The kind that a model has in these tests."""
    return Kind.RERANKER if model_id == B else Kind.EMBEDDING


def put(root: Path, model_id: str, content: Mapping[str, bytes], *, commit: str = "c" * 40) -> LockedModel:
    """Publish a model, and return its pin."""
    model = pin(model_id, content, kind_of(model_id), commit=commit)
    published(root, model, content)
    return model


def make_root(root: Path, contents: Mapping[str, Mapping[str, bytes]] = CONTENTS) -> None:
    """Publish models, and write the manifest and the lock of them beside."""
    root.mkdir(exist_ok=True)
    lock([put(root, model_id, content) for model_id, content in contents.items()], root)


def lock(models: list[LockedModel], folder: Path) -> None:
    """Write a lock of these pins, and a manifest of its models."""
    (folder / "models.lock").write_text(format_lock(models))
    tables = [f'[[{model.kind}]]\nid = "{model.id}"\n' for model in models]
    (folder / "models.toml").write_text("\n".join(tables))


def models_in(root: Path) -> dict[str, bytes]:
    """Every file of the models in a root, and nothing else."""
    return {f"{name}/{path}": data for name in COLLECTIONS for path, data in files_below(root / name).items()}


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """Yield the paths of all files that this process opens meanwhile."""
    if not _watch:
        sys.addaudithook(_note)  # it cannot be removed again
        _watch.append([])
    found: list[str] = []
    _watch.append(found)
    try:
        yield found
    finally:
        _watch.pop()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and len(_watch) > 1 and isinstance(arguments[0], (str, bytes)):
        _watch[-1].append(os.fsdecode(arguments[0]))


def of_models(paths: list[str]) -> list[str]:
    """Those of some paths that are files of models, but for receipts."""
    return [
        path for path in paths if not COLLECTIONS.isdisjoint(path.split("/")) and not Path(path).name.startswith(".")
    ]


def bytes_sent(requests: list[Request]) -> int:
    """The bytes of all bodies that clients sent."""
    return sum(request.received for request in requests)


def blobs_sent(registry: StandInRegistry) -> list[Request]:
    """The requests that had a blob in their body."""
    return [request for request in registry.asked(kind="upload body") if request.received]


def manifest_of(registry: StandInRegistry, repository: str, digest: str) -> dict[str, Any]:
    """A manifest or an index that a registry has, whose bytes have its digest."""
    content = registry.manifests(repository)[digest].read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
    found: dict[str, Any] = json.loads(content)
    return found


def manifests_below(registry: StandInRegistry, repository: str, digest: str) -> list[dict[str, Any]]:
    """The manifests of an index, all of whose blobs are there with their bytes."""
    found = []
    for entry in manifest_of(registry, repository, digest)["manifests"]:
        manifest = manifest_of(registry, repository, entry["digest"])
        for blob in (manifest["config"], *manifest["layers"]):
            content = registry.blobs(repository)[blob["digest"]].read_bytes()
            assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (blob["size"], blob["digest"])
        found.append(manifest)
    return found


def config_of(registry: StandInRegistry, repository: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a manifest."""
    found: dict[str, Any] = json.loads(registry.blobs(repository)[manifest["config"]["digest"]].read_bytes())
    return found


def write_logins(path: Path, logins: Mapping[str, str]) -> Path:
    """Write a file as `docker login` does: a `user:password` by registry."""
    auths = {registry: {"auth": b64encode(login.encode()).decode()} for registry, login in logins.items()}
    path.write_text(json.dumps({"auths": auths}))
    return path
