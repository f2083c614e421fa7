"""Every layout that is cached, with what the manifest has to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.models.embeddings import (
    bin_only_embedding,
    dense_bin_embedding,
    dense_embedding,
    fp16_embedding,
    no_modules_embedding,
    plain_embedding,
    router_embedding,
    sharded_bin_embedding,
    sharded_embedding,
    static_embedding,
)
from tests.support.models.outputs import Kind
from tests.support.models.remote_code import (
    custom_module_embedding,
    native_with_gone_code,
    own_loader_embedding,
    remote_code_elsewhere,
    remote_code_embedding,
    remote_code_reranker,
    remote_code_reranker_elsewhere,
    tasks_embedding,
)
from tests.support.models.rerankers import plain_reranker, saved_reranker


@dataclass(frozen=True)
class Layout:
    """A repository, and what the manifest has to say of it."""

    make: Callable[[Path], Path]
    kind: Kind = "embedding"
    says: str = ""
    trust: bool = False

    @property
    def id(self) -> str:
        """Its name on the Hub."""
        return f"org/{self.make.__name__}"

    @property
    def table(self) -> str:
        """Its table in models.toml."""
        table = "reranker" if self.kind == "reranker" else "embedding"
        return f'[[{table}]]\nid = "{self.id}"\n{self.says}\n'

    def home(self, root: Path) -> Path:
        """Where it is published below a root."""
        kind = "reranker" if self.kind == "reranker" else "embedding"
        return root / f"cached_{kind}_models" / self.id.replace("/", "__")


PICKLE, TRUST = "allow_pickle = true", "trust_remote_code = true"
LAYOUTS = [
    Layout(plain_embedding),
    Layout(sharded_embedding),
    Layout(dense_embedding),
    Layout(router_embedding, "routes"),
    Layout(static_embedding),
    Layout(fp16_embedding),
    Layout(plain_reranker, "reranker"),
    Layout(saved_reranker, "reranker"),
    Layout(bin_only_embedding, says=PICKLE),
    Layout(sharded_bin_embedding, says=PICKLE),
    Layout(dense_bin_embedding, says=PICKLE),
    Layout(no_modules_embedding, says='pooling = "mean"\nnormalize = false'),
    Layout(native_with_gone_code, says="trust_remote_code = false"),
    Layout(remote_code_embedding, says=TRUST, trust=True),
    Layout(remote_code_elsewhere, says=TRUST, trust=True),
    Layout(remote_code_reranker, "reranker", TRUST, trust=True),
    Layout(remote_code_reranker_elsewhere, "reranker", TRUST, trust=True),
    Layout(custom_module_embedding, says=TRUST, trust=True),
    Layout(own_loader_embedding, says=TRUST, trust=True),
    Layout(tasks_embedding, says=TRUST, trust=True),
]


def layout_of(name: str) -> Layout:
    """Return the layout that a maker's name stands for."""
    (found,) = [layout for layout in LAYOUTS if layout.make.__name__ == name]
    return found
