"""The registry: the image of two large models pushed, pushed again, pushed later, and taken from there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys

from modelcache.image.layers import LARGE_FILE
from modelcache.store.layout import DIGESTS_NAME
from scripts.benches.bed import Bed, Model
from scripts.benches.cold import told
from scripts.benches.goals import Figure, Scenario
from scripts.benches.images import no_engine
from scripts.benches.rounds import TOOL, Peer, in_turn, run
from tests.support.registry import StandInRegistry

_CURL = """
base=http://${REPOSITORY%%/*}/v2/${REPOSITORY#*/}/blobs/uploads/
while [ $# -gt 0 ]; do
    to=$(curl -sSf -X POST -o /dev/null -D - "$base" | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')
    case $to in *\\?*) to="$to&" ;; *) to="$to?" ;; esac
    curl -sSf -T "$1" -H 'Content-Type: application/octet-stream' "${to}digest=$2"
    shift 2
done
"""
"""Send files with curl: a path and a digest of each."""


def push(bed: Bed) -> Scenario:
    """Push two large models to a repository that has nothing, compared with `docker build` and `docker push`."""
    title = "push of two models"
    if reason := _no_registry():
        return Scenario(title, skipped=reason)
    root, models = bed.filled()
    size = sum(model.size for model in models)
    (root / "Dockerfile").write_text(
        "FROM scratch\nCOPY cached_embedding_models cached_reranker_models round /models/\n"
    )
    repository = {"REPOSITORY": ""}
    rounds = iter(range(1000))

    def before() -> None:
        """Take a new repository, as of a registry that lacks the layers."""
        repository["REPOSITORY"] = f"{os.environ['TEST_REGISTRY']}/cache-models-bench-{os.getpid()}/{next(rounds)}"
        (root / DIGESTS_NAME).unlink(missing_ok=True)

    # Another file in each round, or the engine would find the compressed layer of the one before.
    build = "echo $REPOSITORY > round && docker build --quiet --provenance=false --tag $REPOSITORY ."
    build += " && docker push --quiet $REPOSITORY"
    peers = [
        Peer("cache-models push", ["sh", "-ec", f"{sys.executable} {TOOL} push $REPOSITORY"], root, repository, before),
        Peer("docker build and push", ["sh", "-ec", build], root, repository, before),
    ]
    files = [str(path) for path in root.glob("cached_*_models/*/*") if path.stat().st_size >= LARGE_FILE]
    sent = [word for path in files for word in (path, f"sha256:{_sha256(path)}")]
    peers.append(Peer("curl, the large files", ["sh", "-ec", _CURL, "sh", *sent], root, repository, before))
    runs = in_turn(peers, bed.rounds)
    again = Peer(
        "push again", [sys.executable, TOOL, "push", f"{os.environ['TEST_REGISTRY']}/cache-models-bench"], root
    )
    in_turn([again], 1)
    second = in_turn([again], bed.rounds)[again.name]
    images = [line for line in _engine_lists() if f"cache-models-bench-{os.getpid()}/" in line]
    subprocess.run(["docker", "rmi", *images], check=True, capture_output=True)
    mine = runs["cache-models push"]
    return Scenario(
        f"push of {size / 1e9:.1f} GB",
        [*told(runs, mine), (again.name, f"{second.seconds:8.2f} s ")],
        [
            Figure("docker build and push / ours", runs["docker build and push"].over(mine), 8, ">="),
            Figure("ours, hashing included / curl", mine.over(runs["curl, the large files"]), 1.2, "<="),
            Figure("peak memory", mine.peak, 48, "<=", "MiB"),
            Figure("push again, whole process", second.seconds, 0.3, "<=", "s"),
        ],
    )


def pushed_later(bed: Bed) -> Scenario:
    """Push and take a commit that changes one small file of a large model, and count the bytes."""
    root, models = bed.filled()
    changed, other = models[0], bed.folder / "other"
    limit = sum(size for size in _sizes(changed) if size < LARGE_FILE) + (64 << 10)
    with StandInRegistry(bed.folder / "registry") as registry:
        name = f"{registry.address}/team/models"
        ours = [sys.executable, TOOL]
        sync = [*ours, "sync", "--locked", "--root", str(other), "--from", f"docker://{name}"]

        def both() -> tuple[int, int]:
            registry.forget()
            run([*ours, "push", name], root, {})
            sent = sum(request.received for request in registry.requests)
            registry.forget()
            run(sync, root, {})
            return sent, sum(request.sent for request in registry.requests)

        first, _ = both()
        (changed.source / "README.md").write_text("# Another card\n")
        with (changed.source / "config.json").open("a") as file:
            file.write("\n")
        bed.hub.add(changed.id, changed.source)
        bed.fill(root, "lock", "--upgrade")
        bed.fill(root, "sync", "--locked")
        sent, fetched = both()
    return Scenario(
        "push of a later commit, one small file of a 1.1 GB model changed",
        [
            ("first push", f"{first / 1e6:10.1f} MB sent"),
            ("push of the later commit", f"{sent / 1e6:10.2f} MB sent"),
            ("sync of the later commit", f"{fetched / 1e6:10.2f} MB fetched"),
        ],
        [
            Figure("sent / the model's small files and 64 KiB", sent / limit, 1, "<="),
            Figure("fetched / the model's small files and 64 KiB", fetched / limit, 1, "<="),
        ],
    )


def from_registry(bed: Bed) -> Scenario:
    """Fill a root from a registry, compared with the Hub."""
    title = "sync --from docker://"
    if reason := _no_registry():
        return Scenario(title, skipped=reason)
    root, models = bed.filled()
    size = sum(model.size for model in models)
    name = f"{os.environ['TEST_REGISTRY']}/cache-models-bench"
    run([sys.executable, TOOL, "push", name], root, {})
    target = bed.folder / "filled"

    def before() -> None:
        shutil.rmtree(target, ignore_errors=True)

    sync = [sys.executable, TOOL, "sync", "--locked", "--root", str(target)]
    peers = [
        Peer("from docker://", [*sync, "--from", f"docker://{name}"], root, before=before, watch=True),
        Peer("from the Hub", sync, root, bed.env("hub"), before, watch=True),
    ]
    runs = in_turn(peers, bed.rounds)
    mine = runs["from docker://"]
    return Scenario(
        f"sync --from docker:// of {size / 1e9:.1f} GB",
        told(runs, mine),
        [
            Figure("ours / our own sync from the Hub", mine.over(runs["from the Hub"]), 1.15, "<="),
            Figure("peak memory", mine.peak, 48, "<=", "MiB"),
        ],
    )


def _no_registry() -> str:
    return no_engine() or ("" if os.environ.get("TEST_REGISTRY") else "TEST_REGISTRY names no registry")


def _engine_lists() -> list[str]:
    """Return the names of the images that the engine has."""
    words = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sizes(model: Model) -> list[int]:
    return [(model.source / path).stat().st_size for path in model.files]
