"""Files that another program is known to want, and that the loaders do not open. Rules only.

They are left behind, and a note says so in one line, with the key of models.toml that ships them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from modelcache.core.file_types import is_openvino
from modelcache.core.text import join_names
from modelcache.resolver.included import include_line

# FlagEmbedding's runner of bge-m3 makes new random heads where these are not there, and logs it at INFO.
_HEADS = ("colbert_linear.pt", "sparse_linear.pt")
_ONNX, _OPENVINO = ".onnx", ".xml"
_DATA = ("_data", ".data")
"""Endings of the file with the numbers of an ONNX file that is larger than 2 GB."""


def left_behind(paths: Collection[str], shipped: Collection[str], include: Iterable[str] = ()) -> Iterator[str]:
    """Yield a note on the files of a repository that are left behind, if there are any; its line ships one set of each.

    Half a set is noted, too: an ONNX file without the file that has its numbers. `include` is what the table names now.
    """
    heads = [path for path in _HEADS if path in paths and path not in shipped]
    models = sorted(filter(_is_model, paths), key=_plainest)
    there = [path for path in models if path in shipped]
    lacking = [part for path in there for part in _set_of(path, paths) if part not in shipped]
    first = _set_of(models[0], paths) if models and not there else []
    if to_ship := [*heads, *lacking, *first]:
        left = [*heads, *lacking, *(models if first else ())]
        names = join_names(left, 2 if len(left) == 2 else 1)
        yield f"left behind: {names}; to ship: {include_line([*include, *to_ship])}"


def _is_model(path: str) -> bool:
    """Whether this is an ONNX file, or the description of an OpenVINO model."""
    return path.endswith(_ONNX) or is_openvino(path)


def _plainest(path: str) -> tuple[bool, int, str]:
    """Sort ONNX files first, and a file without a name of its own, such as `onnx/model.onnx`, before its variants."""
    return not path.endswith(_ONNX), len(path), path


def _set_of(path: str, paths: Collection[str]) -> list[str]:
    """Return a file with those that belong to it."""
    beside = [f"{path}{ending}" for ending in _DATA] if path.endswith(_ONNX) else [f"{path[: -len(_OPENVINO)]}.bin"]
    return [path, *(one for one in beside if one in paths)]
