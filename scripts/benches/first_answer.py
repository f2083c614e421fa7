"""Load an embedding model, encode one text, and report the seconds of each part: `first_answer.py WAY MODEL REPORT`.

WAY is `baked` (load_embedding_model, offline) or `download` (the library and the Hub, as in most examples).
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

BEGAN = time.perf_counter()


def main() -> None:
    """Append the seconds of each part to a report."""
    way, model_id, report = sys.argv[1:]
    spent = {"imports": 0.0, "tokenizer": 0.0, "weights": 0.0}
    import sentence_transformers
    import transformers

    import cache_models

    spent["imports"] = time.perf_counter() - BEGAN
    _clock(spent, "tokenizer", transformers.AutoProcessor, transformers.AutoTokenizer)
    _clock(spent, "weights", transformers.AutoModel)
    before = time.perf_counter()
    load: Callable[[str], Any]
    load = cache_models.load_embedding_model if way == "baked" else sentence_transformers.SentenceTransformer
    model = load(model_id)
    loaded = time.perf_counter()
    model.encode("the cat sleeps at home")
    spent["other loading"] = loaded - before - spent["tokenizer"] - spent["weights"]
    spent["first embedding"] = time.perf_counter() - loaded
    with open(report, "a") as file:
        file.write(json.dumps(spent) + "\n")


def _clock(spent: dict[str, float], part: str, *classes: Any) -> None:  # noqa: ANN401  # the library's own
    """Count the seconds in `from_pretrained` of these classes; nested calls count once."""
    running = []
    for each in classes:
        inner = each.from_pretrained

        def timed(*args: object, inner: Callable[..., object] = inner, **kwargs: object) -> object:
            began = time.perf_counter()
            running.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                running.pop()
                if not running:
                    spent[part] += time.perf_counter() - began

        each.from_pretrained = timed


if __name__ == "__main__":
    main()
