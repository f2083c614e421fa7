"""Which files of a repository a sentence-transformers model consists of. Rules only; no network, no disk.

The rule follows what the loaders open: sentence_transformers/base/model.py and base/modules/*.py for
modules and their folders, transformers/modeling_utils.py for the preference among weight formats
(model.safetensors, then its index and shards, then pickles). Everything beside it stays behind: second
weight formats, ONNX and OpenVINO sets, training state, images.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from modelcache.errors import PolicyError
from modelcache.layout import refuse_unsafe_paths
from modelcache.records import Kind, ListedFile, RemoteCode, WantedModel

# Files that lie beside a model and are no part of it, by the end of their names.
_WEIGHTS = """
    bin safetensors h5 msgpack ot onnx onnx_data gguf ggml pt pth ckpt pb tflite mlmodel npz npy pkl pickle joblib
    params nemo
"""
_DATA = "csv tsv jsonl parquet arrow db sqlite gz zip tar xz zst 7z log ipynb pdf lock"
_MEDIA = "png jpg jpeg gif svg webp ico bmp mp3 wav mp4 webm"
_NOT_SHIPPED = frozenset(f".{ending}" for ending in f"{_WEIGHTS} {_DATA} {_MEDIA}".split())

_CODE_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
)
# sentence_transformers/base/modules: what routes to other modules, and what cannot load without weights.
_ROUTERS = ("Router", "Asym")
_WITH_WEIGHTS = ("Transformer", "Dense", "StaticEmbedding", "LSTM", "CNN", "LayerNorm", "WeightedLayerPooling")
_MOST_MODULES = 256
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHER_FORMATS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is shipped of a repository, sorted by path."""

    files: tuple[ListedFile, ...]
    remote_code: RemoteCode


def choose(wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> Choice:
    """Choose the files to ship; `read` gives the content of a small file, and is asked for shipped ones only.

    Raises:
        PolicyError: with every reason for which this model is not shipped, and the way out.

    """
    refuse_unsafe_paths(wanted.id, (file.path for file in listing))
    return _Chooser(wanted, listing, read).choose()


class _Chooser:
    def __init__(self, wanted: WantedModel, listing: Sequence[ListedFile], read: Callable[[ListedFile], bytes]) -> None:
        self.wanted = wanted
        self.files = {file.path: file for file in listing}
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            self.by_folder[path.rpartition("/")[0]].append(path)
        self.refused: list[str] = []
        self.code: list[str] = []
        self.needs_code = False
        self.module_folders: set[str] = set()
        self.weighty: set[str] = set()
        self._read = read
        self._documents: dict[str, Mapping[str, Any]] = {}

    def choose(self) -> Choice:
        folders, modules = self.folders(), self.module_folders
        if self.wanted.kind is Kind.EMBEDDING and "modules.json" not in self.files:
            self.refuse(
                "it has no modules.json, so nothing says how its vectors are pooled",
                "use a repository that sentence-transformers saved",
            )
        kept = {path for folder in folders for path in self.small_files(folder)}
        weights = [path for folder in folders if folder in modules for path in self.weights(folder)]
        if not weights and not self.refused:
            self.refuse_other_formats()
        self.look_for_code(folders)
        if self.refused:
            raise PolicyError(f"{self.wanted.id} is not shipped:\n  " + "\n  ".join(self.refused))
        return Choice(
            files=tuple(self.files[path] for path in sorted(kept | set(weights))),
            remote_code=RemoteCode.OMITTED if self.code else RemoteCode.NONE,
        )

    def folders(self) -> list[str]:
        """Return the folder of every module, the root (``""``) first; Routers hold modules of their own."""
        found = [""]
        found += [
            self.module_at(str(module.get("path") or ""), str(module.get("type", "")), "modules.json")
            for module in self.modules("modules.json")
        ]
        if len(found) == 1:
            self.module_folders.add("")  # no modules.json: the root is the one module
        for folder in found:  # grows while it is walked: a Router's route may be a Router again
            routes = self.document(_join(folder, "router_config.json")) or self.document(_join(folder, "config.json"))
            types = routes.get("types")
            for name, module_type in types.items() if isinstance(types, dict) else ():
                path = self.module_at(_join(folder, str(name)), str(module_type), _join(folder, "router_config.json"))
                if path not in found and len(found) <= _MOST_MODULES:
                    found.append(path)
        if len(found) > _MOST_MODULES:
            self.refuse(f"it has more than {_MOST_MODULES} modules", "that is no model")
        return list(dict.fromkeys(found))[:_MOST_MODULES]

    def modules(self, path: str) -> Iterator[Mapping[str, Any]]:
        document = self.document(path)
        entries = document.get("entries", ())
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield entry

    def module_at(self, folder: str, module_type: str, path: str) -> str:
        """Note a module that `path` names, and return its folder; a Router itself has no weights."""
        folder, name = folder.strip("/"), module_type.rpartition(".")[2]
        self.look_at_type(module_type, path)
        if name not in _ROUTERS:
            self.module_folders.add(folder)
        if name in _WITH_WEIGHTS:
            self.weighty.add(folder)
        return folder

    def look_at_type(self, module_type: str, path: str) -> None:
        if module_type.startswith("sentence_transformers.sparse_encoder."):
            self.refuse("it is a sparse encoder", "only dense embedding models and cross-encoders are cached")
        elif not module_type.startswith("sentence_transformers."):
            self.code.append(f"{path} names {module_type}")
            self.needs_code = True

    def small_files(self, folder: str) -> Iterator[str]:
        """Yield configurations, tokenizer files, the card and the licence: what is directly in the folder."""
        for path in self.by_folder[folder] + self.by_folder[_join(folder, "additional_chat_templates")]:
            name = PurePosixPath(path).name
            # Code is shipped only when a configuration names it; training scripts are nobody's business.
            if name.startswith(".") or name.endswith((".py", ".index.json")):
                continue
            if PurePosixPath(name.lower()).suffix not in _NOT_SHIPPED:
                yield path

    def weights(self, folder: str) -> Iterator[str]:
        """Yield the weight files of one module, by the loaders' own order of preference."""
        if _join(folder, "adapter_config.json") in self.files:
            self.refuse(
                "it is a PEFT adapter, which loads its base model from elsewhere", "merge it into the base model"
            )
            return
        config = self.document(_join(folder, "config.json"))
        named = config.get("transformers_weights")
        for name in (str(named),) if named else ("model.safetensors", "model.safetensors.index.json"):
            path = _join(folder, name)
            if path in self.files and name.endswith((".safetensors", ".safetensors.index.json")):
                yield path
                if name.endswith(".index.json"):
                    yield from self.shards(folder, path)
                return
        if named:
            self.refuse(
                f"{_join(folder, 'config.json')} names {named} as its weights, which is no safetensors file here",
                "use a repository or a revision with model.safetensors",
            )
            return
        if pickled := [name for name in _PICKLES if _join(folder, name) in self.files]:
            self.refuse(
                f"its weights are only in {_join(folder, pickled[0])}, a pickle, and loading one can run any code",
                "ask the owner for safetensors, or use a revision that has them",
            )
        elif ("model_type" in config and "architectures" in config) or folder in self.weighty:
            self.refuse_other_formats(folder)

    def shards(self, folder: str, index: str) -> Iterator[str]:
        weight_map = self.document(index).get("weight_map")
        shards = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
        if not shards:
            self.refuse(f"{index} names no shards", "tell the owner that the repository is broken")
        for shard in sorted(shards):
            path = _join(folder, shard)
            if path in self.files and path.endswith(".safetensors"):
                yield path
            else:
                self.refuse(f"{index} names {path}, which is not there", "tell the owner that the repository is broken")

    def refuse_other_formats(self, folder: str = "") -> None:
        others = [path for path in self.files if path.startswith(folder) and path.endswith(_OTHER_FORMATS)]
        beside = f"; it has {', '.join(sorted(others)[:3])}" if others else ""
        self.refuse(
            f"it has no safetensors weights in {folder or 'its root'}{beside}",
            "use a repository or a revision with model.safetensors",
        )

    def look_for_code(self, folders: Sequence[str]) -> None:
        for folder in folders:
            for name in _CODE_CONFIGS:
                path = _join(folder, name)
                if auto_map := self.document(path).get("auto_map"):
                    self.code.append(f"{path} names {_first(auto_map)}")
        if not self.code or (self.wanted.trust_remote_code is False and not self.needs_code):
            return
        told = "; ".join(dict.fromkeys(self.code))
        self.refuse(
            f"it asks to run code of its own ({told})",
            "read that code; if the installed transformers has the class itself, set trust_remote_code = false to ship"
            " the model without it; code itself is not shipped yet",
        )

    def refuse(self, reason: str, way_out: str) -> None:
        line = f"{reason}: {way_out}"
        if line not in self.refused:
            self.refused.append(line)

    def document(self, path: str) -> Mapping[str, Any]:
        """Return a JSON file as a mapping (a list under "entries"); empty where the repository has none."""
        if path not in self.files:
            return {}
        if path not in self._documents:
            text = self._read(self.files[path])
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                self.refuse(f"{path} is not JSON", "tell the owner that the repository is broken")
                content = {}
            self._documents[path] = content if isinstance(content, dict) else {"entries": content}
        return self._documents[path]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _first(auto_map: object) -> str:
    while isinstance(auto_map, dict | list) and auto_map:
        auto_map = next(iter(auto_map.values() if isinstance(auto_map, dict) else auto_map))
    return str(auto_map)
