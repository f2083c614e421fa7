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
from tests.support.models.multi_vector import (
    old_pylate_multi_vector,
    pylate_multi_vector,
    saved_multi_vector,
    small_stanford_multi_vector,
    stanford_bin_multi_vector,
    stanford_multi_vector,
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
from tests.support.models.sparse import (
    csr_sparse,
    raw_bin_sparse,
    raw_sparse,
    routes_sparse,
    saved_routes_sparse,
    saved_sparse,
    splade_sparse,
)


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
    def table_name(self) -> str:
        """The kind, as models.toml has it."""
        return "embedding" if self.kind == "routes" else self.kind

    @property
    def table(self) -> str:
        """Its table in models.toml."""
        return f'[[{self.table_name}]]\nid = "{self.id}"\n{self.says}\n'

    def home(self, root: Path) -> Path:
        """Where it is published below a root."""
        return root / f"cached_{self.table_name}_models" / self.id.replace("/", "__")


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

SPARSE_LAYOUTS = [
    Layout(splade_sparse, "sparse"),
    Layout(saved_sparse, "sparse"),
    Layout(raw_sparse, "sparse"),
    Layout(raw_bin_sparse, "sparse", PICKLE),
    Layout(routes_sparse, "sparse"),
    Layout(saved_routes_sparse, "sparse"),
    Layout(csr_sparse, "sparse"),
]
MULTI_VECTOR_LAYOUTS = [
    Layout(pylate_multi_vector, "multi_vector"),
    Layout(old_pylate_multi_vector, "multi_vector"),
    Layout(stanford_multi_vector, "multi_vector"),
    Layout(small_stanford_multi_vector, "multi_vector"),
    Layout(stanford_bin_multi_vector, "multi_vector", PICKLE),
    Layout(saved_multi_vector, "multi_vector"),
]


def layout_of(name: str) -> Layout:
    """Return the layout that a maker's name stands for."""
    (found,) = [layout for layout in LAYOUTS if layout.make.__name__ == name]
    return found
