"""Load models with the functions of `cache_models`, and write down all vectors that they give.

A program: reads a JSON list of kinds and ids from stdin; its argument is the .npz file to write, one array a model. The
root is that of CACHE_MODELS_ROOT.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TEXTS = [
    "The black cat sleeps in the warm sun.",
    "a Lawyer can read the contract, or sell it!",
    "rain",
    "the river and the road to town, " * 12,
]
LOADERS = {
    "embedding": "load_embedding_model",
    "sparse": "load_sparse_encoder",
    "multi_vector": "load_multi_vector_encoder",
}


def main() -> None:
    """Answer for each model in turn; the first that fails ends the process with its traceback."""
    import numpy as np
    import torch

    import cache_models

    torch.set_num_threads(1)  # the order of a sum, and with it the last bits, depends on it
    found: dict[str, Any] = {}
    for kind, model_id in json.load(sys.stdin):
        model = getattr(cache_models, LOADERS[kind])(model_id, device="cpu")
        found[model_id] = np.concatenate([numbers(answer) for answer in answers(model)])
    np.savez(sys.argv[1], **found)


def answers(model: Any) -> list[Any]:
    """Encode the texts as they are, with a prompt of the caller, as queries and as documents."""
    quiet = {"show_progress_bar": False}
    ways = [model.encode(TEXTS, **quiet), model.encode(TEXTS, prompt="bank: ", **quiet)]
    return [*ways, model.encode_query(TEXTS, **quiet), model.encode_document(TEXTS, **quiet)]


def numbers(answer: Any) -> Any:
    """Return one answer as a row, with the sizes of its parts in front."""
    import numpy as np

    parts = answer if isinstance(answer, list) else [answer]
    dense = [part.to_dense().float().numpy() if hasattr(part, "to_dense") else part for part in parts]
    sizes = [float(size) for part in dense for size in part.shape]
    return np.concatenate([np.asarray(sizes, "float32"), *(part.astype("float32").ravel() for part in dense)])


if __name__ == "__main__":
    main()
