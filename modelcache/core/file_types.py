"""The type of a file by the ending of its name."""

from __future__ import annotations

from pathlib import PurePosixPath

_OTHER_WEIGHTS = """
    bin h5 msgpack ot onnx onnx_data gguf ggml pt pth ckpt pb tflite mlmodel npz npy pkl pickle joblib params nemo
"""
_PICKLES = "pt pth ckpt pkl pickle p pk joblib dill th torch sav nemo"
OTHER_WEIGHTS = frozenset(f".{ending}" for ending in _OTHER_WEIGHTS.split())
"""Endings of weights that are published only where a table names them, in lower case."""
SAFE_WEIGHTS = ".safetensors"
WEIGHTS = OTHER_WEIGHTS | {SAFE_WEIGHTS}
PICKLES = frozenset(f".{ending}" for ending in _PICKLES.split())
"""Endings of pickles."""
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dylib", ".dll"})
"""Endings of code that Python imports or loads."""
PAPERS = frozenset({"", ".md", ".rst", ".txt"})
"""Endings of files that say something about a model: README.md, LICENSE."""


def ending_of(path: str) -> str:
    """Return the ending of a name, with its point and in lower case."""
    return PurePosixPath(path.lower()).suffix


def is_code(path: str) -> bool:
    """Whether a file is code that Python imports or loads."""
    return ending_of(path) in CODE


def is_named_as_pickle(path: str) -> bool:
    """Whether a file is a pickle by its name, so that loading it may run what it holds.

    `.bin` is not among the endings: half of such files are none (OpenVINO, CTranslate2, fastText).
    """
    return ending_of(path) in PICKLES


def is_for_other_programs(path: str) -> bool:
    """Whether a published file is for another program: weights in another format than safetensors, OpenVINO's `.xml`.

    sentence-transformers opens such a file only if its `backend` is set; a pickle that it loads has been converted.
    """
    return ending_of(path) in OTHER_WEIGHTS or is_openvino(path)


def is_openvino(path: str) -> bool:
    """Whether a file describes a model for OpenVINO."""
    return ending_of(path) == ".xml" and path.rpartition("/")[2].startswith("openvino")
