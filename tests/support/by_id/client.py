"""Download with huggingface_hub into the view, as an application that is online does.

A program that any interpreter runs, one with an older huggingface_hub too: it imports no other library. Its arguments
are a model's id and a branch. It prints what each step did, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from huggingface_hub import hf_hub_download, snapshot_download


def main(model: str, branch: str) -> None:
    """Take every step that writes into a cache."""
    steps: dict[str, Callable[[], str]] = {
        "a file that the view has": lambda: hf_hub_download(model, "config.json"),
        "the same anew": lambda: hf_hub_download(model, "config.json", force_download=True),
        "weights anew": lambda: hf_hub_download(model, "model.safetensors", force_download=True),
        "a file that the view has not": lambda: hf_hub_download(model, "onnx/model.onnx"),
        "a file that the repository has not": lambda: hf_hub_download(model, "none.json"),
        "another branch": lambda: hf_hub_download(model, "config.json", revision=branch),
        "everything": lambda: snapshot_download(model),
        "everything anew": lambda: snapshot_download(model, force_download=True),
        "everything of another branch": lambda: snapshot_download(model, revision=branch),
    }
    print(json.dumps({step: _said(take) for step, take in steps.items()}))


def _said(take: Callable[[], str]) -> str:
    """Return the path that a step gives, or the name of its error."""
    try:
        return take()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is printed
        return type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
