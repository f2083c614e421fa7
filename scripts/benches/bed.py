"""The test bed of one scenario: a folder, a Hub, the models on it, and the settings that point peers to it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benches.rounds import TOOL, Peer, run
from tests.support import tiny
from tests.support.hub import StandInHub


@dataclass(frozen=True, slots=True)
class Model:
    """One model on the Hub of the bench."""

    id: str
    kind: str
    source: Path

    @property
    def files(self) -> list[str]:
        """The files that a loader needs; the others exist because real repositories have them."""
        return [path for path in below(self.source) if path != ".gitattributes" and not path.endswith(".bin")]

    @property
    def size(self) -> int:
        """The total size of these files in bytes."""
        return sum((self.source / path).stat().st_size for path in self.files)


@dataclass(frozen=True, slots=True)
class Bed:
    """The resources of one run; removing the folder removes all of them."""

    folder: Path
    hub: StandInHub
    quick: bool

    @property
    def rounds(self) -> int:
        """How often each peer runs."""
        return 1 if self.quick else 5

    def env(self, name: str, url: str = "") -> dict[str, str]:
        """Return the variables that point a peer to the Hub, or to `url`, with an empty Hugging Face home."""
        home = self.folder / f"{name}-home"
        return {"HF_ENDPOINT": url or self.hub.url, "HF_HOME": str(home), "NO_PROXY": "*", "TQDM_DISABLE": "1"}

    def asked(self) -> int:
        """Return how many requests there were so far."""
        return len(self.hub.requests)

    def large(self, name: str, kind: str, megabytes: int, *, sparse: bool = False) -> Model:
        """Put a large model on the Hub; as in many repositories, its weights exist a second time as .bin."""
        source = self.folder / "models" / name
        if not source.exists():
            make = tiny.big_embedding if kind == "embedding" else tiny.big_reranker
            make(source, megabytes, sparse=sparse, all_tokens=megabytes >= 1000)
            size = (source / "model.safetensors").stat().st_size
            with (source / ".gitattributes").open("a") as file:  # as in repositories with a tokenizer of 17 MB
                file.write("tokenizer.json filter=lfs diff=lfs merge=lfs -text\n")
            with (source / "pytorch_model.bin").open("wb") as file:
                file.truncate(size)  # sparse: only peers that fetch the whole repository read it
            self.hub.add(f"bench/{name}", source)
        return Model(f"bench/{name}", kind, source)

    def small(self, name: str) -> Model:
        """Put a small embedding model on the Hub."""
        source = self.folder / "models" / name
        if not source.exists():
            tiny.tiny_embedding(source)
            self.hub.add(f"bench/{name}", source)
        return Model(f"bench/{name}", "embedding", source)

    def root(self, name: str, models: Sequence[Model]) -> Path:
        """Make a directory for a peer, with a manifest in it."""
        root = self.folder / name
        root.mkdir()
        (root / "models.toml").write_text("".join(f'[[{one.kind}]]\nid = "{one.id}"\n' for one in models))
        return root

    def filled(self) -> tuple[Path, list[Model]]:
        """Return a root with two large models and their lock, and the models."""
        megabytes = 100 if self.quick else 1112
        models = [self.large("embedding", "embedding", megabytes), self.large("reranker", "reranker", megabytes)]
        root = self.root("cache-models", models)
        self.fill(root)
        return root, models

    def fill(self, root: Path, *words: str) -> None:
        """Fill a root with this tool."""
        run([sys.executable, TOOL, *words], root, self.env("fill"))


def ours(bed: Bed, models: Sequence[Model], *words: str, name: str = "cache-models", url: str = "") -> Peer:
    """Return this tool as a peer that starts from nothing: no lock, no file."""
    root = bed.root(name, models)
    command = [sys.executable, TOOL, *words]
    return Peer(name, command, root, bed.env(name, url), lambda: clear(root, keep="models.toml"), watch=True)


def naive(bed: Bed, models: Sequence[Model]) -> Peer:
    """Return the code that this tool replaces: load each model with the library, and save it."""
    root = bed.root("naive", models)
    lines = ["from sentence_transformers import CrossEncoder, SentenceTransformer"]
    for model in models:
        loader = "SentenceTransformer" if model.kind == "embedding" else "CrossEncoder"
        lines.append(f"{loader}({model.id!r}).save({model.id.replace('/', '__')!r})")
    # Its cache is inside the root, so that its disk space counts.
    env = {**bed.env("naive"), "HF_HOME": str(root / "hf")}
    return Peer("naive", [sys.executable, "-c", "\n".join(lines)], root, env, lambda: clear(root), watch=True)


def hub_whole(bed: Bed, models: Sequence[Model]) -> Peer:
    """Return huggingface_hub, fetching whole repositories."""
    return _hub(bed, "hub, whole", models, "")


def hub_same(bed: Bed, models: Sequence[Model], url: str = "") -> Peer:
    """Return huggingface_hub, fetching only the files that this tool selects."""
    return _hub(bed, "hub, same files", models, ", allow_patterns={files!r}", url)


def _hub(bed: Bed, name: str, models: Sequence[Model], extra: str, url: str = "") -> Peer:
    root = bed.root(name, models)
    lines = ["from huggingface_hub import snapshot_download"]
    for model in models:
        more = extra.format(files=model.files)
        lines.append(f"snapshot_download({model.id!r}, local_dir={model.id.replace('/', '__')!r}{more})")
    command = [sys.executable, "-c", "\n".join(lines)]
    return Peer(name, command, root, bed.env(name, url), lambda: clear(root), watch=True)


def hf_command(bed: Bed, models: Sequence[Model]) -> Peer:
    """Return `hf download` of the same files."""
    root = bed.root("hf download", models)
    hf = Path(sys.executable).with_name("hf")
    each = [f"{hf} download {one.id} {' '.join(one.files)} --local-dir {one.id.replace('/', '__')}" for one in models]
    return Peer("hf download", ["sh", "-ec", "\n".join(each)], root, bed.env("hf"), lambda: clear(root), watch=True)


def curl(bed: Bed, models: Sequence[Model], url: str = "", *, parallel: bool = False) -> Peer:
    """Return curl of the same files: no listing, no hash, no fsync. The lower bound."""
    name = "curl, side by side" if parallel else "curl"
    root = bed.root(name, models)
    words = ["curl", "--silent", "--fail", "--location", "--create-dirs", *(["--parallel"] if parallel else [])]
    for model in models:
        for path in model.files:
            words += ["--output", f"{model.id}/{path}", f"{url or bed.hub.url}/{model.id}/resolve/main/{path}"]
    return Peer(name, words, root, {"NO_PROXY": "*"}, lambda: clear(root), watch=True)


def clear(root: Path, keep: str = "") -> None:
    """Empty a directory, except for the name `keep`."""
    for path in root.iterdir():
        if path.name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def below(folder: Path) -> list[str]:
    """Return the files below a directory, by name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
