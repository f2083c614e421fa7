"""Load models as an application does, by id and by path, and tell what they give.

A program that any interpreter runs, one with older libraries too. It reads an order from stdin and prints a report;
what the libraries say goes to stderr.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import traceback
from typing import Any

from tests.support.frameworks import watch_connections

ERROR = "Error: "
_NEWNS, _NEWNET = 0x20000, 0x40000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18


def main() -> None:
    """Carry out the order."""
    order = json.load(sys.stdin)
    stdout, sys.stdout = sys.stdout, sys.stderr
    if not os.getuid():
        cut_off(order["root"].encode())
    tried = watch_connections()
    import huggingface_hub as hub
    import sentence_transformers
    import torch
    import transformers

    import cache_models

    # The order of a sum, and with it the last bits, depends on the number of threads.
    torch.set_num_threads(1)
    known = {name: getattr(transformers, name) for name in ("AutoModel", "AutoTokenizer")}
    known |= {name: getattr(hub, name) for name in ("hf_hub_download", "snapshot_download", "try_to_load_from_cache")}
    classes = ("CrossEncoder", "MultiVectorEncoder", "SentenceTransformer", "SparseEncoder")  # the newest has them all
    known |= {name: vars(sentence_transformers)[name] for name in classes if name in vars(sentence_transformers)}
    known |= {
        "torch": torch,
        "cache_models": cache_models,
        "TEXTS": order["TEXTS"],
        "PAIRS": order["PAIRS"],
        "environ": os.environ,
    }
    report: dict[str, Any] = {"by_id": {}, "by_path": {}, "tried": tried}
    for load in order["loads"]:
        for way, model in (("by_id", load["model"]), ("by_path", load["path"])):
            names = {**known, "model": model, "commit": load["commit"]}
            report[way][load["name"]] = outcome(load[way], names)
    report["versions"] = {
        library.__name__: library.__version__ for library in (sentence_transformers, transformers, hub)
    }
    print(json.dumps(report), file=stdout, flush=True)


def outcome(code: str, names: dict[str, Any]) -> str:
    """Return a text that the code gives, or type, shape and digest of the numbers that it gives, or its error."""
    import numpy as np

    try:
        result = eval(code, names)
    except Exception as error:  # noqa: BLE001  # whatever it is, the report has it
        traceback.print_exc()
        return f"{ERROR}{error!r}"
    if isinstance(result, str):
        return result
    array = np.asarray(result.detach() if hasattr(result, "detach") else result)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def cut_off(root: bytes) -> None:
    """Take the network away, and make the root read-only."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    call("unshare", _NEWNET | _NEWNS)
    call("mount", None, b"/", None, _REC | _PRIVATE, None)
    call("mount", root, root, None, _BIND, None)
    call("mount", None, root, None, _REMOUNT | _BIND | _RDONLY, None)


if __name__ == "__main__":
    main()
