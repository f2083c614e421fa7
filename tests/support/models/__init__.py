"""Make model repositories as people publish them on the Hub, small and equal each time.

A maker takes the folder to fill and returns it. torch is imported only inside the makers that need it, so a test
that wants none of them does not wait for it.
"""

from tests.support.models.embeddings import (
    bin_only_embedding,
    dense_bin_embedding,
    dense_embedding,
    fp16_embedding,
    no_modules_embedding,
    peft_adapter,
    plain_embedding,
    router_embedding,
    sharded_bin_embedding,
    sharded_embedding,
    static_embedding,
)
from tests.support.models.minilm import minilm, minilm_source, with_heavy_duplicates
from tests.support.models.multi_vector import (
    old_pylate_multi_vector,
    pylate_multi_vector,
    saved_multi_vector,
    small_stanford_multi_vector,
    stanford_bin_multi_vector,
    stanford_multi_vector,
)
from tests.support.models.outputs import embed, online, outputs, score
from tests.support.models.remote_code import (
    custom_module_embedding,
    native_with_gone_code,
    own_loader_embedding,
    remote_code_elsewhere,
    remote_code_embedding,
    remote_code_impl,
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

__all__ = [
    "bin_only_embedding",
    "csr_sparse",
    "custom_module_embedding",
    "dense_bin_embedding",
    "dense_embedding",
    "embed",
    "fp16_embedding",
    "minilm",
    "minilm_source",
    "native_with_gone_code",
    "no_modules_embedding",
    "old_pylate_multi_vector",
    "online",
    "outputs",
    "own_loader_embedding",
    "peft_adapter",
    "plain_embedding",
    "plain_reranker",
    "pylate_multi_vector",
    "raw_bin_sparse",
    "raw_sparse",
    "remote_code_elsewhere",
    "remote_code_embedding",
    "remote_code_impl",
    "remote_code_reranker",
    "remote_code_reranker_elsewhere",
    "router_embedding",
    "routes_sparse",
    "saved_multi_vector",
    "saved_reranker",
    "saved_routes_sparse",
    "saved_sparse",
    "score",
    "sharded_bin_embedding",
    "sharded_embedding",
    "small_stanford_multi_vector",
    "splade_sparse",
    "stanford_bin_multi_vector",
    "stanford_multi_vector",
    "static_embedding",
    "tasks_embedding",
    "with_heavy_duplicates",
]
