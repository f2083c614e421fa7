"""Load models and write down what they answer: the program that ``outputs.py`` runs alone.

Reads a JSON list of jobs from stdin; its arguments are the .npy files, one a job, in the same order.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Answer the jobs in turn; the first that fails ends the process with its traceback."""
    import numpy as np
    import torch

    # The order of a sum, and with it the last bits, depends on the number of threads.
    torch.set_num_threads(1)
    for job, file in zip(json.load(sys.stdin), sys.argv[1:], strict=True):
        np.save(file, answer(job))


def answer(job: dict[str, Any]) -> Any:
    """Load a directory, or a repository, the way an application does and return its vectors or scores."""
    import numpy as np
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

    model_name, inputs = job["model"], job["inputs"]
    options: dict[str, Any] = {"device": "cpu", "trust_remote_code": job["trust"]}
    if job["kind"] == "reranker":
        return CrossEncoder(model_name, **options).predict(inputs, show_progress_bar=False)
    if job["kind"] in ("sparse", "multi_vector"):
        loader = SparseEncoder if job["kind"] == "sparse" else MultiVectorEncoder
        return both_ways(loader(model_name, **options), inputs)
    model = SentenceTransformer(model_name, **options)
    if job["kind"] == "routes":
        ways = (model.encode_query, model.encode_document)
        return np.concatenate([encode(inputs, show_progress_bar=False) for encode in ways])
    return model.encode(inputs, show_progress_bar=False)


def both_ways(model: Any, inputs: list[str]) -> Any:
    """Return what queries and then documents give: a row for each text, or for each token that takes part."""
    import torch

    found = [way(inputs, show_progress_bar=False) for way in (model.encode_query, model.encode_document)]
    rows = [torch.cat(one) if isinstance(one, list) else one.to_dense() for one in found]
    return torch.cat(rows).numpy()


if __name__ == "__main__":
    main()
